"""Loss output -> scalars worth plotting; the one list of logged keys.

Every scalar is logged as `train/<key>` and `val/<key>`, a mean over what counts in the whole step (all micro-batches
and ranks). All methods:

    loss               what is minimised
    truncated          share of trained responses cut at `data.max_length`
    refused            share of rows left out: too long, or broken where `data.on_bad` allows it
    nonfinite          share of rows left out because their loss was not a number (training only)

Where answers are learned (SFT and its kin):

    answer_logps       nats per trained token
    answer_length      tokens of the response, end token included

Where pairs are:

    reward_margin      reward of chosen minus rejected
    reward_accuracy    share of pairs with a positive margin
    chosen_rewards     beta * (log pi - log pi_ref), also rejected_rewards; without a reference beta * log pi
    chosen_logps       nats over the whole response (per token, where the method compares means), also rejected_logps
    chosen_length      tokens of the response, end token included, also rejected_length
    preference_accuracy  share of pairs where the policy itself finds chosen likelier

A method may add its own: the names stand in its file. `speed.py` lists what is logged of time and memory.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Num
from torch import Tensor, nn
from torchmetrics import Metric

from mmalign.batch import Batch, Logps, PairLogps, PairLoss, Role

TRAINED = (Role.ANSWER, Role.CHOSEN, Role.REJECTED, Role.OTHER_IMAGE)
"""Roles of the responses that a loss looks at."""


class Mean(NamedTuple):
    """A mean, and how much it is a mean of."""

    value: Float[Tensor, ""]
    weight: Float[Tensor, ""]
    """0 where nothing counts; the value is then 0, too."""


def weighted_mean(values: Num[Tensor, " values"] | Bool[Tensor, " values"], weights: Float[Tensor, " values"]) -> Mean:
    """Mean of what has weight, without a gradient."""
    total = weights.sum()
    return Mean((values.detach().float() * weights).sum() / total.clamp_min(1e-12), total)


def batch_metrics(batch: Batch) -> dict[str, Mean]:
    """What every method logs of its rows."""
    trained = batch.plays(*TRAINED)
    refused = batch.row_weights.new_tensor([bool(refusal) for refusal in batch.refusals])
    return {
        "truncated": weighted_mean(batch.truncated[trained], batch.weights_of(*TRAINED)),
        "refused": weighted_mean(refused, batch.row_weights + refused),
    }


def answer_metrics(loss: Mean, logps: Logps, batch: Batch) -> dict[str, Mean]:
    """Scalars of answers that are learned as they are.

    Args:
        loss: Mean over all trained tokens.
        logps: Of all responses.
        batch: Holds lengths and row weights.
    """
    counted = batch.weights_of(Role.ANSWER)
    answers = batch.plays(Role.ANSWER)
    lengths = batch.lengths[answers]
    return {
        "loss": loss,
        "answer_logps": weighted_mean(logps.means[answers], counted * lengths),
        "answer_length": weighted_mean(lengths, counted),
        **batch_metrics(batch),
    }


def preference_metrics(output: PairLoss, policy: PairLogps, batch: Batch) -> dict[str, Mean]:
    """Scalars of pairs.

    Args:
        output: Losses and rewards of each pair.
        policy: Log-probabilities of each pair as the loss saw them (sums or means).
        batch: Holds lengths and row weights.
    """
    margin = output.chosen_rewards - output.rejected_rewards
    pairs = {
        "loss": output.losses,
        "reward_margin": margin,
        "reward_accuracy": margin > 0,
        "chosen_rewards": output.chosen_rewards,
        "rejected_rewards": output.rejected_rewards,
        "chosen_logps": policy.chosen,
        "rejected_logps": policy.rejected,
        "chosen_length": batch.lengths[batch.plays(Role.CHOSEN)],
        "rejected_length": batch.lengths[batch.plays(Role.REJECTED)],
        "preference_accuracy": policy.chosen > policy.rejected,
    }
    counted = batch.weights_of(Role.CHOSEN)
    return {name: weighted_mean(values, counted) for name, values in pairs.items()} | batch_metrics(batch)


class StepMean(Metric):
    """Mean over an optimizer step, on all ranks; not a number where nothing counted.

    Not torchmetrics' `MeanMetric`: that drops the weights unless it looks for NaN (1.9), and looking waits for the GPU.
    """

    total: Float[Tensor, ""]
    weight: Float[Tensor, ""]

    def __init__(self) -> None:
        super().__init__()
        for state in ("total", "weight"):
            self.add_state(state, torch.zeros(()), dist_reduce_fx="sum")

    def update(self, mean: Mean) -> None:
        """Add the mean of a micro-batch."""
        self.total += mean.value.detach() * mean.weight
        self.weight += mean.weight

    def compute(self) -> Float[Tensor, ""]:
        """The mean of all."""
        return self.total / self.weight


class RunningMean(nn.Module):
    """Mean over all optimizer steps so far, 0 before the first; part of the checkpoint."""

    value: Float[Tensor, ""]
    steps: Float[Tensor, ""]

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("value", torch.zeros(()))
        self.register_buffer("steps", torch.zeros(()))

    def update(self, mean: Float[Tensor, ""]) -> None:
        """Add the mean of one step; a step where nothing counted, whose mean is not a number, changes nothing."""
        if mean.isfinite():
            self.steps += 1
            self.value += (mean - self.value) / self.steps
