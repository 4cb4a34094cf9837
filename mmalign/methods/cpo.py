"""CPO: no reference; DPO against a uniform one, beside the likelihood of the chosen answer.

Paper   Xu et al., 2024, https://arxiv.org/abs/2401.08417
Config  configs/cpo.yaml
Tests   tests/losses/test_cpo.py, tests/methods/test_every_method.py
"""

from torch import Tensor

from mmalign.backbone import BackboneSettings
from mmalign.batch import Batch, Role
from mmalign.logps import pair_logps, response_logps
from mmalign.losses.cpo import cpo_loss
from mmalign.methods.base import AlignmentModule, OptimSettings, pair_mean, require_positive
from mmalign.metrics import Mean, preference_metrics


class CPO(AlignmentModule):
    """Contrastive Preference Optimization."""

    roles = (Role.CHOSEN, Role.REJECTED)

    def __init__(
        self,
        backbone: BackboneSettings,
        optim: OptimSettings,
        beta: float = 0.1,
        nll_weight: float = 1.0,
    ) -> None:
        """Store hyperparameters; weights load in ``configure_model``.

        Args:
            backbone: The LLaVA checkpoint and the adapters put on it.
            optim: Learning rate and schedule.
            beta: Scale of the rewards, > 0.
            nll_weight: Weight of the chosen answer's negative log-likelihood per token, at least 0.
        """
        super().__init__(backbone, optim)
        require_positive(beta=beta)
        if nll_weight < 0:
            raise ValueError(f"`model.nll_weight` must be at least 0, got {nll_weight}.")
        self.beta = beta
        self.nll_weight = nll_weight

    def compute_loss(self, batch: Batch) -> tuple[Tensor, dict[str, Mean]]:
        """Mean loss over the pairs of the batch; holes count as zero."""
        logps = response_logps(self.llava, batch)
        policy = pair_logps(logps, batch, average=False)
        output = cpo_loss(
            policy=policy,
            chosen_nll=-pair_logps(logps, batch, average=True).chosen,
            beta=self.beta,
            nll_weight=self.nll_weight,
        )
        return pair_mean(output, batch), preference_metrics(output, policy, batch)
