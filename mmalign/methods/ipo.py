"""IPO: the margin is pulled to a fixed size, so a pair that is surely right does not run away.

Paper   Azar et al., 2023, https://arxiv.org/abs/2310.12036
Config  configs/ipo.yaml
Tests   tests/losses/test_ipo.py, tests/parity/test_trl_losses.py, tests/methods/test_every_method.py
"""

from mmalign.batch import PairLogps, PairLoss
from mmalign.losses.ipo import ipo_loss
from mmalign.methods.base import PairMethod


class IPO(PairMethod):
    """Identity Preference Optimization."""

    @property
    def loss_at_reference(self) -> float:
        """The whole way to the target is left."""
        return (0.5 / self.beta) ** 2

    def pair_loss(self, policy: PairLogps, reference: PairLogps) -> PairLoss:
        return ipo_loss(policy=policy, reference=reference, beta=self.beta)
