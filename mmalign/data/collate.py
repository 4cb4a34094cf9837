"""Encoded rows -> `Batch`: prompt once, answers behind it, exactly as `mmalign/batch.py` draws it."""

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from mmalign.batch import PADDING_SEGMENT, Batch
from mmalign.data.rows import EncodedAnswer, EncodedRow


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

    def width(self, rows: Sequence[EncodedRow]) -> int:
        """Positions of each row, padding included."""
        return -(-max(row.length for row in rows) // self.pad_to_multiple) * self.pad_to_multiple

    def __call__(self, rows: Sequence[EncodedRow]) -> Batch:
        """Pack rows; their order stays."""
        shape = len(rows), self.width(rows)
        tokens = np.full(shape, self.pad_token_id, dtype=np.int64)
        positions = np.zeros(shape, dtype=np.int64)
        segments = np.full(shape, PADDING_SEGMENT, dtype=np.int64)
        targets, predictors = [np.zeros(0, dtype=np.int64)], [np.zeros(0, dtype=np.int64)]
        for index, row in enumerate(rows):
            start = end = len(row.prompt)
            tokens[index, :start] = row.prompt
            positions[index, :start] = np.arange(start)
            segments[index, :start] = 0
            for segment, answer in enumerate(row.answers, start=1):
                begin, end = end, end + len(answer.ids)
                tokens[index, begin:end] = answer.ids
                positions[index, begin:end] = np.arange(start, start + end - begin)  # goes on from the prompt's end
                segments[index, begin:end] = segment
                targets.append(tokens[index, begin:end])
                # The prompt's last position predicts the first token, each token the next one.
                predictors.append(index * shape[1] + np.concatenate([[start - 1], np.arange(begin, end - 1)]))
        answers = [(index, answer) for index, row in enumerate(rows) for answer in row.answers]
        lengths = [len(answer.ids) for _, answer in answers]
        return Batch(
            input_ids=torch.from_numpy(tokens),
            position_ids=torch.from_numpy(positions),
            segment_ids=torch.from_numpy(segments),
            pixel_values=torch.cat([row.pixel_values for row in rows]),
            row_weights=torch.tensor([row.weight for row in rows], dtype=torch.float32),
            row_index=_integers(index for index, _ in answers),
            roles=_integers(answer.role for _, answer in answers),
            truncated=_integers(answer.truncated for _, answer in answers),
            predictors=torch.from_numpy(np.concatenate(predictors)),
            targets=torch.from_numpy(np.concatenate(targets)),
            response_index=torch.from_numpy(np.repeat(np.arange(len(answers)), lengths)),
            reference_logps=_reference_logps([answer for _, answer in answers]),
            keys=[row.key for row in rows],
            refusals=[row.refusal for row in rows],
        )


def _integers(values: Iterable[int]) -> Int[Tensor, " values"]:
    return torch.tensor([int(value) for value in values], dtype=torch.int64)


def _reference_logps(answers: Sequence[EncodedAnswer]) -> Float[Tensor, "references targets"]:
    """One line a reference; all answers of a batch have as many."""
    lines = zip(*(answer.reference_logps for answer in answers), strict=True)
    values = [torch.from_numpy(np.concatenate(line)) for line in lines]
    return torch.stack(values) if values else torch.zeros(0, sum(len(answer.ids) for answer in answers))
