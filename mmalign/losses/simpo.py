"""Simple Preference Optimization, SimPO (Meng et al., 2024), https://arxiv.org/abs/2405.14734."""

import torch.nn.functional as F

from mmalign.batch import PairLogps, PairLoss


def simpo_loss(*, policy: PairLogps, beta: float, gamma: float) -> PairLoss:
    """SimPO loss of each pair, Eq. 6: no reference, and length takes no part.

        reward = beta * log pi / length
        loss   = -log sigmoid(reward(chosen) - reward(rejected) - gamma)

    Args:
        policy: Per-token means of the response log-probabilities under the model being trained.
        beta: Scale of the reward, > 0; the paper takes 2 to 10.
        gamma: Margin the rewards shall reach, >= 0, in units of reward (the paper tunes gamma / beta, 0.1 to 0.8).
    """
    chosen_rewards, rejected_rewards = beta * policy.chosen, beta * policy.rejected

    losses = -F.logsigmoid(chosen_rewards - rejected_rewards - gamma)
    return PairLoss(losses, chosen_rewards.detach(), rejected_rewards.detach())
