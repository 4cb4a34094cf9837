"""KTO: each answer is good or bad by itself; no pairs are needed.

Paper   Ethayarajh et al., 2024, https://arxiv.org/abs/2402.01306
Config  configs/kto.yaml
Tests   tests/losses/test_kto.py, tests/parity/test_trl_losses.py, tests/methods/test_running_values.py

    row: prompt, good and bad answers, another prompt's answer
         --> llava, store --> log ratios of good and bad answers ----+--> kto_loss --> mean over answers
                          --> log ratios of mismatched answers ------+
                              mean of the step before: the baseline
"""

import torch
from torch import Tensor

from mmalign.backbone import BackboneSettings
from mmalign.batch import Batch, Role
from mmalign.logps import response_logps, sum_responses
from mmalign.losses.kto import kto_baseline, kto_loss
from mmalign.methods.base import AlignmentModule, OptimSettings, require_positive
from mmalign.metrics import Mean, batch_metrics, weighted_mean


class KTO(AlignmentModule):
    """Kahneman-Tversky Optimization.

    The baseline estimates how far the policy has moved from the reference, on prompts with others' answers. It is that
    of the step before, from all its ranks and micro-batches: so it is the same however a step is cut. It begins at 0,
    where it is exact. Logs also `good_rewards`, `bad_rewards`, `mismatched_log_ratio` (nats) and `baseline`.
    """

    roles = (Role.CHOSEN, Role.REJECTED, Role.MISMATCHED)
    references = ("",)

    def __init__(
        self,
        backbone: BackboneSettings,
        optim: OptimSettings,
        beta: float = 0.1,
        desirable_weight: float = 1.0,
        undesirable_weight: float = 1.0,
    ) -> None:
        """Store hyperparameters; weights load in ``configure_model``.

        Args:
            backbone: The LLaVA checkpoint and the adapters put on it.
            optim: Learning rate and schedule.
            beta: Scale of the rewards, > 0: the larger, the stronger the pull towards the reference.
            desirable_weight: Of good answers, > 0. Where they are many more or fewer than bad ones, choose the two so
                that weight times number agrees within a third (section 4.2).
            undesirable_weight: Of bad answers, > 0.
        """
        super().__init__(backbone, optim)
        require_positive(beta=beta, desirable_weight=desirable_weight, undesirable_weight=undesirable_weight)
        self.beta = beta
        self.desirable_weight, self.undesirable_weight = desirable_weight, undesirable_weight
        self.baseline: Tensor
        self.register_buffer("baseline", torch.zeros(()))

    def compute_loss(self, batch: Batch) -> tuple[Tensor, dict[str, Mean]]:
        """Mean over the good and bad answers of the step."""
        policy = response_logps(self.llava, batch)
        reference = sum_responses(self.reference_logps(batch), batch)
        log_ratios = policy.sums - reference.sums

        judged, good = batch.plays(Role.CHOSEN, Role.REJECTED), batch.plays(Role.CHOSEN)
        output = kto_loss(
            log_ratios=log_ratios[judged],
            desirable=good[judged],
            baseline=self.baseline,
            beta=self.beta,
            desirable_weight=self.desirable_weight,
            undesirable_weight=self.undesirable_weight,
        )
        counted = batch.weights_of(Role.CHOSEN, Role.REJECTED)
        rewards, is_good = output.rewards, good[judged].float()
        mismatched = log_ratios[batch.plays(Role.MISMATCHED)]
        metrics = {
            "loss": weighted_mean(output.losses, counted),
            "good_rewards": weighted_mean(rewards, counted * is_good),
            "bad_rewards": weighted_mean(rewards, counted * (1 - is_good)),
            "mismatched_log_ratio": weighted_mean(mismatched, batch.weights_of(Role.MISMATCHED)),
            "baseline": Mean(self.baseline, counted.sum()),
        }
        return self.step_mean((output.losses * counted).sum(), counted.sum()), metrics | batch_metrics(batch)

    def after_step(self, means: dict[str, Tensor]) -> None:
        if means["mismatched_log_ratio"].isfinite():
            self.baseline.copy_(kto_baseline(means["mismatched_log_ratio"][None]))
