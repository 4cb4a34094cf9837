"""Provably Robust DPO (Ray Chowdhury et al., 2024), https://arxiv.org/abs/2403.00409."""

import torch.nn.functional as F

from mmalign.batch import PairLogps, PairLoss


def robust_loss(*, policy: PairLogps, reference: PairLogps, beta: float, label_smoothing: float) -> PairLoss:
    """Robust DPO loss of each pair: its mean over flipped labels is the DPO loss on clean ones.

        margin = beta * ((log pi - log pi_ref)(chosen) - (log pi - log pi_ref)(rejected))
        loss   = (-(1 - eps) * log sigmoid(margin) + eps * log sigmoid(-margin)) / (1 - 2 eps)

    Unlike cDPO's, the loss of a single pair may be negative; it falls without bound as the margin grows, at a slope
    that tends to eps / (1 - 2 eps).

    Args:
        policy: Response log-probabilities under the model being trained.
        reference: The same responses under the frozen model; detached.
        beta: Inverse temperature, > 0.
        label_smoothing: eps, the chance that a label is flipped, in [0, 0.5).

    Raises:
        ValueError: `label_smoothing` is outside [0, 0.5).
    """
    if not 0 <= label_smoothing < 0.5:
        raise ValueError(
            f"robust_loss: label_smoothing is {label_smoothing}; it is the chance of a flipped label, and labels "
            "flipped half the time say nothing. Set it in [0, 0.5)."
        )
    chosen_rewards = beta * (policy.chosen - reference.chosen)
    rejected_rewards = beta * (policy.rejected - reference.rejected)
    margin = chosen_rewards - rejected_rewards

    as_labelled, flipped = -F.logsigmoid(margin), -F.logsigmoid(-margin)
    losses = ((1 - label_smoothing) * as_labelled - label_smoothing * flipped) / (1 - 2 * label_smoothing)
    return PairLoss(losses, chosen_rewards.detach(), rejected_rewards.detach())
