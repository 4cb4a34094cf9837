"""Noise Contrastive Alignment (Chen et al., 2024), https://arxiv.org/abs/2402.05369."""

import torch.nn.functional as F

from mmalign.batch import PairLogps, PairLoss


def nca_loss(*, policy: PairLogps, reference: PairLogps, beta: float) -> PairLoss:
    """NCA loss of each pair, the paper's pairwise form: the absolute likelihood counts, not only the margin.

        reward = beta * (log pi - log pi_ref)
        loss   = -log sigmoid(reward(chosen)) - 1/2 * sum over both answers of log sigmoid(-reward)

    Args:
        policy: Response log-probabilities under the model being trained.
        reference: The same responses under the frozen model; detached.
        beta: Inverse temperature, > 0.
    """
    chosen_rewards = beta * (policy.chosen - reference.chosen)
    rejected_rewards = beta * (policy.rejected - reference.rejected)

    as_noise = F.logsigmoid(-chosen_rewards) + F.logsigmoid(-rejected_rewards)
    losses = -F.logsigmoid(chosen_rewards) - 0.5 * as_noise
    return PairLoss(losses, chosen_rewards.detach(), rejected_rewards.detach())
