"""Odds Ratio Preference Optimization, ORPO (Hong et al., 2024), https://arxiv.org/abs/2403.07691."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from mmalign.batch import PairLogps, PairLoss


def orpo_loss(*, policy: PairLogps, beta: float) -> PairLoss:
    """ORPO loss of each pair, Eqs. 6 and 7: fine-tuning on the chosen answer plus the odds against the rejected one.

        p    = exp(mean log pi),  odds = p / (1 - p)
        loss = -log p(chosen) - beta * log sigmoid(log odds(chosen) - log odds(rejected))

    The first term is the mean over the tokens of each chosen answer, so that every pair counts the same. TRL takes
    one mean over all tokens of the batch there, and counts the prompt's tokens too.

    Args:
        policy: Per-token means of the response log-probabilities under the model being trained.
        beta: Weight of the odds ratio (the paper's lambda), >= 0; 0.1 to 0.25 in the paper.
    """
    log_odds_ratio = _log_odds(policy.chosen) - _log_odds(policy.rejected)

    losses = -policy.chosen - beta * F.logsigmoid(log_odds_ratio)
    return PairLoss(losses, beta * policy.chosen.detach(), beta * policy.rejected.detach())


def _log_odds(logps: Float[Tensor, " pairs"]) -> Float[Tensor, " pairs"]:
    """log(p / (1 - p)); an answer of probability 1 to the last digit has the largest odds its type can tell apart."""
    below_zero = logps.clamp(max=-torch.finfo(logps.dtype).eps)
    return below_zero - torch.log(-torch.expm1(below_zero))
