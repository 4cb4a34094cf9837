"""What ranks do together when a run is saved or resumed. All must call these, in the same order."""

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar, cast

import torch
from lightning import Trainer
from lightning.pytorch.strategies import Strategy

T = TypeVar("T")


def gather(value: T) -> list[T]:
    """The values of all ranks, on all ranks."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return [value]
    values = cast(list[T], [None] * torch.distributed.get_world_size())
    torch.distributed.all_gather_object(values, value)
    return values


def on_rank_zero(strategy: Strategy, act: Callable[[], T]) -> T:
    """Do something on rank 0: all ranks get its result, or raise its error."""
    result, error = cast(T, None), None
    if strategy.is_global_zero:
        try:
            result = act()
        except (ValueError, OSError) as raised:
            error = raised
    result, error = strategy.broadcast((result, error))
    if error is not None:
        raise error
    return result


def save(trainer: Trainer, target: Path) -> str | None:
    """Gather on all ranks, write on rank 0; why it could not, on all ranks."""
    error = None
    try:
        trainer.save_checkpoint(target, False)  # not weights alone
    except OSError as failure:  # on rank 0 only, when all had gathered: the others wait at this barrier
        error = failure.strerror or str(failure)
        trainer.strategy.barrier("Trainer.save_checkpoint")
    return trainer.strategy.broadcast(error)
