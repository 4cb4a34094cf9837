"""Conditional preference optimization for multimodal models, mDPO (Wang et al., 2024), https://arxiv.org/abs/2406.11839."""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from mmalign.batch import PairLogps, PairLoss
from mmalign.losses.dpo import dpo_loss


def mdpo_loss(
    *,
    policy: PairLogps,
    reference: PairLogps,
    other_image_policy: Float[Tensor, " pairs"],
    other_image_reference: Float[Tensor, " pairs"],
    beta: float,
    anchor: float = 0.0,
) -> PairLoss:
    """Loss of mDPO for each pair: the better answer, the right picture, and an anchor.

        ratio = log pi - log pi_ref
        loss  = -log sigmoid(beta * (ratio(chosen) - ratio(rejected)))                         (DPO)
                -log sigmoid(beta * (ratio(chosen) - ratio(chosen behind the other picture)))  (conditional preference)
                -log sigmoid(beta * (ratio(chosen) - anchor))                                  (anchor)

    The second term makes the picture matter, the third keeps the chosen answer from becoming less likely.

    Args:
        policy: Response log-probabilities, summed, under the model being trained.
        reference: The same responses under the frozen model; detached.
        other_image_policy: The chosen answer behind a changed picture, under the model being trained.
        other_image_reference: The same under the frozen model; detached.
        beta: Inverse temperature, > 0.
        anchor: delta, nats that the chosen answer's log ratio shall exceed; 0 in the paper.
    """
    dpo = dpo_loss(policy=policy, reference=reference, beta=beta)
    chosen = policy.chosen - reference.chosen
    other_image = other_image_policy - other_image_reference

    losses = dpo.losses - F.logsigmoid(beta * (chosen - other_image)) - F.logsigmoid(beta * (chosen - anchor))
    return PairLoss(losses, dpo.chosen_rewards, dpo.rejected_rewards)
