"""Token by token, the text of an answer: never half a character, never a part of a stop string."""

from collections.abc import Sequence

from .tokens import Decoder, Tokens


class AnswerText:
    """Hands out text as soon as no later token can change it.

    The pieces together are `template.decode_response` of all tokens, cut before the first stop string; an answer that
    goes on from a text keeps its first space.
    """

    def __init__(self, tokens: Tokens, stops: Sequence[str], *, goes_on: bool = False) -> None:
        self._decoder = Decoder(tokens, silent=tokens.silent, drops_space=not goes_on)
        self._end_token = tokens.end
        self._stops = tuple(stops)
        self._held = ""
        self.num_tokens = 0
        """Tokens taken so far, the end token among them."""
        self.ended = False
        """The end token or a stop string came: no further token counts."""

    def push(self, token: int) -> str:
        """Take one token; the text that is now certain."""
        assert not self.ended, "the answer has ended"
        self.num_tokens += 1
        if token == self._end_token:
            self.ended = True
            return self.finish()
        self._held += self._decoder.push(token)
        return self._release(len(self._held) - self._begun_stop())

    def finish(self) -> str:
        """The text held back so far; after it the answer is whole."""
        self._held += self._decoder.finish()
        return self._release(len(self._held))

    def _release(self, certain: int) -> str:
        """Text before the first stop string, or so much of it."""
        end = min((at for stop in self._stops if (at := self._held.find(stop)) >= 0), default=None)
        if end is not None:
            self.ended = True
            certain = end
        piece, self._held = self._held[:certain], self._held[certain:]
        return piece

    def _begun_stop(self) -> int:
        """Length of the longest end of the text that is the beginning of a stop string."""
        lengths = (
            length
            for stop in self._stops
            for length in range(1, min(len(stop) - 1, len(self._held)) + 1)
            if self._held.endswith(stop[:length])
        )
        return max(lengths, default=0)
