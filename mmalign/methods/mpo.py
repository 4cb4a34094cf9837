"""MPO: DPO for the preference, BCO for the quality of each answer, NLL for how it is made.

Paper   Wang et al., 2024, https://arxiv.org/abs/2411.10442
Config  configs/mpo.yaml
Tests   tests/losses/test_mpo.py, tests/methods/test_running_values.py

    batch --> llava --> policy logps    --+--> 0.8 dpo_loss
          --> store --> reference logps --+--> 0.2 bco_loss, less the running shift
                        policy chosen ------->   1 nll, per token of each answer
"""

import math

from torch import Tensor

from mmalign.backbone import BackboneSettings
from mmalign.batch import Batch
from mmalign.logps import pair_logps, response_logps, sum_responses
from mmalign.losses.mpo import mpo_loss
from mmalign.methods.base import OptimSettings, Reference, ReferenceMethod, pair_mean
from mmalign.metrics import Mean, RunningMean, preference_metrics


class MPO(ReferenceMethod):
    """Mixed Preference Optimization; its running shift is BCO's."""

    def __init__(
        self,
        backbone: BackboneSettings,
        optim: OptimSettings,
        reference: Reference = "store",
        beta: float = 0.1,
        dpo_weight: float = 0.8,
        bco_weight: float = 0.2,
        nll_weight: float = 1.0,
    ) -> None:
        """Store hyperparameters; weights load in ``configure_model``.

        Args:
            backbone: The LLaVA checkpoint and the adapters put on it.
            optim: Learning rate and schedule.
            reference: `store` computes reference log-probabilities once, `live` in every step.
            beta: Scale of the rewards, > 0: the larger, the stronger the pull towards the reference.
            dpo_weight: Of the preference, at least 0.
            bco_weight: Of the quality, at least 0.
            nll_weight: Of the chosen answer's negative log-likelihood, at least 0.
        """
        super().__init__(backbone, optim, reference, beta)
        if min(dpo_weight, bco_weight, nll_weight) < 0 or dpo_weight + bco_weight + nll_weight == 0:
            raise ValueError(
                f"MPO's weights must be at least 0 and not all 0, got `model.dpo_weight` {dpo_weight}, "
                f"`model.bco_weight` {bco_weight}, `model.nll_weight` {nll_weight}. The paper's are 0.8, 0.2 and 1."
            )
        self.dpo_weight, self.bco_weight, self.nll_weight = dpo_weight, bco_weight, nll_weight
        self.shift = RunningMean()

    @property
    def loss_at_reference(self) -> float | None:
        """Known without the NLL only, which depends on the model."""
        return None if self.nll_weight else (self.dpo_weight + 2 * self.bco_weight) * math.log(2)

    def compute_loss(self, batch: Batch) -> tuple[Tensor, dict[str, Mean]]:
        """Mean loss over the pairs of the batch; holes count as zero."""
        logps = response_logps(self.llava, batch)
        policy = pair_logps(logps, batch)
        output = mpo_loss(
            policy=policy,
            reference=pair_logps(sum_responses(self.reference_logps(batch), batch), batch),
            chosen_nll=-pair_logps(logps, batch, average=True).chosen,
            beta=self.beta,
            shift=self.shift.value,
            dpo_weight=self.dpo_weight,
            bco_weight=self.bco_weight,
            nll_weight=self.nll_weight,
        )
        return pair_mean(output, batch), preference_metrics(output, policy, batch)

    def after_step(self, means: dict[str, Tensor]) -> None:
        self.shift.update((means["chosen_rewards"] + means["rejected_rewards"]) / 2)
