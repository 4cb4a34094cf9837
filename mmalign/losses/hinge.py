"""Sequence Likelihood Calibration, SLiC (Zhao et al., 2023), https://arxiv.org/abs/2305.10425."""

import torch

from mmalign.batch import PairLogps, PairLoss


def hinge_loss(*, policy: PairLogps, reference: PairLogps, beta: float) -> PairLoss:
    """Hinge loss of each pair: SLiC's rank calibration on DPO's margin.

        reward = beta * (log pi - log pi_ref)
        loss   = max(0, 1 - (reward(chosen) - reward(rejected)))

    SLiC has no reference and calls the margin delta; RSO (Liu et al., 2023, https://arxiv.org/abs/2309.06657)
    normalises by the reference, and 1 / beta takes the place of delta.

    Args:
        policy: Response log-probabilities under the model being trained.
        reference: The same responses under the frozen model; detached.
        beta: Inverse temperature, > 0. A pair further apart than 1 / beta nats teaches nothing any more.
    """
    chosen_rewards = beta * (policy.chosen - reference.chosen)
    rejected_rewards = beta * (policy.rejected - reference.rejected)

    losses = torch.relu(1 - (chosen_rewards - rejected_rewards))
    return PairLoss(losses, chosen_rewards.detach(), rejected_rewards.detach())
