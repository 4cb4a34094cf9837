"""Who replies to judge calls: a model behind an OpenAI-compatible address, or judgments that somebody has stored.

    EndpointGrader(Endpoint(model="gpt-4-0613"), Path("judged/replies"))       asks, tries again, pays once
    ReplayGrader(read_runs(bench, "gpt-4-grade-3runs.json")[0])                 asks nobody

Tests   tests/evaluation/steps/test_graders.py, test_judging.py, tests/faults/test_evaluating.py
"""

import asyncio
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mmalign.api.client import Client
from mmalign.api.endpoint import Endpoint
from mmalign.api.faults import RequestError, UnansweredError, plain
from mmalign.api.request import Request
from mmalign.api.usage import Usage
from mmalign.evaluation.steps.benchmark import JudgeCall
from mmalign.evaluation.steps.faults import DOUBLY_JUDGED, NO_REPLY
from mmalign.evaluation.steps.judging import Done
from mmalign.evaluation.steps.records import JudgeReply, prompt_hash
from mmalign.sampling.asking import refusal

NOT_THIS_CALL = (400, 413, 422)
"""How a server refuses one prompt: longer than its context, or for its content."""
REFUSED_AT_FIRST = 8
"""So many refused calls before any was taken: it is not the calls."""
NOT_STORED = "no stored judgment"
HASH_DIGITS = 16


@dataclass
class EndpointGrader:
    """Asks a model; what cannot be used is asked again as often as the benchmark's rule says."""

    endpoint: Endpoint
    replies: Path
    """Folder of what was paid for."""
    temperature: float | None = None
    """Of every try; None: as the benchmark's rule has it."""
    max_tokens: int | None = None
    """Of a reply; None: as the benchmark's rule has it."""
    first_wait_s: float = 1.0
    """See `Client`."""
    usage: Usage = field(default_factory=Usage)
    """Of all that it graded."""
    num_cut: int = 0
    """Replies that ended at the token limit and could not be used."""
    _num_refused: int = 0

    @property
    def name(self) -> str:
        """As it is asked for."""
        return self.endpoint.model

    @property
    def identity(self) -> Mapping[str, str]:
        """Model, address, and what departs from the rule."""
        chosen = {"temperature": self.temperature, "max_tokens": self.max_tokens}
        return self.endpoint.identity() | {
            name: f"{value:g}" if value is not None else "by the rule" for name, value in chosen.items()
        }

    def grade(self, calls: Sequence[JudgeCall], is_usable: Callable[[str], bool], done: Done, *, run: int = 0) -> None:
        """Ask for all of them, many at a time; see `Grader`.

        Raises:
            RequestError: The server refuses; which call, and what to do.
            SpendLimitError, ServerDownError: See `Client.ask`. What was paid for is kept.
        """
        asyncio.run(self._grade(calls, is_usable, done, run))

    async def _grade(self, calls: Sequence[JudgeCall], is_usable: Callable[[str], bool], done: Done, run: int) -> None:
        client = Client(self.endpoint, self.replies, first_wait_s=self.first_wait_s, one_by_one=NOT_THIS_CALL)
        client.usage = self.usage  # of all runs together
        async with client:

            async def one(call: JudgeCall) -> None:
                done([await self._reply(client, call, is_usable, run)])

            await client.each(calls, one)

    async def _reply(self, client: Client, call: JudgeCall, is_usable: Callable[[str], bool], run: int) -> JudgeReply:
        """What comes of one call, with its following tries."""
        tries = (call, *call.then)
        texts = list[str]()
        said = JudgeReply(call.id, "", prompt_hash=prompt_hash(call.messages()))
        for number, each in enumerate(tries):
            temperature = float(each.temperature if self.temperature is None else self.temperature)
            request = Request(_sent(each), max_tokens=self.max_tokens or each.max_tokens, temperature=temperature)
            said = said._replace(temperature=temperature, tries=tuple(texts))
            try:
                reply = await client.ask(request, attempt=run * len(tries) + number)
            except UnansweredError as error:
                return said._replace(text="", failure=f"{NO_REPLY} {str(error).removeprefix('no reply ')}")
            except RequestError as error:
                return said._replace(text="", failure=self._refused(call, error))
            said = said._replace(text=reply.text, judge=plain(reply.model) or self.name, failure=refusal(reply))
            if is_usable(reply.text):
                break
            self.num_cut += reply.finish_reason == "length"
            texts.append(reply.text)
        return said

    def _refused(self, call: JudgeCall, error: RequestError) -> str:
        """Why the server does not take one call.

        Raises:
            RequestError: It is not this call: it takes none.
        """
        self._num_refused += 1
        takes_none = self._num_refused >= REFUSED_AT_FIRST and not self.usage.replies
        if error.status not in NOT_THIS_CALL or takes_none:
            raise RequestError(f"judge call {call.id!r}: {error}", error.status) from None
        return f"refused: {error}"


class ReplayGrader:
    """Gives stored judgments again: by the prompt, or by the call's id where the file has no prompts."""

    def __init__(self, stored: Sequence[JudgeReply]) -> None:
        """Sort them.

        Args:
            stored: Of one run.
        """
        self._by_prompt, self._by_id = dict[str, list[JudgeReply]](), dict[str, list[JudgeReply]]()
        for reply in stored:
            place = (self._by_prompt, reply.prompt_hash) if reply.prompt_hash else (self._by_id, reply.id)
            place[0].setdefault(place[1], []).append(reply)
        judges = dict.fromkeys(plain(reply.judge) or "an unnamed judge" for reply in stored if not reply.failure)
        self.name = f"stored judgments of {', '.join(judges) or 'nobody'}"
        whole = json.dumps([list(reply) for reply in stored])
        self.identity: Mapping[str, str] = {"replay": hashlib.sha256(whole.encode()).hexdigest()[:HASH_DIGITS]}

    def grade(self, calls: Sequence[JudgeCall], is_usable: Callable[[str], bool], done: Done, *, run: int = 0) -> None:
        """Look all of them up; see `Grader`. Stored ones have had their tries."""
        done([self._found(call) for call in calls])

    def _found(self, call: JudgeCall) -> JudgeReply:
        digest = prompt_hash(call.messages())
        found = self._by_prompt.get(digest) or self._by_id.get(call.id, [])
        found = [reply for reply in found if reply.id == call.id] or found[:1]  # another answer, in the same words
        if len(found) == 1:
            return _clean(found[0])._replace(id=call.id)
        return JudgeReply(call.id, "", prompt_hash=digest, failure=DOUBLY_JUDGED if found else NOT_STORED)


def _sent(call: JudgeCall) -> list[dict[str, str]]:
    return [{"role": each["role"], "content": _whole(each["content"])} for each in call.messages()]


def _clean(reply: JudgeReply) -> JudgeReply:
    """As it can be written, whoever has stored it."""
    return reply._replace(
        text=_whole(reply.text),
        judge=plain(reply.judge),
        tries=tuple(map(_whole, reply.tries)),
        failure=plain(reply.failure),
    )


def _whole(text: str) -> str:
    """A text that can be sent and written: half a surrogate pair, which JSON can spell, becomes a question mark."""
    return text.encode("utf-8", "replace").decode()
