"""Log-probabilities of tokens, as the model holds them: before temperature and top-p, in float32."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from mmalign.logps import CHUNK

from ..messages import TokenLogprob
from .tokens import Decoder, Tokens


class Score(NamedTuple):
    """How likely a token was, and which were the likeliest."""

    logprob: float
    top: tuple[tuple[int, float], ...]
    """Tokens with their log-probabilities, likeliest first."""


def scores(logits: Float[Tensor, "rows vocab"], tokens: Sequence[int], num_top: int) -> list[Score]:
    """The score of one token a row.

    Args:
        logits: Float32.
        tokens: What stands there.
        num_top: How many of the likeliest are wanted.
    """
    logps = logits.log_softmax(-1)
    own = logps.gather(-1, torch.tensor(tokens, device=logps.device)[:, None])[:, 0].tolist()
    best = logps.topk(num_top, dim=-1)
    tops = zip(best.indices.tolist(), best.values.tolist(), strict=True)
    return [Score(mine, tuple(zip(*top, strict=True))) for mine, top in zip(own, tops, strict=True)]


def prompt_scores(
    head: Callable[[Tensor], Tensor], states: Float[Tensor, "tokens hidden"], ids: Sequence[int], num_top: int
) -> list[Score]:
    """Scores of a prompt's tokens but the first, without ever holding all logits.

    Args:
        head: Hidden states to logits.
        states: Behind every token.
        ids: The tokens.
        num_top: How many of the likeliest are wanted.

    Raises:
        FloatingPointError: A logit is not finite.
    """
    found: list[Score] = []
    for start in range(0, len(ids) - 1, CHUNK):
        predicted = ids[start + 1 : start + 1 + CHUNK]
        logits = head(states[start : start + len(predicted)]).float()
        if not all_finite(logits):
            raise FloatingPointError("The model's logits for a prompt are not finite.")
        found += scores(logits, predicted, num_top)
    return found


def all_finite(logits: Tensor) -> bool:
    """Whether no logit is NaN or infinite."""
    return bool(logits.sum().isfinite())


class Teller:
    """Tokens of one text with their log-probabilities; their texts together are the text, and the end token.

    A token that ends in half a character has no text, and the one that completes it has the whole. A space that the
    text leaves out at its start is not among the bytes either.
    """

    def __init__(self, tokens: Tokens, *, answer: bool, goes_on: bool = False) -> None:
        """Start a text: of an answer, which may go on from another text, or of a prompt."""
        self._tokens = tokens
        self._silent = tokens.silent if answer else frozenset({tokens.begin})
        self._unsaid = None if answer else tokens.begin
        self._drops_space = not goes_on if answer else tokens.puts_space
        self._decoder = Decoder(tokens, silent=self._silent, drops_space=self._drops_space)

    def tell(self, token: int, score: Score | None, *, last: bool = False) -> TokenLogprob:
        """The next token.

        Args:
            token: Its id.
            score: None for the first of a prompt.
            last: No other follows, so half characters are told.
        """
        text = self._decoder.push(token) + (self._decoder.finish() if last else "")
        if last and token == self._tokens.end and token in self._silent:
            text += self._tokens.text_of(token)
        own = b"" if token == self._unsaid else self._tokens.bytes_of(token)
        if self._drops_space and own and token not in self._silent:
            own, self._drops_space = own.removeprefix(b" "), False
        if score is None:
            return TokenLogprob(text, own, None)
        top = tuple(
            TokenLogprob(self._tokens.text_of(other), self._tokens.bytes_of(other), logprob)
            for other, logprob in score.top
        )
        return TokenLogprob(text, own, score.logprob, top)


def told_prompt(tokens: Tokens, ids: Sequence[int], found: Sequence[Score]) -> tuple[TokenLogprob, ...]:
    """All tokens of a prompt."""
    teller = Teller(tokens, answer=False)
    return tuple(
        teller.tell(token, score, last=place == len(ids) - 1)
        for place, (token, score) in enumerate(zip(ids, [None, *found], strict=True))
    )


def prompt_text(tokens: Tokens, ids: Sequence[int]) -> str:
    """The prompt as its tokens say it, without the begin token."""
    decoder = Decoder(tokens, silent={tokens.begin}, drops_space=tokens.puts_space)
    return "".join(map(decoder.push, ids)) + decoder.finish()
