"""AOT: sorted margins, so that the whole distribution of chosen rewards lies above that of rejected ones.

Paper   Melnyk et al., 2024, https://arxiv.org/abs/2406.05882
Config  configs/aot.yaml
Tests   tests/losses/test_aot.py, tests/parity/test_trl_losses.py, tests/methods/test_every_method.py
"""

import math

from mmalign.batch import PairLogps, PairLoss
from mmalign.losses.aot import aot_loss
from mmalign.methods.base import PairMethod


class AOT(PairMethod):
    """Alignment by Optimal Transport on pairs."""

    @property
    def loss_at_reference(self) -> float:
        """The log of 2 for each quantile."""
        return math.log(2)

    def pair_loss(self, policy: PairLogps, reference: PairLogps) -> PairLoss:
        return aot_loss(policy=policy, reference=reference, beta=self.beta)
