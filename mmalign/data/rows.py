"""Rows: one prompt with its answers, and the tokens they become.

    Row(key="000000.tar/scene7", messages=(<picture, "What is this?">,), images=(jpeg,),
        answers=(Answer("A red ball.", Role.CHOSEN), Answer("A dog.", Role.REJECTED)))

becomes, with four image tokens and one token a word,

    EncodedRow(prompt=[<s>, USER:, I, I, I, I, What, is, this?, ASSISTANT:],
               answers=(EncodedAnswer([A, red, ball., </s>], CHOSEN), EncodedAnswer([A, dog., </s>], REJECTED)), ...)
"""

from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float, Float32
from numpy import ndarray
from PIL import Image
from torch import Tensor

from mmalign.batch import Role
from mmalign.data.sample import Place, SampleError
from mmalign.data.variants import Variant
from mmalign.messages import Message, Text
from mmalign.processor import open_image, pixel_values
from mmalign.template import Template

Overlong = Literal["raise", "refuse", "truncate"]
"""What to do with a row that is too long."""
OnBad = Literal["stop", "quarantine"]
"""What to do with a sample that cannot be used for another reason."""

STAND_IN = (Message("user", (Text("."),)),)
"""The prompt of a refused row: tiny and without a picture, so that it costs nothing and cuts nothing."""


TokenLogps = tuple[Float32[ndarray, " tokens"], ...]
"""Log-probability of each token of an answer, end token included, under each reference; from their stores."""


class Answer(NamedTuple):
    """One answer of a row."""

    text: str
    role: Role
    reference_logps: TokenLogps = ()


class Row(NamedTuple):
    """One prompt, its pictures (encoded bytes) and the answers behind it."""

    key: str
    """`shard/sample`, for messages."""
    messages: tuple[Message, ...]
    images: tuple[bytes, ...] = ()
    answers: tuple[Answer, ...] = ()
    weight: float = 1.0
    """0 for a hole, which only keeps a step's shape."""
    variant: Variant | None = None
    """What is done to its pictures before the model sees them."""


Group = tuple[Row, ...]
"""Rows that take one place in the order together: nearly always one; more where a method needs another picture too."""


class EncodedAnswer(NamedTuple):
    """Tokens of one answer, end token included unless it was truncated."""

    ids: list[int]
    role: Role
    truncated: bool = False
    reference_logps: TokenLogps = ()


class EncodedRow(NamedTuple):
    """A row as tokens and pixels."""

    key: str
    prompt: list[int]
    answers: tuple[EncodedAnswer, ...]
    pixel_values: Float[Tensor, "images 3 height width"]
    weight: float = 1.0
    refusal: str = ""
    """Why a hole stands in the row's place; empty where none does."""
    broken: Place | None = None
    """The sample that cannot be used, for another reason than its length: nearly always the row's own."""

    @property
    def length(self) -> int:
        """Tokens of the prompt and all answers."""
        return len(self.prompt) + sum(len(answer.ids) for answer in self.answers)


