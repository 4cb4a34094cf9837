"""mDPO: the picture must matter; the chosen answer is likelier with its own picture than with a crop, and stays likely.

Paper   Wang et al., 2024, https://arxiv.org/abs/2406.11839
Config  configs/mdpo.yaml
Tests   tests/losses/test_mdpo.py, tests/methods/test_image_methods.py

    row          picture, prompt, chosen, rejected --> DPO on the answers
                                  chosen           --> its reward stays above `anchor`
    further row  crop, prompt,    chosen           --> DPO on the pictures
"""

import math

import torch
from torch import Tensor

from mmalign.backbone import BackboneSettings
from mmalign.batch import Batch, Role
from mmalign.logps import pair_logps, response_logps, sum_responses
from mmalign.losses.mdpo import mdpo_loss
from mmalign.methods.base import AlignmentModule, OptimSettings, pair_mean, require_positive
from mmalign.metrics import Mean, preference_metrics, weighted_mean


class MDPO(AlignmentModule):
    """Conditional preference optimization on pictures; logs also `image_accuracy` and `image_margin` (nats)."""

    roles = (Role.CHOSEN, Role.REJECTED, Role.OTHER_IMAGE)
    references = ("",)

    def __init__(
        self, backbone: BackboneSettings, optim: OptimSettings, beta: float = 0.1, anchor: float = 0.0
    ) -> None:
        """Store hyperparameters; weights load in ``configure_model``.

        Args:
            backbone: The LLaVA checkpoint and the adapters put on it.
            optim: Learning rate and schedule.
            beta: Scale of the rewards, > 0: the larger, the stronger the pull towards the reference.
            anchor: Nats by which the chosen answer should lie above the reference; delta in the paper.
        """
        super().__init__(backbone, optim)
        require_positive(beta=beta)
        self.beta, self.anchor = beta, anchor

    @property
    def loss_at_reference(self) -> float | None:
        """Three times the log of 2: answers, pictures, anchor; unknown where the anchor is not the reference."""
        return None if self.anchor else 3 * math.log(2)

    def compute_loss(self, batch: Batch) -> tuple[Tensor, dict[str, Mean]]:
        """Mean loss over the pairs of the batch; holes count as zero."""
        logps = response_logps(self.llava, batch)
        reference = sum_responses(self.reference_logps(batch), batch)
        policy, frozen = pair_logps(logps, batch), pair_logps(reference, batch)
        other = batch.plays(Role.OTHER_IMAGE)
        pictured = (
            batch.weights_of(Role.OTHER_IMAGE) > 0
        )  # elsewhere there is nothing to prefer: the term is the log of 2
        output = mdpo_loss(
            policy=policy,
            reference=frozen,
            other_image_policy=torch.where(pictured, logps.sums[other], policy.chosen),
            other_image_reference=torch.where(pictured, reference.sums[other], frozen.chosen),
            beta=self.beta,
            anchor=self.anchor,
        )
        margin = (policy.chosen - logps.sums[other]).detach()
        metrics = preference_metrics(output, policy, batch) | {
            "image_margin": weighted_mean(margin, pictured.float()),
            "image_accuracy": weighted_mean(margin > 0, pictured.float()),
        }
        return pair_mean(output, batch), metrics
