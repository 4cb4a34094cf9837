"""The records that flow through mmalign: sample -> row -> batch -> logps -> loss -> metrics.

Axis names, used in every shape of this package:
    rows        prompts on this rank; a row holds one prompt and all its responses behind it
    tokens      positions of a row: prompt with its image tokens, then each response, right-padded
    images      pictures of the batch, in the order in which their tokens stand in the rows
    responses   all responses of the batch, row after row
    targets     response tokens (end token included) of the batch, response after response
    pairs       rows that hold a chosen and a rejected response
    references  frozen models whose log-probabilities came with the rows, from their stores

One row, a picture of four tokens and two responses (segment 0 is the prompt):

    input_ids     <s> USER: I I I I what ? ASSISTANT:   a red ball </s>   a blue ball </s>
    segment_ids    0   0    0 0 0 0  0   0     0        1  1   1    1     2  2    2    2
    position_ids   0   1    2 3 4 5  6   7     8        9 10  11   12     9 10   11   12

A response sees the prompt and itself only, so both score as if each stood alone behind the prompt. The first token of
each response is predicted at the prompt's last position: `predictors` gathers it, nothing is ever shifted.
"""

from enum import IntEnum
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

PADDING_SEGMENT = -1
"""`segment_ids` of padding; 0 is the prompt, k >= 1 the k-th response."""


class Role(IntEnum):
    """What a response is to its row."""

    ANSWER = 0
    """To be learned as it is (SFT and its kin)."""
    CHOSEN = 1
    """The better one of a pair; where answers are unpaired (KTO), a good one."""
    REJECTED = 2
    """The worse one of a pair; where answers are unpaired, a bad one."""
    OTHER_IMAGE = 3
    """The chosen answer once more, behind a changed picture, in a row of its own (mDPO, POVID)."""
    MISMATCHED = 4
    """Another prompt's answer, which nothing is learned from (KTO's baseline)."""


class Batch(NamedTuple):
    """Collated rows, ready for the backbone."""

    input_ids: Int[Tensor, "rows tokens"]
    position_ids: Int[Tensor, "rows tokens"]
    segment_ids: Int[Tensor, "rows tokens"]
    pixel_values: Float[Tensor, "images channels height width"]
    row_weights: Float[Tensor, " rows"]
    """1, or 0 for a hole: a row that only keeps the step's shape."""
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
    reference_logps: Float[Tensor, "references targets"]
    """Log-probability of each target under each reference, from their stores; no reference, no line."""
    keys: list[str]
    """`shard/sample` of each row, for messages."""
    refusals: list[str]
    """Why a hole stands in a row's place, empty where none does."""

    @property
    def num_rows(self) -> int:
        """Rows, holes included."""
        return len(self.input_ids)

    @property
    def num_responses(self) -> int:
        """Responses, those of holes included."""
        return len(self.row_index)

    @property
    def lengths(self) -> Int[Tensor, " responses"]:
        """Tokens of each response, end token included."""
        return torch.bincount(self.response_index, minlength=self.num_responses)

    def weights_of(self, *roles: Role) -> Float[Tensor, " chosen_responses"]:
        """Row weight of each response that plays one of the roles, in the order of the responses."""
        return self.row_weights[self.row_index[self.plays(*roles)]]

    def plays(self, *roles: Role) -> Bool[Tensor, " responses"]:
        """Which responses play one of the roles."""
        return torch.isin(self.roles, self.roles.new_tensor(roles))


class Logps(NamedTuple):
    """Log-probabilities (nats) of the responses of a batch under one model."""

    sums: Float[Tensor, " responses"]
    """Summed over the tokens of each response, end token included; each times its weight, where tokens have weights."""
    lengths: Float[Tensor, " responses"]
    """Number of tokens summed, at least 1; the sum of their weights, where they have weights."""

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


class AnswerLoss(NamedTuple):
    """What every loss of single, unpaired answers returns; the rewards carry no gradient."""

    losses: Float[Tensor, " answers"]
    rewards: Float[Tensor, " answers"]
