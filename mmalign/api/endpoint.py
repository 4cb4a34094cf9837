"""Where a model answers over HTTP, and what may be asked of it.

    Endpoint(model="gemini-2.5-flash", url="https://generativelanguage.googleapis.com/v1beta/openai/",
             key_env="GEMINI_API_KEY", requests_per_minute=1000, max_cost=20.0, prices=Prices(input=0.3, output=2.5))

All speak OpenAI's chat completions. The key is read when a client is made, and stands in no field of this record.

Tests   tests/api/test_endpoint.py
"""

import os
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

OPENAI_URL = "https://api.openai.com/v1"
OPENAI_KEY_ENV = "OPENAI_API_KEY"
GEMINI_URL = "https://generativelanguage.googleapis.com/v1beta/openai/"
GEMINI_KEY_ENV = "GEMINI_API_KEY"


@dataclass(frozen=True, kw_only=True)
class Prices:
    """What a million tokens cost, in any currency; see the provider's price list, for this very model."""

    input: float = 0.0
    """Of the request, pictures included."""
    output: float = 0.0
    """Of the reply, its hidden reasoning included."""

    def cost(self, input_tokens: int, output_tokens: int) -> float:
        """Of one call."""
        return (self.input * input_tokens + self.output * output_tokens) / 1e6


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """A model behind an OpenAI-compatible address, and the limits of its use."""

    model: str
    """Its name there: gemini-2.5-flash, gpt-4o-mini, what vLLM serves, `base` or an adapter of `mmalign serve`."""
    url: str = ""
    """The base address, such as http://localhost:8000/v1; empty is OpenAI's own."""
    key_env: str = ""
    """Environment variable that holds the API key. Empty: OPENAI_API_KEY for OpenAI's own address, no key elsewhere."""
    key_file: Path | None = None
    """A file that holds the API key and nothing else, instead of the variable."""
    concurrency: int = 16
    """Calls under way at the same time, at most. Calls a second are at most this many over the seconds one takes."""
    requests_per_minute: float | None = None
    """Calls begun a minute, retries included, at most; no limit if left out."""
    timeout_s: float = 120.0
    """Seconds that one call may take from beginning to end."""
    tries: int = 6
    """Calls for one reply, at most, where the server is busy (429), fails (5xx), hangs or breaks off."""
    max_cost: float | None = None
    """What all kept replies may have cost, at most, those of earlier runs included; the command stops before. Needs
    `prices`."""
    prices: Prices | None = None
    """Of a million tokens; without them costs are not known."""

    def __post_init__(self) -> None:
        """Raise `ValueError` where a limit makes no sense, or where the address holds a secret."""
        if not self.model:
            raise ValueError("Which model shall be asked? Give its name there with `--model`, such as gpt-4o-mini.")
        _check_url(self.url)
        numbers = {"concurrency": self.concurrency, "timeout_s": self.timeout_s, "tries": self.tries}
        optional = {"requests_per_minute": self.requests_per_minute, "max_cost": self.max_cost}
        for name, value in (numbers | optional).items():
            if value is not None and value <= 0:
                raise ValueError(f"`--{name}` must be above 0, got {value:g}.")
        if self.prices is not None and min(self.prices.input, self.prices.output) < 0:
            raise ValueError(f"`--prices` must not be negative, got {self.prices}.")
        if self.max_cost is not None and (self.prices is None or self.prices == Prices()):
            raise ValueError(
                "`--max_cost` needs the model's prices to know what a call costs: "
                "`--prices.input` and `--prices.output`, per million tokens, as on the provider's price list."
            )

    @property
    def address(self) -> str:
        """The base address, without a slash at its end."""
        return (self.url or OPENAI_URL).rstrip("/")

    def identity(self) -> dict[str, str]:
        """What an answer depends on besides the request; no secret, no limit."""
        return {"model": self.model, "url": self.address}

    def key(self) -> str:
        """The API key; empty where none is needed.

        Raises:
            ValueError: The variable or the file holds none.
            FileNotFoundError: There is no such file.
        """
        if self.key_file is not None:
            if not self.key_file.is_file():
                raise FileNotFoundError(
                    f"`--key_file`: no file {self.key_file}. Put the API key into it, nothing else."
                )
            key, place = self.key_file.read_text(encoding="utf-8").strip(), f"The file {self.key_file}"
        else:
            name = self.key_env or (OPENAI_KEY_ENV if self.address == OPENAI_URL else "")
            if not name:
                return ""
            key, place = os.environ.get(name, "").strip(), f"The environment variable {name}"
        if not key or not key.isascii() or len(key.split()) != 1:
            raise ValueError(
                f"{place} must hold the API key of {self.address} and nothing else; it is empty or holds other text. "
                "Set it, or name another with `--key_env` or `--key_file`."
            )
        return key


def _check_url(url: str) -> None:
    """Raise where an address is none, or carries a secret into logs and lineage."""
    parts = urlsplit(url)
    if url and (parts.scheme not in ("http", "https") or not parts.hostname):
        raise ValueError("`--url`, or `--server`, must be an address like http://localhost:8000/v1.")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise ValueError(
            "`--url` must hold no user, password or query: it is written into lineage. "
            "Keys go into an environment variable (`--key_env`) or a file (`--key_file`)."
        )
