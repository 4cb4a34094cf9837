"""The records that flow through mmalign: sample -> row -> batch -> logps -> loss -> metrics.

Axis names, used in every shape of this package:
    rows        prompts on this rank; a row holds one prompt and all its responses behind it
    tokens      positions of a row: prompt with its image tokens, then each response, right-padded
    images      pictures of the batch, in the order in which their tokens stand in the rows
    responses   all responses of the batch, row after row
    targets     response tokens (end token included) of the batch, response after response
    pairs       rows that hold a chosen and a rejected response

One row, a picture of four tokens and two responses (segment 0 is the prompt):

    input_ids     <s> USER: I I I I what ? ASSISTANT:   a red ball </s>   a blue ball </s>
    segment_ids    0   0    0 0 0 0  0   0     0        1  1   1    1     2  2    2    2
    position_ids   0   1    2 3 4 5  6   7     8        9 10  11   12     9 10   11   12

A response sees the prompt and itself only, so both score as if each stood alone behind the prompt. The first token of
each response is predicted at the prompt's last position: `predictors` gathers it, nothing is ever shifted.
"""

from enum import IntEnum
from typing import NamedTuple

from jaxtyping import Float, Int
from torch import Tensor

IGNORE_INDEX = -100
"""Label of every position that is not a response token, in the tensors other libraries want."""
PADDING_SEGMENT = -1
"""`segment_ids` of padding; 0 is the prompt, k >= 1 the k-th response."""


class Role(IntEnum):
    """What a response is to its row."""

    ANSWER = 0
    CHOSEN = 1
    REJECTED = 2


class Batch(NamedTuple):
    """Collated rows, ready for the backbone."""

    input_ids: Int[Tensor, "rows tokens"]
    position_ids: Int[Tensor, "rows tokens"]
    segment_ids: Int[Tensor, "rows tokens"]
    pixel_values: Float[Tensor, "images channels height width"]
    row_weights: Float[Tensor, " rows"]
    """1, or 0 for a hole: a row that only keeps the step's shape."""
    refused: Int[Tensor, " rows"]
    """1 where a row was too long and a hole stands in its place."""
    row_index: Int[Tensor, " responses"]
    """The row of each response."""
    roles: Int[Tensor, " responses"]
    """`Role` of each response."""
    truncated: Int[Tensor, " responses"]
    """1 where the response was cut at `data.max_length`."""
    predictors: Int[Tensor, " targets"]
    """Index into the flattened (rows * tokens) positions of the state that predicts each target."""
    targets: Int[Tensor, " targets"]
    """Token id of each target."""
    response_index: Int[Tensor, " targets"]
    """The response of each target."""
    keys: list[str]
    """`shard/sample` of each row, for messages."""

    @property
    def num_rows(self) -> int:
        """Rows, holes included."""
        return len(self.input_ids)

    @property
    def num_responses(self) -> int:
        """Responses, those of holes included."""
        return len(self.row_index)


class Logps(NamedTuple):
    """Log-probabilities (nats) of the responses of a batch under one model."""

    sums: Float[Tensor, " responses"]
    """Summed over the tokens of each response, end token included."""
    lengths: Float[Tensor, " responses"]
    """Number of tokens summed, at least 1."""

    @property
    def means(self) -> Float[Tensor, " responses"]:
        """Per-token average of each response."""
        return self.sums / self.lengths


class PairLogps(NamedTuple):
    """Log-probability (nats) of each whole response, chosen and rejected apart; sums or per-token means."""

    chosen: Float[Tensor, " pairs"]
    rejected: Float[Tensor, " pairs"]


class PairLoss(NamedTuple):
    """What every pairwise loss returns; the rewards carry no gradient."""

    losses: Float[Tensor, " pairs"]
    chosen_rewards: Float[Tensor, " pairs"]
    rejected_rewards: Float[Tensor, " pairs"]
