"""What single tokens say: their bytes, and the text that they make one after the other."""

import json
import re
from collections.abc import Collection
from functools import lru_cache

from tokenizers.pre_tokenizers import ByteLevel

from mmalign.template import ANCHOR, Template

HALF_A_CHARACTER = "\ufffd"
"""What decoders put for bytes that do not yet make a character."""
_BYTE_TOKEN = re.compile(r"<0x([0-9A-F]{2})>")  # Llama's: one wrong byte spoils the decoding of all its neighbours


class Tokens:
    """A tokenizer's pieces."""

    def __init__(self, template: Template) -> None:
        self.tokenizer = template.tokenizer
        self.begin, self.end = template.bos_token_id, template.eos_token_id
        self.silent = frozenset({template.eos_token_id, self.tokenizer.pad_token_id})
        """What an answer's text leaves out."""
        self._anchor = self.encode(ANCHOR)
        decoder = self.tokenizer.backend_tokenizer.decoder
        self._byte_level = "ByteLevel" in str(json.loads(decoder.__getstate__()))
        self.puts_space = self.decode(self.encode("A")) == " A"
        """Whether a text by itself gets a space in front, as Llama's does."""
        self.text_of = lru_cache(maxsize=len(self.tokenizer))(self._text_of)

    def __len__(self) -> int:
        """How many there are."""
        return len(self.tokenizer)

    def encode(self, text: str) -> list[int]:
        """Tokens of a text by itself; special tokens in it are text, too."""
        return list(self.tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"])

    def decode(self, ids: list[int]) -> str:
        """Their text behind other text: Llama's tokenizer drops the first space of whatever it decodes by itself."""
        return str(self.tokenizer.decode([*self._anchor, *ids], skip_special_tokens=False)).removeprefix(ANCHOR)

    def is_byte(self, token: int) -> bool:
        """Whether its text depends on the tokens beside it."""
        return _BYTE_TOKEN.fullmatch(self._piece(token)) is not None

    def bytes_of(self, token: int) -> bytes:
        """What a token adds to a text in UTF-8."""
        piece = self._piece(token)
        if self._byte_level:
            if all(character in _BYTES for character in piece):
                return bytes(_BYTES[character] for character in piece)
            return piece.encode()
        if found := _BYTE_TOKEN.fullmatch(piece):
            return bytes.fromhex(found[1])
        return piece.replace("\u2581", " ").encode()

    def _text_of(self, token: int) -> str:
        """Text of a token by itself."""
        return self.decode([token])

    def _piece(self, token: int) -> str:
        return str(self.tokenizer.convert_ids_to_tokens(token) or "")  # a model may have ids beyond its tokenizer's


class Decoder:
    """Tokens in, text out, as soon as no later token can change it; together it is the text of all tokens.

    Only what comes behind the last whole character is decoded again.
    """

    def __init__(self, tokens: Tokens, *, silent: Collection[int], drops_space: bool) -> None:
        """Start a text.

        Args:
            tokens: Of the tokenizer.
            silent: Tokens that say nothing.
            drops_space: Leave out a space at the very start.
        """
        self._tokens, self._silent, self._drops_space = tokens, silent, drops_space
        self._window: list[int] = []
        self._told = 0

    def push(self, token: int) -> str:
        """Take a token; the text that is now certain."""
        if token in self._silent:
            return ""
        self._window.append(token)
        if self._tokens.is_byte(token):
            return ""
        text = self._text()
        new = text.rstrip(HALF_A_CHARACTER)[self._told :]
        self._told += len(new)
        if self._told == len(text):
            self._drops_space = self._drops_space and not self._tokens.decode(self._window)
            self._window, self._told = [], 0
        return new

    def finish(self) -> str:
        """The rest: half characters."""
        return self._text()[self._told :] if self._window else ""

    def _text(self) -> str:
        text = self._tokens.decode(self._window)
        return text.removeprefix(" ") if self._drops_space else text


def _bytes_of_characters() -> dict[str, int]:
    """GPT-2's letters for bytes: those that can be printed stand for themselves, others for 256 and up, in order."""
    printed = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printed]
    return {chr(byte): byte for byte in printed} | {chr(256 + i): byte for i, byte in enumerate(others)}


_BYTES = _bytes_of_characters()
assert set(_BYTES) == set(ByteLevel.alphabet())
