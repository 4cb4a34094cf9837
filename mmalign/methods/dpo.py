"""DPO on image-conditioned preference pairs.

Paper   Rafailov et al., 2023, https://arxiv.org/abs/2305.18290
Config  configs/dpo.yaml
Tests   tests/methods/test_dpo.py, tests/parity/test_trl_dpo.py

    batch --> llava, adapters on --> policy logps    --+
          --> its store          --> reference logps --+--> dpo_loss --> mean
                                                       +--> metrics
"""

import math

from jaxtyping import Float
from torch import Tensor

from mmalign.backbone import BackboneSettings
from mmalign.batch import Batch, PairLogps, PairLoss
from mmalign.losses.ddpo import segment_weights
from mmalign.losses.dpo import dpo_loss
from mmalign.methods.base import OptimSettings, PairMethod, Reference, require_smoothing


class DPO(PairMethod):
    """Direct Preference Optimization against the model that the run starts from."""

    def __init__(
        self,
        backbone: BackboneSettings,
        optim: OptimSettings,
        reference: Reference = "store",
        beta: float = 0.1,
        label_smoothing: float = 0.0,
        average_logps: bool = False,
        segment_weight: float = 1.0,
    ) -> None:
        """Store hyperparameters; weights load in ``configure_model``.

        Args:
            backbone: The LLaVA checkpoint and the adapters put on it.
            optim: Learning rate and schedule.
            reference: `store` computes reference log-probabilities once, `live` in every step.
            beta: Pull towards the reference, > 0. Rafailov et al. sweep 0.05 to 5; 0.1 is their default.
            label_smoothing: Assumed fraction of flipped labels, in [0, 0.5); cDPO.
            average_logps: Compare per-token means of the log-probabilities instead of sums.
            segment_weight: Weight of the tokens in which chosen and rejected differ, at least 1; others have 1.
                RLHF-V's fine-grained DPO (DDPO, https://arxiv.org/abs/2312.00849) takes 5, with `average_logps`.
        """
        super().__init__(backbone, optim, reference, beta, average_logps)
        require_smoothing(label_smoothing)
        if segment_weight < 1:
            raise ValueError(f"`model.segment_weight` must be at least 1, got {segment_weight}. 1 is plain DPO.")
        self.label_smoothing = label_smoothing
        self.segment_weight = segment_weight

    @property
    def loss_at_reference(self) -> float:
        """The log of 2: either answer could be the better one."""
        return math.log(2)

    def target_weights(self, batch: Batch) -> Float[Tensor, " targets"] | None:
        return None if self.segment_weight == 1 else segment_weights(batch, self.segment_weight)

    def pair_loss(self, policy: PairLogps, reference: PairLogps) -> PairLoss:
        return dpo_loss(policy=policy, reference=reference, beta=self.beta, label_smoothing=self.label_smoothing)