class RowEncoder:
    """Turns rows into tokens and pixels, for one checkpoint and one limit."""

    def __init__(self, template: Template, *, max_length: int, overlong: Overlong = "raise") -> None:
        """Remember how.

        Args:
            template: Of the checkpoint that will read the tokens.
            max_length: Tokens of the prompt, image tokens included, and one answer with its end token, at most.
            overlong: `raise`; `refuse`: the row becomes a hole, counted; `truncate`: the answer loses its end, counted.
                A prompt is never cut: where it leaves no room for an answer, `truncate` refuses.
        """
        self.template = template
        self.max_length = max_length
        self.overlong = overlong

    def group(self, rows: Group) -> list[EncodedRow]:
        """Encode rows that belong together: where one is refused, so are all.

        Raises:
            SampleError: See `__call__`.
        """
        encoded = [self(row) for row in rows]
        refusals = [row.refusal for row in encoded if row.refusal]
        return [self.stand_in(row, refusals[0]) for row in rows] if refusals else encoded

    def __call__(self, row: Row) -> EncodedRow:
        """Encode one row.

        Raises:
            SampleError: An empty answer, equal chosen and rejected texts, a broken picture, reference log-probabilities
                of other tokens, or a row that is too long where that is an error.
        """
        check_answers(row)
        prompt = self.template.encode_prompt(row.messages)
        tokens = [self.template.encode_response(answer.text) for answer in row.answers]
        trained = [len(ids) for ids, answer in zip(tokens, row.answers, strict=True) if answer.role != Role.MISMATCHED]
        longest = len(prompt) + max(trained, default=0)
        room = self.max_length - len(prompt)
        if longest > self.max_length:
            if self.overlong == "raise":
                raise SampleError(self._too_long(row, len(prompt), longest))
            if self.overlong == "refuse":
                return self.stand_in(row, self._too_long(row, len(prompt), longest))
        if room < 1:
            return self.stand_in(row, self._too_long(row, len(prompt), longest))
        images = _opened(row)
        if row.variant is not None:
            images = [row.variant(image, key=f"{row.key}/{number}") for number, image in enumerate(images)]
        pixels = pixel_values(self.template.processor, images)
        # Behind the pictures: of a row with a broken one no store holds values, and the picture is what is wrong.
        answers = tuple(_encoded(row, *pair, room) for pair in zip(row.answers, tokens, strict=True))
        return EncodedRow(row.key, prompt, answers, pixels, row.weight)

    def stand_in(self, row: Row, refusal: str) -> EncodedRow:
        """A hole in the row's place: the shortest prompt, and the end token as each answer.

        Args:
            row: Says the roles of its answers and the number of its references.
            refusal: Why, for the log.
        """
        answers = tuple(
            EncodedAnswer(
                [self.template.eos_token_id],
                answer.role,
                reference_logps=tuple(np.zeros(1, np.float32) for _ in answer.reference_logps),
            )
            for answer in row.answers
        )
        pixels = pixel_values(self.template.processor, [])
        prompt = self.template.encode_prompt(STAND_IN)
        return EncodedRow(row.key, prompt, answers, pixels, weight=0.0, refusal=refusal if row.weight else "")

    def _too_long(self, row: Row, prompt: int, longest: int) -> str:
        return (
            f"{row.key}: {longest} tokens (the prompt alone has {prompt}) do not fit `data.max_length` of "
            f"{self.max_length}. Raise it, or set `data.overlong` to `refuse` (leave the row out) or `truncate` (cut "
            "the end of the answer); both are counted in the logs."
        )


def check_answers(row: Row) -> None:
    """Raise `SampleError` where an answer is empty, or chosen and rejected are the same text."""
    if any(not answer.text.strip() for answer in row.answers):
        raise SampleError(f"{row.key}: an answer is empty, so it has nothing to train. Take the response out.")
    texts = {role: [a.text for a in row.answers if a.role == role] for role in (Role.CHOSEN, Role.REJECTED)}
    if set(texts[Role.CHOSEN]) & set(texts[Role.REJECTED]):
        raise SampleError(f"{row.key}: chosen and rejected are the same text, so nothing is preferred. Mend the pair.")


def _opened(row: Row) -> list[Image.Image]:
    try:
        return [open_image(image, where=f"{row.key}, picture {number}") for number, image in enumerate(row.images)]
    except ValueError as error:
        raise SampleError(str(error)) from error


def _encoded(row: Row, answer: Answer, ids: list[int], room: int) -> EncodedAnswer:
    """An answer's tokens, cut to the room there is, beside what its references say of them."""
    kept = ids[:room]
    truncated = len(kept) < len(ids)
    found = tuple(values[: len(kept)] if truncated else values for values in answer.reference_logps)
    if wrong := {len(values) for values in found} - {len(kept)}:
        raise SampleError(
            f"{row.key}: its {answer.role.name.lower()} answer has {len(kept)} tokens, the reference store has "
            f"{wrong.pop()}. The store was made with another tokenizer; delete it, `fit` makes a new one."
        )
    return EncodedAnswer(kept, answer.role, truncated, found)
