"""What chat and completion requests share: strictness, sampling, and OpenAI's fields that do nothing here.

Those are taken at the values that change nothing (`user`, `frequency_penalty: 0`), and a null is the field left out.
Any other unknown field is an error: a setting that is silently ignored is a bug.
"""

import secrets
from collections.abc import Callable
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    WrapValidator,
    model_validator,
)

from ...settings import HttpSettings
from ..errors import ApiError
from ..frontend import Frontend

MAX_CHOICES = 4
MAX_STOPS = 16  # OpenAI takes 4; tasks of lm_eval have more
MAX_TEMPERATURE = 2.0  # OpenAI's limit
MAX_CHARACTERS_A_TOKEN = 64  # on average, far above any tokenizer; what is longer is refused without being tokenized
SEEDS = 2**63

T = TypeVar("T")


def check_unicode(text: str) -> str:
    """The text; `ValueError` where JSON has spelled half a surrogate pair, which no tokenizer can read."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("the text holds half a surrogate pair; send valid Unicode") from None
    return text


def _only_neutral(value: Any, handler: Callable[[Any], Any]) -> Any:
    try:
        return handler(value)
    except ValidationError:
        raise ValueError("only a value that changes nothing is taken here; leave it out") from None


def _one_stop_is_a_list(stop: Any) -> Any:
    return [stop] if isinstance(stop, str) else stop


Unicode = Annotated[str, AfterValidator(check_unicode)]
Neutral = Annotated[T | None, WrapValidator(_only_neutral)]
"""A field that is taken at values which change nothing."""
StopString = Annotated[Unicode, Field(min_length=1, max_length=1000)]


class Body(BaseModel):
    """Strict: no unknown fields, no `"2"` for 2, no NaN."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, use_attribute_docstrings=True)

    @model_validator(mode="before")
    @classmethod
    def _null_is_left_out(cls, body: Any) -> Any:
        """Clients send nulls for what they do not use, and messages of earlier answers back as they got them."""
        return {name: value for name, value in body.items() if value is not None} if isinstance(body, dict) else body


class StreamOptions(Body):
    """Extras of a stream."""

    include_usage: bool = False
    """Send a last chunk without choices that holds `usage`."""
    include_obfuscation: Neutral[Literal[False]] = None


class GenerationRequest(Body):
    """How answers are drawn, and when they end."""

    model: str
    """`base` or the name of an adapter, see `/v1/models`."""
    n: int = Field(1, ge=1, le=MAX_CHOICES)
    """Answers to one prompt."""
    temperature: float = Field(1.0, ge=0, le=MAX_TEMPERATURE)
    """0 takes the likeliest token."""
    top_p: float = Field(1.0, ge=0, le=1)
    seed: int | None = Field(None, ge=-SEEDS, lt=SEEDS)
    """Same seed, same answer."""
    stop: Annotated[
        list[StopString],
        Field(max_length=MAX_STOPS),
        BeforeValidator(_one_stop_is_a_list, json_schema_input_type=StopString | list[StopString]),
    ] = []
    """The answer ends before the first of these."""
    stream: bool = False
    stream_options: StreamOptions = StreamOptions()

    user: Neutral[str] = None
    frequency_penalty: Neutral[Annotated[float, Field(ge=0, le=0)]] = None
    presence_penalty: Neutral[Annotated[float, Field(ge=0, le=0)]] = None
    logit_bias: Neutral[Annotated[dict[str, float], Field(max_length=0)]] = None

    def seeds(self) -> tuple[int, ...]:
        """One an answer; a seed that was not given is drawn."""
        first = secrets.randbelow(SEEDS) if self.seed is None else self.seed
        return tuple((first + choice) % SEEDS for choice in range(self.n))

    def check_limits(self, settings: HttpSettings, max_tokens: int | None, param: str) -> None:
        """Raise `ApiError` where more is asked than this server gives.

        Args:
            settings: What it gives.
            max_tokens: Tokens that an answer may have; None names no limit.
            param: The field that says so.
        """
        if self.n > settings.max_rows:
            raise ApiError(400, f"At most {settings.max_rows} answers a request are written here.", param="n")
        if max_tokens is not None and max_tokens > settings.max_new_tokens:
            raise ApiError(
                400,
                f"At most {settings.max_new_tokens} tokens an answer are served here, not {max_tokens}. "
                "Ask for fewer, or have the server started with a higher --max_new_tokens.",
                param=param,
            )


def check_length(front: Frontend, characters: int, param: str) -> None:
    """Raise `ApiError` for a text that is beyond the context whatever the tokenizer makes of it."""
    if front.link.worker is None:
        return  # the job will be refused
    context = front.link.worker.context
    if characters > MAX_CHARACTERS_A_TOKEN * context:
        raise ApiError(
            400,
            f"The model's context holds {context} tokens; a text of {characters} characters is longer. Shorten it.",
            param=param,
            code="context_length_exceeded",
        )
