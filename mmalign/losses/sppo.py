"""Self-Play Preference Optimization (Wu et al., 2024), https://arxiv.org/abs/2405.00675."""

from mmalign.batch import PairLogps, PairLoss


def sppo_hard_loss(*, policy: PairLogps, reference: PairLogps, beta: float) -> PairLoss:
    """SPPO loss of each pair, Eq. 4.7 with hard wins: the chosen answer wins with probability 1, the rejected with 0.

        ratio = log pi - log pi_ref
        loss  = (ratio(chosen) - 1 / (2 beta))^2 + (ratio(rejected) + 1 / (2 beta))^2

    Args:
        policy: Response log-probabilities under the model being trained.
        reference: The same responses under the frozen model; detached.
        beta: Inverse of the paper's eta, > 0. Each answer is moved by 1 / (2 beta) nats and no further.
    """
    chosen = policy.chosen - reference.chosen
    rejected = policy.rejected - reference.rejected

    losses = (chosen - 1 / (2 * beta)).square() + (rejected + 1 / (2 * beta)).square()
    return PairLoss(losses, beta * chosen.detach(), beta * rejected.detach())
