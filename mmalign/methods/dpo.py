"""DPO on image-conditioned preference pairs.

Paper   Rafailov et al., 2023, https://arxiv.org/abs/2305.18290
Config  configs/dpo.yaml
Tests   tests/methods/test_dpo.py, tests/parity/test_trl_dpo.py

    batch --> llava, adapters on  --> policy logps    --+
          --> llava, adapters off --> reference logps --+--> dpo_loss --> mean
                                                        +--> metrics
"""

import math

import torch
from torch import Tensor

from mmalign.backbone import BackboneSettings
from mmalign.batch import Batch, Role
from mmalign.logps import pair_logps, response_logps
from mmalign.losses.dpo import dpo_loss
from mmalign.methods.base import AlignmentModule, OptimSettings
from mmalign.metrics import preference_metrics


class DPO(AlignmentModule):
    """Direct Preference Optimization against the adapter-free model."""

    loss_at_reference = math.log(2)
    roles = (Role.CHOSEN, Role.REJECTED)

    def __init__(
        self,
        backbone: BackboneSettings,
        optim: OptimSettings,
        beta: float = 0.1,
        label_smoothing: float = 0.0,
        average_logps: bool = False,
    ) -> None:
        """Store hyperparameters; weights load in ``configure_model``.

        Args:
            backbone: The LLaVA checkpoint and the adapters put on it.
            optim: Learning rate and schedule.
            beta: Pull towards the reference, > 0. Rafailov et al. sweep 0.05 to 5; 0.1 is their default.
            label_smoothing: Assumed fraction of flipped labels, in [0, 0.5); cDPO.
            average_logps: Compare per-token means of the log-probabilities instead of sums.
        """
        super().__init__(backbone, optim)
        if beta <= 0:
            raise ValueError(f"DPO needs beta > 0, got {beta}. Set `model.beta`, usually 0.1.")
        if not 0 <= label_smoothing < 0.5:
            raise ValueError(
                f"`model.label_smoothing` is the fraction of flipped labels and must lie in [0, 0.5), "
                f"got {label_smoothing}. At 0.5 the labels say nothing; for plain DPO use 0."
            )
        self.beta = beta
        self.label_smoothing = label_smoothing
        self.average_logps = average_logps

    def compute_loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean DPO loss over the rows of the batch; holes count as zero."""
        logps = response_logps(self.llava, batch)
        policy = pair_logps(logps, batch, average=self.average_logps)
        with torch.no_grad(), self.llava.reference():
            reference = pair_logps(response_logps(self.llava, batch), batch, average=self.average_logps)

        output = dpo_loss(policy=policy, reference=reference, beta=self.beta, label_smoothing=self.label_smoothing)
        loss = (output.losses * batch.row_weights).mean()
        return loss, preference_metrics(output, policy, logps, batch)
