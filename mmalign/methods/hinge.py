"""Hinge loss on the margin, SLiC's, with DPO's reward.

Paper   Zhao et al., 2023 (SLiC-HF), https://arxiv.org/abs/2305.10425
Config  configs/hinge.yaml
Tests   tests/losses/test_hinge.py, tests/parity/test_trl_losses.py, tests/methods/test_every_method.py
"""

from mmalign.batch import PairLogps, PairLoss
from mmalign.losses.hinge import hinge_loss
from mmalign.methods.base import PairMethod


class Hinge(PairMethod):
    """A margin of one reward, and no more."""

    @property
    def loss_at_reference(self) -> float:
        """The whole margin is missing."""
        return 1.0

    def pair_loss(self, policy: PairLogps, reference: PairLogps) -> PairLoss:
        return hinge_loss(policy=policy, reference=reference, beta=self.beta)
