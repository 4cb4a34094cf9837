"""ORPO: no reference; learn the chosen answer, and raise its odds over the rejected one's.

Paper   Hong et al., 2024, https://arxiv.org/abs/2403.07691
Config  configs/orpo.yaml
Tests   tests/losses/test_orpo.py, tests/methods/test_every_method.py
"""

from torch import Tensor

from mmalign.backbone import BackboneSettings
from mmalign.batch import Batch, Role
from mmalign.logps import pair_logps, response_logps
from mmalign.losses.orpo import orpo_loss
from mmalign.methods.base import AlignmentModule, OptimSettings, pair_mean, require_positive
from mmalign.metrics import Mean, preference_metrics


class ORPO(AlignmentModule):
    """Odds Ratio Preference Optimization."""

    roles = (Role.CHOSEN, Role.REJECTED)

    def __init__(
        self,
        backbone: BackboneSettings,
        optim: OptimSettings,
        beta: float = 0.1,
    ) -> None:
        """Store hyperparameters; weights load in ``configure_model``.

        Args:
            backbone: The LLaVA checkpoint and the adapters put on it.
            optim: Learning rate and schedule.
            beta: Weight of the odds ratio beside the likelihood, > 0; lambda in the paper.
        """
        super().__init__(backbone, optim)
        require_positive(beta=beta)
        self.beta = beta

    def compute_loss(self, batch: Batch) -> tuple[Tensor, dict[str, Mean]]:
        """Mean loss over the pairs of the batch; holes count as zero."""
        logps = response_logps(self.llava, batch)
        policy = pair_logps(logps, batch, average=True)
        output = orpo_loss(policy=policy, beta=self.beta)
        return pair_mean(output, batch), preference_metrics(output, policy, batch)
