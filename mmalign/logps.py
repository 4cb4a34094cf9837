"""From hidden states to the log-probability of each response, without ever holding all logits.

The logits of a LLaVA-1.5 batch, (tokens, 32064) in float32, would be its largest tensor by far. Only positions that
predict a response token are gathered, and the head runs on a chunk of them at a time. Their gradient is made with them,
or, where the head trains, the backward pass runs it again.
"""

from typing import Any, Protocol, TypeGuard, cast, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

from mmalign.batch import Batch, Logps, PairLogps, Role
from mmalign.sharding import gathered

CHUNK = 256
"""Targets whose logits exist at one time: 33 MB in float32 at LLaVA-1.5's 32,064 tokens. More are not faster."""


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
    return sum_responses(token_logps(llava, batch), batch)


def token_logps(llava: Scorer, batch: Batch) -> Float[Tensor, " targets"]:
    """Log-probability of every target of the batch, in one forward pass."""
    states = llava(batch).flatten(0, 1)[batch.predictors]  # (targets, hidden)
    return target_logps(llava.head, states, batch.targets)


def sum_responses(
    token_logps: Float[Tensor, " targets"], batch: Batch, *, weights: Float[Tensor, " targets"] | None = None
) -> Logps:
    """Sum targets response by response.

    Args:
        token_logps: Log-probability of each target.
        batch: Says which response a target belongs to.
        weights: Of each target; 1 each if left out. `Logps.means` is then the weighted mean.
    """
    weights = torch.ones_like(token_logps) if weights is None else weights
    zeros = token_logps.new_zeros(batch.num_responses)
    return Logps(
        sums=zeros.index_add(0, batch.response_index, weights * token_logps),
        lengths=zeros.index_add(0, batch.response_index, weights),
    )


def target_logps(
    head: nn.Module, states: Float[Tensor, "targets hidden"], targets: Int[Tensor, " targets"]
) -> Float[Tensor, " targets"]:
    """Take log p(target) of each state in float32 or wider, `CHUNK` targets at a time."""
    chunks = zip(states.split(CHUNK), targets.split(CHUNK), strict=True)
    if not _is_frozen(head):
        return torch.cat([checkpoint(_chunk_logps, head, *chunk, use_reentrant=False) for chunk in chunks])
    with gathered(head.parameters()):  # once: ranks have different numbers of chunks
        if torch.is_grad_enabled() and states.requires_grad:
            found = [cast(Tensor, _FrozenHeadLogps.apply(head, *chunk)) for chunk in chunks]  # type: ignore[no-untyped-call]
        else:
            found = [_chunk_logps(head, *chunk) for chunk in chunks]
    return torch.cat(found)


def _chunk_logps(head: nn.Module, states: Tensor, targets: Tensor) -> Tensor:
    logits = _logits(head, states)
    return logits.gather(-1, targets[:, None])[:, 0] - logits.logsumexp(-1)


def _logits(head: nn.Module, states: Tensor) -> Tensor:
    # A frozen head is read, not called: a sharded strategy would gather it anew for every call, and free it after each.
    logits: Tensor = nn.functional.linear(states, head.weight, head.bias) if _is_frozen(head) else head(states)
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def _is_frozen(head: nn.Module) -> TypeGuard[nn.Linear]:
    """Whether the head is a plain matrix that nothing trains.

    Asked without touching `head.weight`: within a forward pass ZeRO-3 takes that for a wish to have it to the end.
    """
    return type(head) is nn.Linear and not any(parameter.requires_grad for parameter in head.parameters())


class _FrozenHeadLogps(torch.autograd.Function):
    """`_chunk_logps` whose gradient is made while the logits are there: the head runs once forward and once backward.

    d log p(target) / d state = weight[target] - softmax(logits) @ weight, a row as wide as the state. Only this is
    kept, neither the logits nor the weight.
    """

    @staticmethod
    def forward(ctx: Any, head: nn.Linear, states: Tensor, targets: Tensor) -> Tensor:
        logits = _logits(head, states)
        logps = logits.gather(-1, targets[:, None])
        top = logits.amax(-1, keepdim=True)
        weights = logits.sub_(top).exp_()
        total = weights.sum(-1, keepdim=True)
        logps -= top + total.log()
        weights.div_(-total).scatter_add_(-1, targets[:, None], torch.ones_like(total))
        ctx.save_for_backward(weights.to(head.weight.dtype) @ head.weight)
        return logps[:, 0]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor, None]:
        (directions,) = ctx.saved_tensors
        return None, gradient[:, None].to(directions.dtype) * directions, None


def pair_logps(logps: Logps, batch: Batch, *, average: bool = False) -> PairLogps:
    """Chosen and rejected responses of each row, in row order.

    Args:
        logps: Of all responses of the batch.
        batch: Says which response plays which role.
        average: Per-token means instead of sums.
    """
    values = logps.means if average else logps.sums
    return PairLogps(chosen=values[batch.roles == Role.CHOSEN], rejected=values[batch.roles == Role.REJECTED])
