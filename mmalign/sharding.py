"""Parameters that a strategy has cut among ranks (DeepSpeed ZeRO-3), and gradients wherever they lie.

Under ZeRO-3 every rank holds a part of every parameter, whole ones exist only while a layer runs, and `.grad` stays
empty. What must look at weights or gradients from outside a layer does it through these functions; on a plain model
they are the obvious thing. All ranks must call them, in the same order.

Tests    tests/test_zero3.py
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


def is_sharded(module: nn.Module) -> bool:
    """Whether the parameters of a module are cut among ranks."""
    return hasattr(next(module.parameters(), None), "ds_id")


def on_any_rank(module: nn.Module, here: bool) -> bool:
    """Whether something holds on any of the ranks that a module is cut among; for a whole one, here.

    Args:
        module: All of its ranks must ask.
        here: Whether it holds on this rank.
    """
    if not is_sharded(module):
        return here
    found = torch.tensor(float(here), device=next(module.parameters()).device)
    torch.distributed.all_reduce(found, torch.distributed.ReduceOp.MAX)
    return bool(found)


@contextmanager
def gathered(parameters: Iterable[nn.Parameter], *, write: bool = False) -> Iterator[None]:
    """Inside this context the parameters are whole on every rank.

    Args:
        parameters: Cut or whole ones.
        write: Keep what is written into them, the same on all ranks; otherwise they are to be read.
    """
    cut = [parameter for parameter in parameters if hasattr(parameter, "ds_id")]
    if not cut:
        yield
        return
    from deepspeed.runtime.zero import GatheredParameters

    with GatheredParameters(cut, modifier_rank=0 if write else None):
        yield


def gradients_of(module: nn.Module) -> list[Tensor]:
    """What this rank holds of the gradients that the optimizer will see: its part of each, or each whole.

    Args:
        module: After a backward pass.
    """
    found = (_gradient(parameter) for parameter in module.parameters() if parameter.requires_grad)
    return [gradient for gradient in found if gradient is not None]


def scale_gradients(module: nn.Module, factor: Tensor | float) -> None:
    """Multiply every gradient.

    Args:
        module: After a backward pass.
        factor: The same on all ranks.
    """
    for parameter in module.parameters():
        if (gradient := _gradient(parameter)) is not None:
            _set_gradient(parameter, gradient * factor)


def discard_gradients(module: nn.Module) -> None:
    """See to it that the optimizer leaves its next step out: neither weights nor moments change.

    DeepSpeed leaves out a step whose gradient norm is no number, and offers no other way to tell it so.
    """
    for parameter in module.parameters():
        if _is_cut(parameter):
            if (gradient := _gradient(parameter)) is not None:
                _set_gradient(parameter, torch.full_like(gradient, torch.nan))
        else:
            parameter.grad = None


def _is_cut(parameter: nn.Parameter) -> bool:
    return parameter.requires_grad and hasattr(parameter, "_z3_optimizer")


def _gradient(parameter: nn.Parameter) -> Tensor | None:
    if not _is_cut(parameter):
        return parameter.grad
    from deepspeed.utils import safe_get_local_grad

    gradient: Tensor | None = safe_get_local_grad(parameter)
    return gradient


def _set_gradient(parameter: nn.Parameter, value: Tensor) -> None:
    if not _is_cut(parameter):
        parameter.grad = value
        return
    from deepspeed.utils import safe_set_local_grad

    safe_set_local_grad(parameter, value)
