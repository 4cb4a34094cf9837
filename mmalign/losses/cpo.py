"""Contrastive Preference Optimization, CPO (Xu et al., 2024), https://arxiv.org/abs/2401.08417."""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from mmalign.batch import PairLogps, PairLoss


def cpo_loss(
    *, policy: PairLogps, chosen_nll: Float[Tensor, " pairs"], beta: float, nll_weight: float = 1.0
) -> PairLoss:
    """CPO loss of each pair: DPO with a uniform reference, held by the likelihood of the chosen answer.

        loss = -log sigmoid(beta * (log pi(chosen) - log pi(rejected))) + nll_weight * NLL(chosen)

    The last term is a mean over the tokens of each answer, so that every pair counts the same; TRL takes one mean
    over all tokens of the batch.

    Args:
        policy: Response log-probabilities, summed, under the model being trained.
        chosen_nll: Negative log-likelihood of each chosen answer, per token.
        beta: Inverse temperature, > 0.
        nll_weight: Weight of the likelihood term, >= 0; 1 in the paper.
    """
    chosen_rewards, rejected_rewards = beta * policy.chosen, beta * policy.rejected

    losses = -F.logsigmoid(chosen_rewards - rejected_rewards) + nll_weight * chosen_nll
    return PairLoss(losses, chosen_rewards.detach(), rejected_rewards.detach())
