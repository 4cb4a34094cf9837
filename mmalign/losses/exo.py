"""Efficient Exact Optimization, EXO (Ji et al., 2024), https://arxiv.org/abs/2402.00856."""

import math

import torch
import torch.nn.functional as F

from mmalign.batch import PairLogps, PairLoss


def exo_loss(*, policy: PairLogps, reference: PairLogps, beta: float, label_smoothing: float) -> PairLoss:
    """EXO loss of each pair, Eq. 16 at K = 2: the reverse KL that DPO takes the other way round.

        margin = beta * ((log pi - log pi_ref)(chosen) - (log pi - log pi_ref)(rejected))
        q      = (sigmoid(margin), sigmoid(-margin))
        loss   = KL(q || (1 - eps, eps))

    It is 0 where sigmoid(margin) = 1 - eps, and at most -log eps.

    Args:
        policy: Response log-probabilities under the model being trained.
        reference: The same responses under the frozen model; detached.
        beta: Inverse temperature, > 0.
        label_smoothing: eps, in (0, 0.5); the paper and TRL take 1e-3. At 0 the divergence is infinite everywhere.

    Raises:
        ValueError: `label_smoothing` is outside (0, 0.5).
    """
    if not 0 < label_smoothing < 0.5:
        raise ValueError(
            f"exo_loss: label_smoothing is {label_smoothing}; the divergence from a label without doubt is infinite. "
            "Set it in (0, 0.5), for instance 1e-3."
        )
    chosen_rewards = beta * (policy.chosen - reference.chosen)
    rejected_rewards = beta * (policy.rejected - reference.rejected)
    margin = chosen_rewards - rejected_rewards

    # The logarithms are taken of the margin, not of q, which underflows to 0 far from the reference.
    preferred = torch.sigmoid(margin) * (F.logsigmoid(margin) - math.log1p(-label_smoothing))
    dispreferred = torch.sigmoid(-margin) * (F.logsigmoid(-margin) - math.log(label_smoothing))
    return PairLoss(preferred + dispreferred, chosen_rewards.detach(), rejected_rewards.detach())
