"""The body of `POST /v1/chat/completions`, checked, and the job that it asks for."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, FailFast, Field, field_validator

from mmalign.messages import ImageSlot, Message, Text
from mmalign.steering import SCALE

from ...messages import Conversation, Job
from ..errors import ApiError
from ..frontend import Frontend
from ..media import picture_bytes_of
from .body import Body, GenerationRequest, Neutral, Unicode, check_length

MAX_MESSAGES = 1000
MAX_PARTS = 200
MAX_TOP_LOGPROBS = 20  # OpenAI's limit


class TextPart(Body):
    """Text in a message."""

    type: Literal["text"]
    text: Unicode


class ImageUrl(Body):
    """A picture as a data URL."""

    url: str
    """`data:image/png;base64,...`, or `jpeg`, `webp`. Nothing is fetched."""
    detail: Literal["auto", "low", "high"] = "auto"
    """Taken and without effect: LLaVA-1.5 sees every picture at one size."""


def _bare_url(value: Any) -> Any:
    return {"url": value} if isinstance(value, str) else value


def _text_is_one_part(content: Any) -> Any:
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


class ImagePart(Body):
    """A picture in a message."""

    type: Literal["image_url"]
    image_url: Annotated[ImageUrl, BeforeValidator(_bare_url, json_schema_input_type=ImageUrl | str)]


Part = Annotated[TextPart | ImagePart, Field(discriminator="type")]


class ChatMessage(Body):
    """One turn."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Annotated[
        list[Part],
        Field(max_length=MAX_PARTS),
        FailFast(),
        BeforeValidator(_text_is_one_part, json_schema_input_type=str | list[Part]),
    ]
    """A text, or parts; only the user shows pictures."""


Rating = Annotated[int, Field(ge=SCALE[0], le=SCALE[1])]


class AttributeRequest(Body):
    """What a SteerLM model is asked for; what is left out is as `/v1/models` says."""

    helpfulness: Rating | None = None
    correctness: Rating | None = None
    coherence: Rating | None = None
    complexity: Rating | None = None
    verbosity: Rating | None = None


class TextFormat(Body):
    """Plain text."""

    type: Literal["text"]


class ChatRequest(GenerationRequest):
    """A request for `n` answers to a conversation."""

    messages: Annotated[list[ChatMessage], FailFast()] = Field(min_length=1, max_length=MAX_MESSAGES)
    """An optional system turn, then user and assistant in turns. An assistant turn at the very end is the opening of
    the answer, which goes on from there."""
    max_completion_tokens: int | None = Field(None, ge=1)
    max_tokens: int | None = Field(None, ge=1)
    """The old name of `max_completion_tokens`."""
    logprobs: bool = False
    """Tell the log-probability of every token written."""
    top_logprobs: int | None = Field(None, ge=0, le=MAX_TOP_LOGPROBS)
    """How many of the likeliest tokens are told at every place; needs `logprobs`."""
    attributes: AttributeRequest | None = None
    """Of a SteerLM model: what is asked of the answer, each from 0 to 4."""

    metadata: Neutral[dict[str, str]] = None
    safety_identifier: Neutral[str] = None
    prompt_cache_key: Neutral[str] = None
    prompt_cache_retention: Neutral[str] = None
    parallel_tool_calls: Neutral[bool] = None
    store: Neutral[Literal[False]] = None
    service_tier: Neutral[Literal["auto", "default"]] = None
    modalities: Neutral[Annotated[list[Literal["text"]], Field(max_length=1)]] = None
    response_format: Neutral[TextFormat] = None
    reasoning_effort: Neutral[Literal["none"]] = None
    verbosity: Neutral[Literal["medium"]] = None
    tools: Neutral[Annotated[list[str], Field(max_length=0)]] = None
    tool_choice: Neutral[Literal["none", "auto"]] = None
    functions: Neutral[Annotated[list[str], Field(max_length=0)]] = None
    function_call: Neutral[Literal["none", "auto"]] = None

    @field_validator("max_tokens")
    @classmethod
    def _one_limit(cls, limit: int | None, seen: Any) -> int | None:
        if seen.data.get("max_completion_tokens") not in (None, limit):
            raise ValueError("differs from max_completion_tokens; give one of them")
        return limit

    @field_validator("top_logprobs")
    @classmethod
    def _top_of_something(cls, number: int | None, seen: Any) -> int | None:
        if number and not seen.data.get("logprobs"):
            raise ValueError("this needs logprobs: true")
        return number

    @field_validator("messages")
    @classmethod
    def _turns_alternate(cls, messages: list[ChatMessage]) -> list[ChatMessage]:
        roles = [message.role for message in messages]
        turns = roles[1:] if roles[0] in ("system", "developer") else roles
        if not turns or turns != (["user", "assistant"] * len(turns))[: len(turns)]:
            raise ValueError(
                "after at most one system message, user and assistant must alternate, "
                f"beginning with the user; these are {', '.join(roles[:20])}"
            )
        return messages

    @property
    def has_pictures(self) -> bool:
        """Whether reading it takes a while."""
        return any(isinstance(part, ImagePart) for message in self.messages for part in message.content)


