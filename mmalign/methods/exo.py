"""EXO: the reverse KL divergence of DPO, which covers the best answers instead of all.

Paper   Ji et al., 2024, https://arxiv.org/abs/2402.00856
Config  configs/exo.yaml
Tests   tests/losses/test_exo.py, tests/parity/test_trl_losses.py, tests/methods/test_every_method.py
"""

import math

from mmalign.backbone import BackboneSettings
from mmalign.batch import PairLogps, PairLoss
from mmalign.losses.exo import exo_loss
from mmalign.methods.base import OptimSettings, PairMethod, Reference, require_smoothing


class EXO(PairMethod):
    """Efficient Exact Optimization on pairs."""

    def __init__(
        self,
        backbone: BackboneSettings,
        optim: OptimSettings,
        reference: Reference = "store",
        beta: float = 0.1,
        label_smoothing: float = 1.0e-3,
        average_logps: bool = False,
    ) -> None:
        """Store hyperparameters; weights load in ``configure_model``.

        Args:
            backbone: The LLaVA checkpoint and the adapters put on it.
            optim: Learning rate and schedule.
            reference: `store` computes reference log-probabilities once, `live` in every step.
            beta: Scale of the rewards, > 0: the larger, the stronger the pull towards the reference.
            label_smoothing: What is left for the rejected answer in the target, in (0, 0.5); at 0 the loss is infinite.
            average_logps: Compare per-token means of the log-probabilities instead of sums.
        """
        super().__init__(backbone, optim, reference, beta, average_logps)
        require_smoothing(label_smoothing)
        if label_smoothing == 0:
            raise ValueError(
                "`model.label_smoothing` must be above 0 for EXO: the loss has its logarithm. 1e-3 is usual."
            )
        self.label_smoothing = label_smoothing

    @property
    def loss_at_reference(self) -> float:
        """KL divergence of even odds from the smoothed label."""
        return -math.log(2) - 0.5 * math.log(self.label_smoothing * (1 - self.label_smoothing))

    def pair_loss(self, policy: PairLogps, reference: PairLogps) -> PairLoss:
        return exo_loss(policy=policy, reference=reference, beta=self.beta, label_smoothing=self.label_smoothing)
