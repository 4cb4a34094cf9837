"""What a client reads, in OpenAI's words: `wire` builds these, and `/openapi.json` describes them."""

from typing import Literal, NotRequired

from typing_extensions import TypedDict  # pydantic asks for it below Python 3.12

FinishReason = Literal["stop", "length"]


class Usage(TypedDict):
    """Tokens read once and written for every choice, the end tokens among them."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class LikelyToken(TypedDict):
    """One of the likeliest tokens at a place."""

    token: str
    bytes: list[int]
    logprob: float


class WrittenToken(LikelyToken):
    """A token of an answer."""

    top_logprobs: list[LikelyToken]


class ChatLogprobs(TypedDict):
    """Of every token, the end token among them."""

    content: list[WrittenToken]
    refusal: None


class AssistantMessage(TypedDict):
    """An answer; it can be sent back as it is."""

    role: Literal["assistant"]
    content: str
    refusal: None


class ChatChoice(TypedDict):
    """One of `n` answers."""

    index: int
    message: AssistantMessage
    logprobs: ChatLogprobs | None
    finish_reason: FinishReason


class ChatCompletion(TypedDict):
    """The answers to a conversation."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage


class Delta(TypedDict):
    """What has come."""

    role: NotRequired[Literal["assistant"]]
    content: NotRequired[str]


class ChunkChoice(TypedDict):
    """A stretch of one answer."""

    index: int
    delta: Delta
    logprobs: ChatLogprobs | None
    finish_reason: FinishReason | None


class ChatChunk(TypedDict):
    """One event of a stream."""

    id: str
    object: Literal["chat.completion.chunk"]
    created: int
    model: str
    choices: list[ChunkChoice]
    usage: NotRequired[Usage | None]


class CompletionLogprobs(TypedDict):
    """Of every token, that of the prompt first with `echo`; nothing is known of a prompt's first token."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]


class CompletionChoice(TypedDict):
    """One continuation of one prompt; in a stream, a stretch of it."""

    index: int
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: FinishReason | None


class Completion(TypedDict):
    """Continuations, those of the first prompt first; each event of a stream has this form, too."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: NotRequired[Usage | None]


class ModelExtras(TypedDict):
    """What OpenAI has no field for."""

    adapter: bool
    """Whether it is an adapter on the base."""
    attributes: dict[str, list[int]] | None
    """Of a SteerLM model: the lowest and the highest value of each."""
    default_attributes: dict[str, int] | None
    """What is asked for where a request says nothing."""
    context: int | None
    """Tokens that prompt and answer may have together; null while the model is being loaded."""


class Model(TypedDict):
    """A model that can be asked for."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    mmalign: ModelExtras


class ModelList(TypedDict):
    """All that are served, the base first."""

    object: Literal["list"]
    data: list[Model]
