"""Rows: one prompt with its answers, and the tokens they become.

    Row(key="000000.tar/scene7", messages=(<picture, "What is this?">,), images=(jpeg,),
        answers=(Answer("A red ball.", Role.CHOSEN), Answer("A dog.", Role.REJECTED)))

becomes, with four image tokens and one token a word,

    EncodedRow(prompt=[<s>, USER:, I, I, I, I, What, is, this?, ASSISTANT:],
               answers=(EncodedAnswer([A, red, ball., </s>], CHOSEN), EncodedAnswer([A, dog., </s>], REJECTED)), ...)
"""

from typing import Literal, NamedTuple

from jaxtyping import Float
from torch import Tensor

from mmalign.batch import Role
from mmalign.data.sample import SampleError
from mmalign.messages import Message, Text
from mmalign.processor import open_image, pixel_values
from mmalign.template import Template

Overlong = Literal["raise", "refuse", "truncate"]

STAND_IN = (Message("user", (Text("."),)),)
"""The prompt of a refused row: tiny and without a picture, so that it costs nothing and cuts nothing."""


class Answer(NamedTuple):
    """One answer of a row."""

    text: str
    role: Role


class Row(NamedTuple):
    """One prompt, its pictures (encoded bytes) and the answers behind it."""

    key: str
    """`shard/sample`, for messages."""
    messages: tuple[Message, ...]
    images: tuple[bytes, ...] = ()
    answers: tuple[Answer, ...] = ()
    weight: float = 1.0
    """0 for a hole, which only keeps a step's shape."""


class EncodedAnswer(NamedTuple):
    """Tokens of one answer, end token included unless it was truncated."""

    ids: list[int]
    role: Role
    truncated: bool = False


class EncodedRow(NamedTuple):
    """A row as tokens and pixels."""

    key: str
    prompt: list[int]
    answers: tuple[EncodedAnswer, ...]
    pixel_values: Float[Tensor, "images 3 height width"]
    weight: float = 1.0
    refused: bool = False


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

    def __call__(self, row: Row) -> EncodedRow:
        """Encode one row.

        Raises:
            SampleError: An empty answer, equal chosen and rejected texts, a broken picture, or a row that is too long
                where that is an error.
        """
        check_answers(row)
        prompt = self.template.encode_prompt(row.messages)
        answers = tuple(
            EncodedAnswer(self.template.encode_response(answer.text), answer.role) for answer in row.answers
        )
        longest = len(prompt) + max((len(answer.ids) for answer in answers), default=0)
        if longest > self.max_length:
            if self.overlong == "raise":
                raise SampleError(self._too_long(row, len(prompt), longest))
            room = self.max_length - len(prompt)
            if self.overlong == "refuse" or room < 1:
                return self._stand_in(row)
            answers = tuple(_cut(answer, room) for answer in answers)
        images = [open_image(image, where=f"{row.key}, picture {number}") for number, image in enumerate(row.images)]
        pixels = pixel_values(self.template.processor, images)
        return EncodedRow(row.key, prompt, answers, pixels, row.weight)

    def _stand_in(self, row: Row) -> EncodedRow:
        """A hole in the row's place: the shortest prompt, and the end token as each answer."""
        answers = tuple(EncodedAnswer([self.template.eos_token_id], answer.role) for answer in row.answers)
        pixels = pixel_values(self.template.processor, [])
        prompt = self.template.encode_prompt(STAND_IN)
        return EncodedRow(row.key, prompt, answers, pixels, weight=0.0, refused=row.weight > 0)

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


def _cut(answer: EncodedAnswer, room: int) -> EncodedAnswer:
    return answer if len(answer.ids) <= room else EncodedAnswer(answer.ids[:room], answer.role, truncated=True)
