"""POVID: beside the written rejected answer, what the model would say to a noised picture is rejected, too.

Paper   Zhou et al., 2024, https://arxiv.org/abs/2402.11411
Config  configs/povid.yaml
Tests   tests/losses/test_povid.py, tests/methods/test_image_methods.py

    row          picture, prompt, chosen, rejected --> DPO on the answers
    further row  noise,   prompt, chosen           --> the likeliest token at each of its positions: the noisy answer
    row          picture, prompt, chosen, and the noisy tokens in its places --> DPO on chosen and noisy answer
"""

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from mmalign.backbone import BackboneSettings
from mmalign.batch import Batch, PairLogps, Role
from mmalign.logps import CHUNK, pair_logps, sum_responses, target_logps
from mmalign.losses.povid import povid_loss
from mmalign.methods.base import AlignmentModule, OptimSettings, pair_mean, require_positive
from mmalign.metrics import Mean, preference_metrics, weighted_mean


class POVID(AlignmentModule):
    """Preference Optimization in VLLMs with AI-generated dispreferences; logs also `noisy_agreement`.

    The noisy answer follows the policy, so no store can hold it: the reference runs live. Policy and reference score
    the same noisy tokens, those of the policy, where the authors' code lets each pick its own.
    """

    roles = (Role.CHOSEN, Role.REJECTED, Role.OTHER_IMAGE)

    def __init__(self, backbone: BackboneSettings, optim: OptimSettings, beta: float = 0.1, gamma: float = 0.5) -> None:
        """Store hyperparameters; weights load in ``configure_model``.

        Args:
            backbone: The LLaVA checkpoint and the adapters put on it.
            optim: Learning rate and schedule.
            beta: Scale of the rewards, > 0: the larger, the stronger the pull towards the reference.
            gamma: Share of the written rejected answer, in [0, 1]; the rest is the noisy one's.
        """
        super().__init__(backbone, optim)
        require_positive(beta=beta)
        if not 0 <= gamma <= 1:
            raise ValueError(f"`model.gamma` is a share and must lie in [0, 1], got {gamma}. POVID takes 0.5.")
        self.beta, self.gamma = beta, gamma

    @property
    def loss_at_reference(self) -> float:
        """The log of 2: a mean of two DPO losses."""
        return math.log(2)

    def compute_loss(self, batch: Batch) -> tuple[Tensor, dict[str, Mean]]:
        """Mean loss over the pairs of the batch; holes count as zero."""
        states = self._states(batch)
        noisy = likeliest_tokens(self.llava.head, states[_targets_of(Role.OTHER_IMAGE, batch)])
        policy, noisy_policy = self._score(batch, states, noisy)
        with torch.no_grad(), self.llava.reference():
            reference, noisy_reference = self._score(batch, self._states(batch), noisy)
        pictured = batch.weights_of(Role.OTHER_IMAGE) > 0  # elsewhere there is no noise, and this is plain DPO
        output = povid_loss(
            policy=policy,
            reference=reference,
            noisy_policy=torch.where(pictured, noisy_policy, policy.rejected),
            noisy_reference=torch.where(pictured, noisy_reference, reference.rejected),
            beta=self.beta,
            gamma=self.gamma,
        )
        agrees = noisy == batch.targets[_targets_of(Role.OTHER_IMAGE, batch)]
        weights = batch.row_weights[batch.row_index][batch.response_index][_targets_of(Role.OTHER_IMAGE, batch)]
        metrics = preference_metrics(output, policy, batch) | {"noisy_agreement": weighted_mean(agrees, weights)}
        return pair_mean(output, batch), metrics

    def _states(self, batch: Batch) -> Float[Tensor, "targets hidden"]:
        states: Tensor = self.llava(batch).flatten(0, 1)[batch.predictors]
        return states

    def _score(
        self, batch: Batch, states: Float[Tensor, "targets hidden"], noisy: Int[Tensor, " noisy_targets"]
    ) -> tuple[PairLogps, Float[Tensor, " pairs"]]:
        """Each pair, and the noisy tokens in the places of the chosen answer's."""
        logps = sum_responses(target_logps(self.llava.head, states, batch.targets), batch)
        places = _targets_of(Role.CHOSEN, batch)
        token_logps = target_logps(self.llava.head, states[places], noisy)
        sums = logps.sums.new_zeros(batch.num_responses).index_add(0, batch.response_index[places], token_logps)
        return pair_logps(logps, batch), sums[batch.plays(Role.CHOSEN)]


@torch.no_grad()
def likeliest_tokens(head: nn.Module, states: Float[Tensor, "targets hidden"]) -> Int[Tensor, " targets"]:
    """The token that each state finds likeliest, `CHUNK` states at a time.

    Args:
        head: Hidden state -> logits over the vocabulary.
        states: Each predicts one token.
    """
    return torch.cat([head(chunk).argmax(-1) for chunk in states.split(CHUNK)])


def _targets_of(role: Role, batch: Batch) -> Bool[Tensor, " targets"]:
    return batch.plays(role)[batch.response_index]
