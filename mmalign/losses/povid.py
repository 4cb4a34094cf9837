"""Preference Optimization in VLLM with AI-Generated Dispreferences, POVID (Zhou et al., 2024).

https://arxiv.org/abs/2402.11411
"""

from jaxtyping import Float
from torch import Tensor

from mmalign.batch import PairLogps, PairLoss
from mmalign.losses.dpo import dpo_loss


def povid_loss(
    *,
    policy: PairLogps,
    reference: PairLogps,
    noisy_policy: Float[Tensor, " pairs"],
    noisy_reference: Float[Tensor, " pairs"],
    beta: float,
    gamma: float = 0.5,
) -> PairLoss:
    """POVID loss of each pair, second stage: against the written rejected answer and against what noise makes one say.

        loss = gamma * DPO(chosen, rejected) + (1 - gamma) * DPO(chosen, noisy)

    `noisy` is no answer that was sampled: the chosen answer is read behind the noised picture, the likeliest token is
    taken at each of its positions, and these tokens are scored by the logits behind the clean picture, after the
    chosen answer's own words. Every position counts, also where the likeliest token is the chosen one. The choice of
    tokens has no gradient.

    Where the authors' code and their paper differ, this is the code (tool/dpo_trainer_inherent.py): the paper writes
    one sigmoid, whose rejected term is a weighted sum of the two log ratios; the code averages two DPO losses, each
    weighing 0.5. The rewards logged are those of the written pair, as in the code. One thing is left to the caller: in
    the code each model scores the tokens that it picked itself, so that the log ratio of the noisy term compares two
    different strings; `noisy_reference` may as well be the reference's score of the policy's tokens.

    Args:
        policy: Response log-probabilities, summed, under the model being trained.
        reference: The same responses under the frozen model; detached.
        noisy_policy: Summed log-probability of the noisy tokens under the model being trained.
        noisy_reference: The same under the frozen model; detached.
        beta: Inverse temperature, > 0.
        gamma: Share of the written rejected answer, in [0, 1].
    """
    written = dpo_loss(policy=policy, reference=reference, beta=beta)
    noisy = dpo_loss(
        policy=PairLogps(policy.chosen, noisy_policy),
        reference=PairLogps(reference.chosen, noisy_reference),
        beta=beta,
    )
    losses = gamma * written.losses + (1 - gamma) * noisy.losses
    return PairLoss(losses, written.chosen_rewards, written.rejected_rewards)
