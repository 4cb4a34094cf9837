"""Mixed Preference Optimization, MPO (Wang et al., 2024), https://arxiv.org/abs/2411.10442."""

from jaxtyping import Float
from torch import Tensor

from mmalign.batch import PairLogps, PairLoss
from mmalign.losses.bco import bco_loss
from mmalign.losses.dpo import dpo_loss


def mpo_loss(
    *,
    policy: PairLogps,
    reference: PairLogps,
    chosen_nll: Float[Tensor, " pairs"],
    beta: float,
    shift: float | Float[Tensor, ""] = 0.0,
    dpo_weight: float = 0.8,
    bco_weight: float = 0.2,
    nll_weight: float = 1.0,
) -> PairLoss:
    """MPO loss of each pair: which is better, whether it is good, and how to say it.

        loss = dpo_weight * DPO + bco_weight * BCO + nll_weight * NLL(chosen)

    The weights are those of the authors' code (InternVL); the paper names none.

    Args:
        policy: Response log-probabilities, summed, under the model being trained.
        reference: The same responses under the frozen model; detached.
        chosen_nll: Negative log-likelihood of each chosen answer, per token.
        beta: Inverse temperature, > 0.
        shift: BCO's running mean of rewards, from all ranks; without gradient.
        dpo_weight: Weight of the DPO loss.
        bco_weight: Weight of the BCO loss.
        nll_weight: Weight of the likelihood of the chosen answer.
    """
    dpo = dpo_loss(policy=policy, reference=reference, beta=beta)
    bco = bco_loss(policy=policy, reference=reference, beta=beta, shift=shift)

    losses = dpo_weight * dpo.losses + bco_weight * bco.losses + nll_weight * chosen_nll
    return PairLoss(losses, dpo.chosen_rewards, dpo.rejected_rewards)
