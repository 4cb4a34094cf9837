"""From hidden states to the log-probability of each response, without ever holding all logits.

The logits of a LLaVA-1.5 batch, (tokens, 32064) in float32, would be its largest tensor by far. Only positions that
predict a response token are gathered, and the head runs on a chunk of them at a time; the backward pass runs it again.
"""

from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mmalign.batch import Batch, Logps, PairLogps, Role

CHUNK = 1024
"""Targets whose logits exist at one time: 131 MB in float32 at LLaVA-1.5's 32,064 tokens."""


@runtime_checkable
class Scorer(Protocol):
    """A model that gives hidden states for a batch, and a head that turns them into logits: `backbone.Llava`."""

    @property
    def head(self) -> nn.Module:
        """Hidden state -> logits over the vocabulary."""

    def __call__(self, batch: Batch) -> Tensor:
        """Last hidden states, (rows, tokens, hidden)."""


def response_logps(llava: Scorer, batch: Batch) -> Logps:
    """Summed log-probability and length of every response of the batch, in one forward pass."""
    states = llava(batch).flatten(0, 1)[batch.predictors]  # (targets, hidden)
    token_logps = target_logps(llava.head, states, batch.targets)
    zeros = token_logps.new_zeros(batch.num_responses)
    return Logps(
        sums=zeros.index_add(0, batch.response_index, token_logps),
        lengths=zeros.index_add(0, batch.response_index, torch.ones_like(token_logps)),
    )


def target_logps(
    head: nn.Module, states: Float[Tensor, "targets hidden"], targets: Int[Tensor, " targets"]
) -> Float[Tensor, " targets"]:
    """Take log p(target) of each state in float32, `CHUNK` targets at a time."""
    chunks = zip(states.split(CHUNK), targets.split(CHUNK), strict=True)
    return torch.cat([checkpoint(_chunk_logps, head, *chunk, use_reentrant=False) for chunk in chunks])


def _chunk_logps(head: nn.Module, states: Tensor, targets: Tensor) -> Tensor:
    logits: Tensor = head(states).float()
    return logits.gather(-1, targets[:, None])[:, 0] - logits.logsumexp(-1)


def pair_logps(logps: Logps, batch: Batch, *, average: bool = False) -> PairLogps:
    """Chosen and rejected responses of each row, in row order.

    Args:
        logps: Of all responses of the batch.
        batch: Says which response plays which role.
        average: Per-token means instead of sums.
    """
    values = logps.means if average else logps.sums
    return PairLogps(chosen=values[batch.roles == Role.CHOSEN], rejected=values[batch.roles == Role.REJECTED])
