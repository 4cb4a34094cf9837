"""MRPO: DPO against several references at once, each weighing as much as it is sure of the pair.

Paper   Le et al., 2024, https://arxiv.org/abs/2405.16388
Config  configs/mrpo.yaml
Tests   tests/losses/test_mrpo.py, tests/methods/test_mrpo.py

    batch --> llava           --> policy logps        ---------------------+--> dpo_loss --> mean
          --> store 1 (start) --> reference logps --+                      |
          --> store 2 ...     --> reference logps --+--> multi_reference --+
"""

from torch import Tensor

from mmalign.backbone import BackboneSettings
from mmalign.batch import Batch, Role
from mmalign.logps import pair_logps, response_logps, sum_responses
from mmalign.losses.dpo import dpo_loss
from mmalign.losses.mrpo import multi_reference
from mmalign.methods.base import AlignmentModule, OptimSettings, pair_mean, require_positive
from mmalign.metrics import Mean, preference_metrics


class MRPO(AlignmentModule):
    """Multi-Reference Preference Optimization; the first reference is the start of the run, the others are adapters."""

    roles = (Role.CHOSEN, Role.REJECTED)

    def __init__(
        self,
        backbone: BackboneSettings,
        optim: OptimSettings,
        adapters: list[str],
        beta: float = 0.1,
        alphas: list[float] | None = None,
        eta: float | None = 0.1,
        adaptive_eta: bool = True,
        code_alpha: bool = False,
    ) -> None:
        """Store hyperparameters; weights load in ``configure_model``.

        Args:
            backbone: The LLaVA checkpoint and the adapters put on it.
            optim: Learning rate and schedule.
            adapters: The further references, each a folder that `mmalign export` wrote on the same checkpoint.
            beta: Scale of the rewards, > 0: the larger, the stronger the pull towards the references.
            alphas: Weight of each reference, the start first, with sum 1; none: by how sure each is of the pair.
            eta: Share by which the further references' log-probabilities may lie off the start's, in [0, 1); none: any.
            adaptive_eta: Deal that share between chosen and rejected by their log-probabilities.
            code_alpha: Swap the two weights, as the authors' code does against their paper.
        """
        super().__init__(backbone, optim)
        require_positive(beta=beta)
        if not adapters:
            raise ValueError(
                "MRPO needs a reference besides the start of the run: name PEFT folders in `model.adapters`, "
                "as `mmalign export` writes them."
            )
        if len(set(adapters)) < len(adapters):
            raise ValueError(f"`model.adapters` names one folder twice: {adapters}. Give its weight in `model.alphas`.")
        if eta is not None and not 0 <= eta < 1:
            raise ValueError(f"`model.eta` is a share of a log-probability and must lie in [0, 1), got {eta}.")
        if alphas is not None and (len(alphas) != len(adapters) + 1 or min(alphas) < 0 or abs(sum(alphas) - 1) > 1e-6):
            raise ValueError(
                f"`model.alphas` {alphas} must be {len(adapters) + 1} weights of at least 0 with sum 1: of the start "
                "and of each of `model.adapters`."
            )
        if code_alpha and len(adapters) != 1:
            raise ValueError("`model.code_alpha` swaps two weights: it needs exactly one of `model.adapters`.")
        self.references = ("", *adapters)
        self.beta = beta
        self.alphas, self.eta, self.adaptive_eta, self.code_alpha = alphas, eta, adaptive_eta, code_alpha

    def compute_loss(self, batch: Batch) -> tuple[Tensor, dict[str, Mean]]:
        """Mean loss over the pairs of the batch; holes count as zero."""
        logps = response_logps(self.llava, batch)
        policy = pair_logps(logps, batch)
        reference = multi_reference(
            references=[
                pair_logps(sum_responses(self.reference_logps(batch, number), batch), batch)
                for number in range(len(self.references))
            ],
            alphas=self.alphas,
            eta=self.eta,
            adaptive_eta=self.adaptive_eta,
            code_alpha=self.code_alpha,
        )
        output = dpo_loss(policy=policy, reference=reference, beta=self.beta)
        return pair_mean(output, batch), preference_metrics(output, policy, batch)
