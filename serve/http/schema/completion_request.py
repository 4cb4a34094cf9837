"""The body of `POST /v1/completions`, checked, and the jobs that it asks for: one a prompt."""

from typing import Annotated, Any, Literal

from pydantic import Field, PlainValidator, field_validator

from ...messages import Job, Raw
from ..frontend import Frontend
from .body import GenerationRequest, Neutral, check_length, check_unicode

MAX_PROMPTS = 64
MAX_TOKENS = 2**17  # in one prompt; beyond any context, the exact limit is the model's
MAX_LOGPROBS = 5  # OpenAI's limit
DEFAULT_MAX_TOKENS = 16  # OpenAI's

TokenIds = Annotated[list[Annotated[int, Field(ge=0, lt=2**31)]], Field(min_length=1, max_length=MAX_TOKENS)]
Prompt = (
    str
    | Annotated[list[str], Field(min_length=1, max_length=MAX_PROMPTS)]
    | TokenIds
    | Annotated[list[TokenIds], Field(min_length=1, max_length=MAX_PROMPTS)]
)
"""As it is described to clients; `_prompts` checks it, since a union complains about each of its forms."""


def _prompts(prompt: Any) -> tuple[Raw, ...]:
    if isinstance(prompt, str):
        prompt = [prompt]
    if isinstance(prompt, list) and prompt:
        if isinstance(prompt[0], int):
            prompt = [prompt]
        if len(prompt) > MAX_PROMPTS:
            raise ValueError(f"at most {MAX_PROMPTS} prompts a request are taken, not {len(prompt)}")
        if all(isinstance(text, str) for text in prompt):
            return tuple(Raw(text=check_unicode(text)) for text in prompt)
        if all(isinstance(ids, list) for ids in prompt):
            return tuple(Raw(input_ids=_token_ids(ids)) for ids in prompt)
    raise ValueError("give a text, a list of texts, a list of tokens, or a list of such lists")


def _token_ids(ids: list[Any]) -> tuple[int, ...]:
    if not 0 < len(ids) <= MAX_TOKENS:
        raise ValueError(f"a list of tokens holds 1 to {MAX_TOKENS}, not {len(ids)}")
    if not all(type(token) is int and 0 <= token < 2**31 for token in ids):
        raise ValueError("tokens are whole numbers from 0")
    return tuple(ids)


class CompletionRequest(GenerationRequest):
    """A request for `n` continuations of each prompt, as it is: no template, no picture."""

    prompt: Annotated[tuple[Raw, ...], PlainValidator(_prompts, json_schema_input_type=Prompt)]
    """A text is read behind the begin token; tokens are taken exactly as they are."""
    echo: bool = False
    """Give the prompt back before its continuation, with `logprobs` also its tokens."""
    max_tokens: int = Field(DEFAULT_MAX_TOKENS, ge=0)
    """0 with `echo`: the prompt is scored and nothing written."""
    logprobs: int | None = Field(None, ge=0, le=MAX_LOGPROBS)
    """Tell the log-probability of every token, and those of this many likeliest."""

    best_of: int | None = Field(None, ge=1)
    suffix: Neutral[Literal[""]] = None

    @field_validator("best_of")
    @classmethod
    def _best_of_all(cls, best_of: int | None, seen: Any) -> int | None:
        if best_of not in (None, seen.data.get("n")):
            raise ValueError("only n is taken here; leave it out")
        return best_of

    @field_validator("max_tokens")
    @classmethod
    def _something_to_do(cls, limit: int, seen: Any) -> int:
        if limit == 0 and not seen.data.get("echo"):
            raise ValueError("0 asks for nothing but an echo; set echo: true")
        return limit


def completion_jobs(request: CompletionRequest, front: Frontend) -> tuple[Job, ...]:
    """What the worker is asked for, one job a prompt; what a prompt is answered does not depend on the others.

    Raises:
        ApiError: Too many tokens or answers, or a prompt beyond the context.
    """
    request.check_limits(front.settings, request.max_tokens, "max_tokens")
    check_length(front, max(len(prompt.text or "") for prompt in request.prompt), "prompt")
    seeds = request.seeds()
    return tuple(
        Job(
            model=request.model,
            prompt=prompt,
            seeds=seeds,
            max_new_tokens=request.max_tokens,
            temperature=request.temperature,
            top_p=request.top_p,
            stop=tuple(request.stop),
            top_logprobs=request.logprobs,
            echo=request.echo,
        )
        for prompt in request.prompt
    )
