"""Binary Classifier Optimization (Jung et al., 2024), https://arxiv.org/abs/2404.04656."""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from mmalign.batch import PairLogps, PairLoss


def bco_loss(
    *, policy: PairLogps, reference: PairLogps, beta: float, shift: float | Float[Tensor, ""] = 0.0
) -> PairLoss:
    """BCO loss of each pair: a classifier that tells good answers from bad by their reward.

        reward = beta * (log pi - log pi_ref)
        loss   = -log sigmoid(reward(chosen) - shift) - log sigmoid(-(reward(rejected) - shift))

    TRL dropped the shift from its `bco_pair`, which is this loss at shift 0.

    Args:
        policy: Response log-probabilities under the model being trained.
        reference: The same responses under the frozen model; detached.
        beta: Inverse temperature, > 0.
        shift: delta, the running mean of all rewards, chosen and rejected, on all ranks; without gradient.
    """
    chosen_rewards = beta * (policy.chosen - reference.chosen)
    rejected_rewards = beta * (policy.rejected - reference.rejected)

    losses = -F.logsigmoid(chosen_rewards - shift) - F.logsigmoid(shift - rejected_rewards)
    return PairLoss(losses, chosen_rewards.detach(), rejected_rewards.detach())
