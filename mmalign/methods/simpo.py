"""SimPO: no reference; the mean log-probability is the reward, and pairs must lie a margin apart.

Paper   Meng et al., 2024, https://arxiv.org/abs/2405.14734
Config  configs/simpo.yaml
Tests   tests/losses/test_simpo.py, tests/methods/test_every_method.py
"""

from torch import Tensor

from mmalign.backbone import BackboneSettings
from mmalign.batch import Batch, Role
from mmalign.logps import pair_logps, response_logps
from mmalign.losses.simpo import simpo_loss
from mmalign.methods.base import AlignmentModule, OptimSettings, pair_mean, require_positive
from mmalign.metrics import Mean, preference_metrics


class SimPO(AlignmentModule):
    """Simple Preference Optimization."""

    roles = (Role.CHOSEN, Role.REJECTED)

    def __init__(
        self,
        backbone: BackboneSettings,
        optim: OptimSettings,
        beta: float = 2.0,
        gamma: float = 1.0,
    ) -> None:
        """Store hyperparameters; weights load in ``configure_model``.

        Args:
            backbone: The LLaVA checkpoint and the adapters put on it.
            optim: Learning rate and schedule.
            beta: Scale of the rewards, > 0; the paper searches 2 to 10.
            gamma: Margin that a pair must reach, at least 0; the paper searches 0.1 to 0.8 times beta.
        """
        super().__init__(backbone, optim)
        require_positive(beta=beta)
        if gamma < 0:
            raise ValueError(f"`model.gamma` must be at least 0, got {gamma}.")
        self.beta = beta
        self.gamma = gamma

    def compute_loss(self, batch: Batch) -> tuple[Tensor, dict[str, Mean]]:
        """Mean loss over the pairs of the batch; holes count as zero."""
        logps = response_logps(self.llava, batch)
        policy = pair_logps(logps, batch, average=True)
        output = simpo_loss(policy=policy, beta=self.beta, gamma=self.gamma)
        return pair_mean(output, batch), preference_metrics(output, policy, batch)
