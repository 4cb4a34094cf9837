"""SPPO with hard labels: each answer's log ratio is pulled to half of 1 / beta, up or down.

Paper   Wu et al., 2024, https://arxiv.org/abs/2405.00675
Config  configs/sppo_hard.yaml
Tests   tests/losses/test_sppo.py, tests/parity/test_trl_losses.py, tests/methods/test_every_method.py
"""

from mmalign.batch import PairLogps, PairLoss
from mmalign.losses.sppo import sppo_hard_loss
from mmalign.methods.base import PairMethod


class SPPOHard(PairMethod):
    """Self-Play Preference Optimization on given pairs."""

    @property
    def loss_at_reference(self) -> float:
        """Both answers are half of 1 / beta from their targets."""
        return 2 * (0.5 / self.beta) ** 2

    def pair_loss(self, policy: PairLogps, reference: PairLogps) -> PairLoss:
        return sppo_hard_loss(policy=policy, reference=reference, beta=self.beta)
