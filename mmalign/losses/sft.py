"""Supervised fine-tuning on answers: plain negative log-likelihood."""

from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor

from mmalign.batch import Logps


class TokenLoss(NamedTuple):
    """A sum over tokens and their number, from which a mean over any set of batches can be made."""

    total: Float[Tensor, ""]
    """Nats, summed over all tokens."""
    tokens: Float[Tensor, ""]
    """Number of tokens summed; without gradient."""


def sft_loss(*, policy: Logps, weights: Float[Tensor, " responses"]) -> TokenLoss:
    """Negative log-likelihood of all answers of a batch, end tokens included.

        total = -sum over responses of weight * sum over tokens of log pi(token)

    Long answers count more than short ones: every token of an optimizer step weighs the same. The step's loss is
    the sum of its batches' totals over the sum of their tokens, on all ranks; means of batches would not average to it.

    Args:
        policy: Log-probabilities of the responses under the model being trained.
        weights: 1 for a response to be learned, 0 for one that is not (a hole's).
    """
    return TokenLoss(-(weights * policy.sums).sum(), (weights * policy.lengths).sum().detach())
