"""DiscoPOP: logistic and exponential loss blended by the margin, a loss that a language model found.

Paper   Lu et al., 2024, https://arxiv.org/abs/2406.08414
Config  configs/discopop.yaml
Tests   tests/losses/test_discopop.py, tests/parity/test_trl_losses.py, tests/methods/test_every_method.py
"""

import math

from mmalign.backbone import BackboneSettings
from mmalign.batch import PairLogps, PairLoss
from mmalign.losses.discopop import discopop_loss
from mmalign.methods.base import OptimSettings, PairMethod, Reference, require_positive


class DiscoPOP(PairMethod):
    """Log-ratio modulated loss."""

    def __init__(
        self,
        backbone: BackboneSettings,
        optim: OptimSettings,
        reference: Reference = "store",
        beta: float = 0.05,
        tau: float = 0.05,
        average_logps: bool = False,
    ) -> None:
        """Store hyperparameters; weights load in ``configure_model``.

        Args:
            backbone: The LLaVA checkpoint and the adapters put on it.
            optim: Learning rate and schedule.
            reference: `store` computes reference log-probabilities once, `live` in every step.
            beta: Scale of the rewards, > 0: the larger, the stronger the pull towards the reference.
            tau: Temperature of the blend, > 0: the smaller, the sharper the change from one loss to the other.
            average_logps: Compare per-token means of the log-probabilities instead of sums.
        """
        super().__init__(backbone, optim, reference, beta, average_logps)
        require_positive(tau=tau)
        self.tau = tau

    @property
    def loss_at_reference(self) -> float:
        """Half logistic, half exponential loss of an even pair."""
        return 0.5 * (math.log(2) + 1)

    def pair_loss(self, policy: PairLogps, reference: PairLogps) -> PairLoss:
        return discopop_loss(policy=policy, reference=reference, beta=self.beta, tau=self.tau)
