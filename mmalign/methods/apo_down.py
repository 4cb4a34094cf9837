"""APO-down: chosen answers become less likely too, rejected ones more so.

Paper   D'Oosterlinck et al., 2024, https://arxiv.org/abs/2408.06266
Config  configs/apo_down.yaml
Tests   tests/losses/test_apo.py, tests/parity/test_trl_losses.py, tests/methods/test_every_method.py
"""

from mmalign.batch import PairLogps, PairLoss
from mmalign.losses.apo import apo_down_loss
from mmalign.methods.base import PairMethod


class APODown(PairMethod):
    """Anchored Preference Optimization for chosen answers that are worse than the model's own."""

    @property
    def loss_at_reference(self) -> float:
        """Half for the chosen answer and half for the margin."""
        return 1.0

    def pair_loss(self, policy: PairLogps, reference: PairLogps) -> PairLoss:
        return apo_down_loss(policy=policy, reference=reference, beta=self.beta)
