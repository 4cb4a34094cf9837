"""The body of `POST /v1/chat/completions`, checked: every field is obeyed, or refused by name.

OpenAI's fields that do nothing here are taken at the values that change nothing (`user`, `frequency_penalty: 0`), and a
null is the field left out. Any other unknown field is an error: a setting that is silently ignored is a bug.
"""

import secrets
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from mmalign.messages import ImageSlot, Message, Text

from .errors import ApiError
from .job import Job
from .media import picture_bytes

MAX_CHOICES = 4
MAX_STOPS = 4  # OpenAI's limit
MAX_TEMPERATURE = 2.0  # OpenAI's limit
SEEDS = 2**63

_ANYTHING = object()
NEUTRAL: dict[str, Sequence[Any] | object] = {
    # Labels and hints for OpenAI's own service: no value changes an answer.
    **dict.fromkeys(("user", "metadata", "safety_identifier", "prompt_cache_key", "parallel_tool_calls"), _ANYTHING),
    "store": (False,),
    "service_tier": ("auto", "default"),
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "logit_bias": ({},),
    "logprobs": (False,),
    "modalities": (["text"],),
    "response_format": ({"type": "text"},),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
}


class _Body(BaseModel):
    """Strict: no unknown fields, no `"2"` for 2, no NaN."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _null_is_left_out(cls, body: Any) -> Any:
        """Clients send nulls for what they do not use, and messages of earlier answers back as they got them."""
        return {name: value for name, value in body.items() if value is not None} if isinstance(body, dict) else body


class TextPart(_Body):
    """Text in a message."""

    type: Literal["text"]
    text: str

    @field_validator("text")
    @classmethod
    def _text_is_unicode(cls, text: str) -> str:
        """JSON can spell half a surrogate pair, which no tokenizer can read."""
        if any("\ud800" <= character <= "\udfff" for character in text):
            raise ValueError("the text holds half a surrogate pair; send valid Unicode")
        return text


class ImageUrl(_Body):
    """A picture as a data URL."""

    url: str
    detail: Literal["auto", "low", "high"] = "auto"
    """Taken and without effect: LLaVA-1.5 sees every picture at one size."""


class ImagePart(_Body):
    """A picture in a message."""

    type: Literal["image_url"]
    image_url: ImageUrl


class ChatMessage(_Body):
    """One turn."""

    role: Literal["system", "developer", "user", "assistant"]
    content: list[Annotated[TextPart | ImagePart, Field(discriminator="type")]]

    @field_validator("content", mode="before")
    @classmethod
    def _text_is_one_part(cls, content: Any) -> Any:
        return [{"type": "text", "text": content}] if isinstance(content, str) else content


class StreamOptions(_Body):
    """Extras of a stream."""

    include_usage: bool = False
    """Send a last chunk without choices that holds `usage`."""


class ChatRequest(_Body):
    """A request for `n` answers to a conversation."""

    model: str
    """`base` or the name of an adapter, see `/v1/models`."""
    messages: list[ChatMessage] = Field(min_length=1)
    """An optional system turn, then user and assistant in turns, ending with the user."""
    n: int = Field(1, ge=1, le=MAX_CHOICES)
    max_completion_tokens: int | None = Field(None, ge=1)
    max_tokens: int | None = Field(None, ge=1)
    """The old name of `max_completion_tokens`."""
    temperature: float = Field(1.0, ge=0, le=MAX_TEMPERATURE)
    """0 takes the likeliest token."""
    top_p: float = Field(1.0, ge=0, le=1)
    seed: int | None = Field(None, ge=-SEEDS, lt=SEEDS)
    """Same seed, same answer."""
    stop: list[str] = Field(default_factory=list, max_length=MAX_STOPS)
    """The answer ends before the first of these."""
    stream: bool = False
    stream_options: StreamOptions = StreamOptions()

    @model_validator(mode="before")
    @classmethod
    def _neutral_is_left_out(cls, body: Any) -> Any:
        if not isinstance(body, dict):
            return body
        kept = {}
        for name, value in body.items():
            neutral = NEUTRAL.get(name)
            if neutral is None or value is None:
                kept[name] = value
            elif isinstance(neutral, Sequence) and value not in neutral:
                raise ValueError(f"{name} is not supported here; leave it out")
        return kept

    @field_validator("stop", mode="before")
    @classmethod
    def _one_stop_is_a_list(cls, stop: Any) -> Any:
        return [stop] if isinstance(stop, str) else stop

    @field_validator("stop")
    @classmethod
    def _stops_are_not_empty(cls, stop: list[str]) -> list[str]:
        if "" in stop:
            raise ValueError("a stop string must not be empty")
        return stop

    @model_validator(mode="after")
    def _one_limit(self) -> "ChatRequest":
        limits = {limit for limit in (self.max_tokens, self.max_completion_tokens) if limit is not None}
        if len(limits) == 2:
            raise ValueError("max_tokens and max_completion_tokens differ; give one of them")
        return self

    @model_validator(mode="after")
    def _turns_alternate(self) -> "ChatRequest":
        roles = [message.role for message in self.messages]
        turns = roles[1:] if roles[0] in ("system", "developer") else roles
        expected = ["user", "assistant"] * len(turns)
        if not turns or turns != expected[: len(turns)] or turns[-1] != "user":
            raise ValueError(
                "messages: after at most one system message, user and assistant must alternate, "
                f"and the last turn is the user's; these are {', '.join(roles[:20])}"
            )
        return self


def jobs_of(request: ChatRequest, *, max_images: int, max_new_tokens: int) -> list[Job]:
    """One job a choice, each with a seed of its own; the pictures are decoded once to prove them.

    Raises:
        ApiError: Too many pictures or tokens, or a picture that is none.
    """
    limit = request.max_tokens if request.max_completion_tokens is None else request.max_completion_tokens
    if limit is not None and limit > max_new_tokens:
        raise ApiError(
            400, f"At most {max_new_tokens} tokens an answer are served here.", param="max_completion_tokens"
        )
    urls = _image_urls(request)
    if len(urls) > max_images:
        raise ApiError(400, f"At most {max_images} pictures a request are taken, not {len(urls)}.", param="messages")
    try:
        pictures = tuple(picture_bytes(url, where=where) for where, url in urls)
    except ValueError as error:
        raise ApiError(400, str(error), param="messages", code="invalid_image") from error
    seed = secrets.randbelow(SEEDS) if request.seed is None else request.seed
    return [
        Job(
            model=request.model,
            messages=tuple(_message(message) for message in request.messages),
            pictures=pictures,
            max_new_tokens=limit,
            temperature=request.temperature,
            top_p=request.top_p,
            stop=tuple(request.stop),
            seed=(seed + choice) % SEEDS,
        )
        for choice in range(request.n)
    ]


def _image_urls(request: ChatRequest) -> list[tuple[str, str]]:
    """Place and URL of every picture, in order; only the user shows pictures."""
    urls = []
    for i, message in enumerate(request.messages):
        for j, part in enumerate(message.content):
            if isinstance(part, ImagePart):
                if message.role != "user":
                    raise ApiError(400, f"messages.{i}: only user turns can hold pictures.", param="messages")
                urls.append((f"messages.{i}.content.{j}", part.image_url.url))
    return urls


def _message(message: ChatMessage) -> Message:
    role = "system" if message.role == "developer" else message.role
    return Message(role, tuple(Text(p.text) if isinstance(p, TextPart) else ImageSlot() for p in message.content))
