"""Kahneman-Tversky Optimization, KTO (Ethayarajh et al., 2024), https://arxiv.org/abs/2402.01306."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mmalign.batch import AnswerLoss


def kto_loss(
    *,
    log_ratios: Float[Tensor, " answers"],
    desirable: Bool[Tensor, " answers"],
    baseline: Float[Tensor, ""],
    beta: float,
    desirable_weight: float = 1.0,
    undesirable_weight: float = 1.0,
) -> AnswerLoss:
    """KTO loss of each answer, Eq. 7: a gain or a loss as people feel it, seen from the baseline.

        good answer: loss = desirable_weight   * (1 - sigmoid(beta * (ratio - baseline)))
        bad answer:  loss = undesirable_weight * (1 - sigmoid(beta * (baseline - ratio)))

    Args:
        log_ratios: log pi - log pi_ref of each answer, summed over its tokens.
        desirable: Whether the answer is a good one.
        baseline: What `kto_baseline` gives for this step.
        beta: Inverse temperature, > 0.
        desirable_weight: lambda_D. The paper keeps lambda_D * good / (lambda_U * bad) a little above 1.
        undesirable_weight: lambda_U.
    """
    gain = torch.where(desirable, log_ratios - baseline, baseline - log_ratios)
    weights = torch.where(desirable, desirable_weight, undesirable_weight)

    losses = weights * torch.sigmoid(-beta * gain)
    return AnswerLoss(losses, beta * log_ratios.detach())


def kto_baseline(log_ratios: Float[Tensor, " answers"]) -> Float[Tensor, ""]:
    """The reference point z0 of KTO: an estimate of KL(pi || pi_ref), never negative, without gradient.

        z0 = max(0, mean of log pi - log pi_ref)

    Args:
        log_ratios: log pi - log pi_ref of prompts with answers that belong to other prompts, from all ranks: the
            maximum of a mean is not the mean of maxima. Of no answers at all it is 0.
    """
    return (log_ratios.detach().sum() / max(len(log_ratios), 1)).clamp(min=0)
