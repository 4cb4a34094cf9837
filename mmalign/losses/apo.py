"""Anchored Preference Optimization (D'Oosterlinck et al., 2024), https://arxiv.org/abs/2408.06266."""

import torch

from mmalign.batch import PairLogps, PairLoss


def apo_zero_loss(*, policy: PairLogps, reference: PairLogps, beta: float) -> PairLoss:
    """APO-zero loss of each pair, Eq. 7: for chosen answers better than what the model would say.

        reward = beta * (log pi - log pi_ref)
        loss   = (1 - sigmoid(reward(chosen))) + sigmoid(reward(rejected))

    The chosen answer is made likelier and the rejected one less likely, each on its own.

    Args:
        policy: Response log-probabilities under the model being trained.
        reference: The same responses under the frozen model; detached.
        beta: Inverse temperature, > 0.
    """
    chosen_rewards = beta * (policy.chosen - reference.chosen)
    rejected_rewards = beta * (policy.rejected - reference.rejected)

    losses = torch.sigmoid(-chosen_rewards) + torch.sigmoid(rejected_rewards)
    return PairLoss(losses, chosen_rewards.detach(), rejected_rewards.detach())


def apo_down_loss(*, policy: PairLogps, reference: PairLogps, beta: float) -> PairLoss:
    """APO-down loss of each pair, Eq. 8: for chosen answers worse than what the model would say.

        reward = beta * (log pi - log pi_ref)
        loss   = sigmoid(reward(chosen)) + (1 - sigmoid(reward(chosen) - reward(rejected)))

    Both answers are made less likely, the rejected one more so.

    Args:
        policy: Response log-probabilities under the model being trained.
        reference: The same responses under the frozen model; detached.
        beta: Inverse temperature, > 0.
    """
    chosen_rewards = beta * (policy.chosen - reference.chosen)
    rejected_rewards = beta * (policy.rejected - reference.rejected)

    losses = torch.sigmoid(chosen_rewards) + torch.sigmoid(rejected_rewards - chosen_rewards)
    return PairLoss(losses, chosen_rewards.detach(), rejected_rewards.detach())
