"""Robust DPO: label noise of a known rate is taken out of the loss, not only softened.

Paper   Chowdhury et al., 2024, https://arxiv.org/abs/2403.00409
Config  configs/robust.yaml
Tests   tests/losses/test_robust.py, tests/parity/test_trl_losses.py, tests/methods/test_every_method.py
"""

import math

from mmalign.backbone import BackboneSettings
from mmalign.batch import PairLogps, PairLoss
from mmalign.losses.robust import robust_loss
from mmalign.methods.base import OptimSettings, PairMethod, Reference, require_smoothing


class RobustDPO(PairMethod):
    """DPO whose expected loss under flipped labels is that of clean ones."""

    def __init__(
        self,
        backbone: BackboneSettings,
        optim: OptimSettings,
        reference: Reference = "store",
        beta: float = 0.1,
        label_smoothing: float = 0.1,
        average_logps: bool = False,
    ) -> None:
        """Store hyperparameters; weights load in ``configure_model``.

        Args:
            backbone: The LLaVA checkpoint and the adapters put on it.
            optim: Learning rate and schedule.
            reference: `store` computes reference log-probabilities once, `live` in every step.
            beta: Scale of the rewards, > 0: the larger, the stronger the pull towards the reference.
            label_smoothing: Known fraction of flipped labels, in [0, 0.5).
            average_logps: Compare per-token means of the log-probabilities instead of sums.
        """
        super().__init__(backbone, optim, reference, beta, average_logps)
        require_smoothing(label_smoothing)
        self.label_smoothing = label_smoothing

    @property
    def loss_at_reference(self) -> float:
        """The log of 2, as without noise."""
        return math.log(2)

    def pair_loss(self, policy: PairLogps, reference: PairLogps) -> PairLoss:
        return robust_loss(policy=policy, reference=reference, beta=self.beta, label_smoothing=self.label_smoothing)
