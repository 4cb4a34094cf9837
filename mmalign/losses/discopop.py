"""Discovered Preference Optimization, DiscoPOP (Lu et al., 2024), https://arxiv.org/abs/2406.08414."""

import torch
import torch.nn.functional as F

from mmalign.batch import PairLogps, PairLoss


def discopop_loss(*, policy: PairLogps, reference: PairLogps, beta: float, tau: float = 0.05) -> PairLoss:
    """DiscoPOP loss of each pair, Eq. 5 (the log-ratio modulated loss): logistic below 0, exponential above.

        margin = beta * ((log pi - log pi_ref)(chosen) - (log pi - log pi_ref)(rejected))
        mix    = sigmoid(margin / tau)
        loss   = (1 - mix) * -log sigmoid(margin) + mix * exp(-margin)

    Not convex: at the reference itself the loss rises with the margin, and falls only beyond a hump a few tau wide.

    Args:
        policy: Response log-probabilities under the model being trained.
        reference: The same responses under the frozen model; detached.
        beta: Inverse temperature, > 0.
        tau: Width of the switch, in (0, 1); the paper's 0.05.
    """
    chosen_rewards = beta * (policy.chosen - reference.chosen)
    rejected_rewards = beta * (policy.rejected - reference.rejected)
    margin = chosen_rewards - rejected_rewards

    logistic = -F.logsigmoid(margin) * torch.sigmoid(-margin / tau)
    # One exponential of the sum: the product would be 0 * inf at a margin far below 0.
    exponential = torch.exp(F.logsigmoid(margin / tau) - margin)
    return PairLoss(logistic + exponential, chosen_rewards.detach(), rejected_rewards.detach())