def chat_job(request: ChatRequest, front: Frontend) -> Job:
    """What the worker is asked for; the pictures are decoded once to prove them.

    Raises:
        ApiError: Too many pictures, tokens or answers, a picture that is none, or attributes for a model that has none.
    """
    limit = request.max_tokens if request.max_completion_tokens is None else request.max_completion_tokens
    request.check_limits(front.settings, limit, "max_tokens" if request.max_tokens else "max_completion_tokens")
    texts = [part.text for message in request.messages for part in message.content if isinstance(part, TextPart)]
    check_length(front, sum(map(len, texts)), "messages")
    return Job(
        model=request.model,
        prompt=Conversation(
            messages=tuple(_message(message) for message in request.messages),
            pictures=_pictures(request, front.settings.max_images),
            attributes=_attributes(request, front),
        ),
        seeds=request.seeds(),
        max_new_tokens=limit,
        temperature=request.temperature,
        top_p=request.top_p,
        stop=tuple(request.stop),
        top_logprobs=(request.top_logprobs or 0) if request.logprobs else None,
    )


def _attributes(request: ChatRequest, front: Frontend) -> dict[str, int] | None:
    asked = {} if request.attributes is None else request.attributes.model_dump(exclude_none=True)
    model = front.link.models.get(request.model)
    steered = model is not None and model.attributes is not None
    if asked and not steered:
        raise ApiError(
            400,
            "This model was not trained to be steered by attributes; /v1/models says which were. Leave them out.",
            param="attributes",
        )
    if steered and request.messages[-1].role == "assistant":
        raise ApiError(
            400,
            "A steered model writes its answer from the beginning: the last turn must be the user's.",
            param="messages",
        )
    return asked or None


def _pictures(request: ChatRequest, max_images: int) -> tuple[bytes, ...]:
    """Every picture, in order; only the user shows pictures."""
    urls = []
    for i, message in enumerate(request.messages):
        for j, part in enumerate(message.content):
            if isinstance(part, ImagePart):
                if message.role != "user":
                    raise ApiError(400, f"messages.{i}: only user turns can hold pictures.", param="messages")
                urls.append((f"messages.{i}.content.{j}", part.image_url.url))
    if len(urls) > max_images:
        raise ApiError(400, f"At most {max_images} pictures a request are taken, not {len(urls)}.", param="messages")
    try:
        return picture_bytes_of(urls)
    except ValueError as error:
        raise ApiError(400, str(error), param="messages", code="invalid_image") from error


def _message(message: ChatMessage) -> Message:
    role = "system" if message.role == "developer" else message.role
    return Message(role, tuple(Text(p.text) if isinstance(p, TextPart) else ImageSlot() for p in message.content))
