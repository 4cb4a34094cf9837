"""NCA: the absolute reward of each answer counts, so chosen answers do not lose likelihood.

Paper   Chen et al., 2024, https://arxiv.org/abs/2402.05369
Config  configs/nca.yaml
Tests   tests/losses/test_nca.py, tests/parity/test_trl_losses.py, tests/methods/test_every_method.py
"""

import math

from mmalign.batch import PairLogps, PairLoss
from mmalign.losses.nca import nca_loss
from mmalign.methods.base import PairMethod


class NCA(PairMethod):
    """Noise Contrastive Alignment on pairs."""

    @property
    def loss_at_reference(self) -> float:
        """The log of 2 for the chosen answer, half of it twice for both."""
        return 2 * math.log(2)

    def pair_loss(self, policy: PairLogps, reference: PairLogps) -> PairLoss:
        return nca_loss(policy=policy, reference=reference, beta=self.beta)
