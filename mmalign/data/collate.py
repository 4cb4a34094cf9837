"""Encoded rows -> `Batch`: prompt once, answers behind it, exactly as `mmalign/batch.py` draws it."""

from collections.abc import Iterable, Sequence

import torch
from jaxtyping import Int
from torch import Tensor

from mmalign.batch import PADDING_SEGMENT, Batch
from mmalign.data.rows import EncodedRow


class Collator:
    """Packs rows into one batch, right-padded."""

    def __init__(self, *, pad_token_id: int, pad_to_multiple: int = 8) -> None:
        """Remember the padding.

        Args:
            pad_token_id: Token of the padding; nothing sees it.
            pad_to_multiple: Row lengths are padded up to a multiple of this, so that few shapes occur.
        """
        self.pad_token_id = pad_token_id
        self.pad_to_multiple = pad_to_multiple

    def __call__(self, rows: Sequence[EncodedRow]) -> Batch:
        """Pack rows; their order stays."""
        longest = max(len(row.prompt) + sum(len(answer.ids) for answer in row.answers) for row in rows)
        width = -(-longest // self.pad_to_multiple) * self.pad_to_multiple
        answers = [(index, answer) for index, row in enumerate(rows) for answer in row.answers]
        return Batch(
            input_ids=torch.tensor([_pad(_tokens(row), width, self.pad_token_id) for row in rows]),
            position_ids=torch.tensor([_pad(_positions(row), width, 0) for row in rows]),
            segment_ids=torch.tensor([_pad(_segments(row), width, PADDING_SEGMENT) for row in rows]),
            pixel_values=torch.cat([row.pixel_values for row in rows]),
            row_weights=torch.tensor([row.weight for row in rows], dtype=torch.float32),
            refused=_integers(row.refused for row in rows),
            row_index=_integers(index for index, _ in answers),
            roles=_integers(answer.role for _, answer in answers),
            truncated=_integers(answer.truncated for _, answer in answers),
            predictors=_integers(index * width + p for index, row in enumerate(rows) for p in _predictors(row)),
            targets=_integers(token for _, answer in answers for token in answer.ids),
            response_index=_integers(number for number, (_, answer) in enumerate(answers) for _ in answer.ids),
            keys=[row.key for row in rows],
        )


def _tokens(row: EncodedRow) -> list[int]:
    return row.prompt + [token for answer in row.answers for token in answer.ids]


def _positions(row: EncodedRow) -> list[int]:
    """Every answer goes on from the prompt's end."""
    start = len(row.prompt)
    return list(range(start)) + [start + i for answer in row.answers for i in range(len(answer.ids))]


def _segments(row: EncodedRow) -> list[int]:
    return [0] * len(row.prompt) + [k for k, answer in enumerate(row.answers, start=1) for _ in answer.ids]


def _predictors(row: EncodedRow) -> list[int]:
    """Position that predicts each target: the prompt's last for the first token of each answer, then the one before."""
    found, start = list[int](), len(row.prompt)
    for answer in row.answers:
        found += [len(row.prompt) - 1, *range(start, start + len(answer.ids) - 1)]
        start += len(answer.ids)
    return found


def _pad(values: list[int], width: int, filler: int) -> list[int]:
    return values + [filler] * (width - len(values))


def _integers(values: Iterable[int]) -> Int[Tensor, " values"]:
    return torch.tensor([int(value) for value in values], dtype=torch.int64)
