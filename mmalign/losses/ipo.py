"""Identity Preference Optimization (Azar et al., 2023), https://arxiv.org/abs/2310.12036."""

from mmalign.batch import PairLogps, PairLoss


def ipo_loss(*, policy: PairLogps, reference: PairLogps, beta: float) -> PairLoss:
    """IPO loss of each pair, Eq. 17: the margin is pulled to 1 / (2 beta), not pushed for ever.

        margin = (log pi - log pi_ref)(chosen) - (log pi - log pi_ref)(rejected)
        loss   = (margin - 1 / (2 beta))^2

    The paper writes sums over the tokens. TRL takes per-token means and reports that the authors did so too; here
    the caller decides, by what the records hold.

    Args:
        policy: Response log-probabilities under the model being trained; sums or means.
        reference: The same responses under the frozen model; detached, and the same of sums or means.
        beta: Regularization (the paper's tau), > 0. The target margin, in nats, is 1 / (2 beta).
    """
    chosen = policy.chosen - reference.chosen
    rejected = policy.rejected - reference.rejected

    losses = (chosen - rejected - 1 / (2 * beta)).square()
    return PairLoss(losses, beta * chosen.detach(), beta * rejected.detach())
