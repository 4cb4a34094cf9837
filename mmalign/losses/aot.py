"""Alignment via Optimal Transport, AOT (Melnyk et al., 2024), https://arxiv.org/abs/2406.05882.

Both forms ask that one distribution of the batch lie above another at every quantile, so they sort over the batch:
`losses[i]` is the loss of the i-th quantile, not of pair i, and depends on what else stands in the batch. Every
pair must count the same: weights of pairs cannot be applied to quantiles.
"""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from mmalign.batch import PairLogps, PairLoss


def aot_loss(*, policy: PairLogps, reference: PairLogps, beta: float, label_smoothing: float = 0.0) -> PairLoss:
    """AOT for paired data: the policy's margins dominate the reference's, quantile by quantile.

        upper = sort(log pi(chosen) - log pi(rejected))
        lower = sort(log pi_ref(chosen) - log pi_ref(rejected))
        loss  = -(1 - eps) * log sigmoid(beta (upper - lower)) - eps * log sigmoid(-beta (upper - lower))

    Args:
        policy: Response log-probabilities under the model being trained.
        reference: The same responses under the frozen model; detached.
        beta: Inverse temperature, > 0.
        label_smoothing: eps, the chance that a label is flipped, in [0, 0.5).
    """
    upper = policy.chosen - policy.rejected
    lower = reference.chosen - reference.rejected
    return PairLoss(_dominance(upper, lower, beta, label_smoothing), *_rewards(policy, reference, beta))


def aot_unpaired_loss(
    *, policy: PairLogps, reference: PairLogps, beta: float, label_smoothing: float = 0.0
) -> PairLoss:
    """AOT for unpaired data: the rewards of chosen answers dominate those of rejected ones, quantile by quantile.

        upper = sort(log pi(chosen) - log pi_ref(chosen))
        lower = sort(log pi(rejected) - log pi_ref(rejected))
        loss  = -(1 - eps) * log sigmoid(beta (upper - lower)) - eps * log sigmoid(-beta (upper - lower))

    Args:
        policy: Response log-probabilities under the model being trained.
        reference: The same responses under the frozen model; detached.
        beta: Inverse temperature, > 0.
        label_smoothing: eps, the chance that a label is flipped, in [0, 0.5).
    """
    upper = policy.chosen - reference.chosen
    lower = policy.rejected - reference.rejected
    return PairLoss(_dominance(upper, lower, beta, label_smoothing), *_rewards(policy, reference, beta))


def _dominance(
    upper: Float[Tensor, " pairs"], lower: Float[Tensor, " pairs"], beta: float, label_smoothing: float
) -> Float[Tensor, " pairs"]:
    """Logistic loss of each quantile of `upper` lying above that of `lower`."""
    margin = beta * (upper.sort().values - lower.sort().values)
    return -(1 - label_smoothing) * F.logsigmoid(margin) - label_smoothing * F.logsigmoid(-margin)


def _rewards(
    policy: PairLogps, reference: PairLogps, beta: float
) -> tuple[Float[Tensor, " pairs"], Float[Tensor, " pairs"]]:
    """Rewards of the pairs in their own order, chosen and rejected."""
    return (
        beta * (policy.chosen - reference.chosen).detach(),
        beta * (policy.rejected - reference.rejected).detach(),
    )
