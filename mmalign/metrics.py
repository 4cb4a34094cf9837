"""Loss output -> scalars worth plotting; the one list of logged keys.

Every scalar is logged as `train/<key>` and `val/<key>`:

    loss               what is minimised, mean over pairs
    reward_margin      reward of chosen minus rejected
    reward_accuracy    share of pairs with a positive margin
    chosen_rewards     beta * (log pi - log pi_ref), also rejected_rewards
    chosen_logps       nats over the whole response, also rejected_logps
    chosen_length      tokens of the response, end token included, also rejected_length
    preference_accuracy  share of pairs where the policy itself finds chosen likelier
    truncated          share of responses cut at `data.max_length`
    refused            share of rows left out because they exceed `data.max_length`
    tokens_per_s       positions per second and rank, image tokens included (training only)
"""

import torch
from jaxtyping import Bool
from torch import Tensor

from mmalign.batch import Batch, Logps, PairLogps, PairLoss
from mmalign.logps import pair_logps


def preference_metrics(output: PairLoss, policy: PairLogps, logps: Logps, batch: Batch) -> dict[str, Tensor]:
    """Means over the pairs that count, one scalar a key.

    Args:
        output: Losses and rewards of each pair.
        policy: Log-probabilities of each pair as the loss saw them (sums or means).
        logps: Of all responses, for their lengths.
        batch: Holds the row weights.
    """
    margin = output.chosen_rewards - output.rejected_rewards
    lengths = pair_logps(Logps(logps.lengths, torch.ones_like(logps.lengths)), batch)
    pairs = {
        "loss": output.losses,
        "reward_margin": margin,
        "reward_accuracy": (margin > 0).float(),
        "chosen_rewards": output.chosen_rewards,
        "rejected_rewards": output.rejected_rewards,
        "chosen_logps": policy.chosen,
        "rejected_logps": policy.rejected,
        "chosen_length": lengths.chosen,
        "rejected_length": lengths.rejected,
        "preference_accuracy": (policy.chosen > policy.rejected).float(),
    }
    counted = batch.row_weights > 0
    means = {name: _mean(values.detach().float(), counted) for name, values in pairs.items()}
    means["truncated"] = _mean(batch.truncated.float(), counted[batch.row_index])
    means["refused"] = _mean(batch.refused.float(), counted | (batch.refused > 0))
    return means


def _mean(values: Tensor, counted: Bool[Tensor, " values"]) -> Tensor:
    return values[counted].mean() if counted.any() else values.new_zeros(())
