"""Token by token, the text of an answer: never half a character, never a part of a stop string."""

import re
from collections.abc import Sequence
from itertools import count

from mmalign.template import Template

_HALF_A_CHARACTER = "\ufffd"  # what decoders put for bytes that do not yet make a character
_BYTE_TOKEN = re.compile(r"<0x[0-9A-F]{2}>")  # Llama's: one wrong byte spoils the decoding of all its neighbours


class AnswerText:
    """Hands out text as soon as no later token can change it.

    The pieces together are `template.decode_response` of all tokens, cut before the first stop string.
    """

    def __init__(self, template: Template, stops: Sequence[str]) -> None:
        self._template = template
        self._stops = tuple(stops)
        self._ids: list[int] = []
        self._sent = 0
        self.ended = False
        """The end token or a stop string came: no further token counts."""

    @property
    def num_tokens(self) -> int:
        """Tokens taken so far, the end token among them."""
        return len(self._ids)

    def push(self, token: int) -> str:
        """Take one token; the text that is now certain."""
        assert not self.ended, "the answer has ended"
        self._ids.append(token)
        if token == self._template.eos_token_id:
            self.ended = True
            return self.finish()
        if _BYTE_TOKEN.fullmatch(str(self._template.tokenizer.convert_ids_to_tokens(token))):
            return ""
        text = self._template.decode_response(self._ids).rstrip(_HALF_A_CHARACTER)
        end = self._find_stop(text)
        if end is not None:
            self.ended = True
            return self._send(text, end)
        return self._send(text, len(text) - self._begun_stop(text))

    def finish(self) -> str:
        """The text held back so far; after it the answer is whole."""
        text = self._template.decode_response(self._ids)
        end = self._find_stop(text)
        if end is not None:
            self.ended = True
        return self._send(text, len(text) if end is None else end)

    def _send(self, text: str, end: int) -> str:
        piece = text[self._sent : end]
        self._sent = max(self._sent, end)
        return piece

    def _find_stop(self, text: str) -> int | None:
        """Where the first stop string begins. None of it has been sent, so the search starts where sending stopped."""
        return min((at for stop in self._stops if (at := text.find(stop, self._sent)) >= 0), default=None)

    def _begun_stop(self, text: str) -> int:
        """Length of the longest end of `text` that is the beginning of a stop string."""
        longest = 0
        for stop in self._stops:
            for length in count(1):
                if length >= len(stop) or length > len(text):
                    break
                if text.endswith(stop[:length]):
                    longest = max(longest, length)
        return longest
