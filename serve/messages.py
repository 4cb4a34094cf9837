"""What the HTTP process and the worker say to each other: jobs one way, events of answers the other. Free of torch.

    HTTP    ── Job, Cancel, AddAdapter, RemoveAdapter ──>  worker     each under an id, through LitServe's request queue
    worker  ── Hello, then a Report after every step ────>  HTTP      through LitServe's transport

Both ways a message carries the worker's `WorkerId`: what was said to or by one that has died means nothing any more.
Of every job come `Begun`, then pieces, then `Ended`; or `Failed` at any point. Nothing follows either of the last two.
An adapter that is added or removed answers with `Ended` or `Failed`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from mmalign.messages import Message

CHANNEL = "worker"
"""Under this id of LitServe's response buffer all reports of the worker arrive."""
BASE = "base"
"""The served name of the model without an adapter."""


@dataclass(frozen=True, kw_only=True)
class Conversation:
    """A prompt in turns, with pictures."""

    messages: tuple[Message, ...]
    pictures: tuple[bytes, ...] = ()
    """Encoded pictures in the order of the messages' image slots; each has been decoded once, so it decodes."""
    attributes: Mapping[str, int] | None = None
    """What a SteerLM model is asked for, instead of what its export says."""


@dataclass(frozen=True, kw_only=True)
class Raw:
    """A prompt as it is: no template, no picture."""

    text: str | None = None
    """Read behind the begin token; in it a special token is text, too."""
    input_ids: tuple[int, ...] = ()
    """Where there is no text: exactly these."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """The answers to one prompt: read once, written `len(seeds)` times."""

    model: str
    """`base` or the name of an adapter."""
    prompt: Conversation | Raw
    seeds: tuple[int, ...]
    """One an answer."""
    max_new_tokens: int | None = None
    """None: as many as the server allows and the context has room for. 0: none, to have the prompt scored."""
    temperature: float = 1.0
    top_p: float = 1.0
    stop: tuple[str, ...] = ()
    top_logprobs: int | None = None
    """How many of the likeliest tokens are told at every place, with their log-probabilities; None tells nothing."""
    echo: bool = False
    """Tell the tokens of the prompt, too."""


class Cancel(NamedTuple):
    """Nobody waits for this job any more; nothing answers this."""


class AddAdapter(NamedTuple):
    """Load an adapter."""

    name: str
    folder: Path


class RemoveAdapter(NamedTuple):
    """Forget an adapter, once no answer needs it."""

    name: str


Order = Job | Cancel | AddAdapter | RemoveAdapter


class TokenLogprob(NamedTuple):
    """A token and how likely the model held it, before temperature and top-p; natural logarithm."""

    text: str
    bytes: bytes
    """`text` may be half a character; these are its bytes."""
    logprob: float | None
    """None for the first token of a prompt, of which nothing is known."""
    top: tuple["TokenLogprob", ...] = ()
    """The likeliest at this place, likeliest first."""


class Begun(NamedTuple):
    """The prompt has been read."""

    prompt_tokens: int
    echoed: tuple[TokenLogprob, ...] = ()
    """With `Job.echo` and `Job.top_logprobs`: every token of the prompt."""
    echoed_text: str = ""
    """With `Job.echo`: the prompt."""


class Piece(NamedTuple):
    """A stretch of one answer; its last one says why it ended."""

    choice: int
    text: str
    tokens: tuple[TokenLogprob, ...] = ()
    """With `Job.top_logprobs`: the tokens that came since the last piece."""
    finish_reason: str | None = None
    """`stop` after the end token or a stop string, `length` at a limit; None while the answer goes on."""
    num_tokens: int = 0
    """Of the answer so far, the end token among them."""


class Failed(NamedTuple):
    """An error that the client is told, in words of ours."""

    status: int
    message: str
    param: str | None = None
    code: str | None = None


class Ended(NamedTuple):
    """All answers of a job are whole."""


Event = Begun | Piece | Failed | Ended


class ServedModel(NamedTuple):
    """What `/v1/models` says of a model."""

    name: str
    attributes: Mapping[str, int] | None = None
    """Of a SteerLM model: what it is asked for unless a request says otherwise."""


class WorkerId(NamedTuple):
    """A process; no two in the life of a machine have the same."""

    pid: int
    start: int
    """When it was started, in the kernel's ticks: a pid is used again some day."""

    @classmethod
    def of(cls, pid: int) -> "WorkerId | None":
        """The process that has this pid now, ended or not; None if there is none."""
        try:
            stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        except (FileNotFoundError, ProcessLookupError):
            return None
        return cls(pid, int(stat.rpartition(")")[2].split()[19]))  # field 22; the name before may hold spaces


class Hello(NamedTuple):
    """A worker is ready."""

    pid: int
    models: tuple[ServedModel, ...]
    context: int
    """Tokens that prompt and answer may have together."""


class Report(NamedTuple):
    """What happened in one step of the worker."""

    events: tuple[tuple[str, Event], ...]
    """Each with the id of its job."""
    running: int
    """Answers being written."""
    waiting: int
    """Jobs that have not begun."""
    models: tuple[ServedModel, ...] | None = None
    """All that are served now, where that has changed."""
