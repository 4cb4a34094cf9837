"""Speed and memory of training, once an optimizer step.

    train/tokens_per_s          positions of all ranks a second, padding included
    train/useful_tokens_per_s   those that hold a token
    train/loader_wait_s         seconds of the step that a rank waited for its batches, on average
    train/flops_per_s           operations a second of all ranks, see mmalign/flops.py
    train/mfu                   the same, as a share of what the devices could do by their maker; where that is known
    train/peak_memory_gb        most memory in use so far on any rank: CUDA's, or without CUDA the process's

A step's time is that of its forward and backward passes and its optimizer, and of waiting for its batches; validation
and checkpoints are not in it. Nothing waits for the device but the end of a step.

Tests    tests/test_speed.py
"""

import resource
import time
from typing import Any

import torch
from lightning import Callback, Trainer
from lightning.fabric.utilities.throughput import get_available_flops

from mmalign.batch import Batch
from mmalign.data.loader import RowLoader
from mmalign.flops import training_flops
from mmalign.methods.base import AlignmentModule


class Throughput(Callback):
    """Logs the speed of every optimizer step, see above."""

    def on_train_start(self, trainer: Trainer, pl_module: AlignmentModule) -> None:  # type: ignore[override]
        """Stand before a step, of a new run or of a resumed one."""
        self._peak = get_available_flops(pl_module.device, _dtype(str(trainer.precision)))
        self._step = trainer.global_step
        self._waited = _loader(trainer).waited_s
        self._batches = list[Batch]()
        self._seconds = 0.0

    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Batch, batch_idx: int) -> None:
        self._began = time.perf_counter()

    def on_train_batch_end(  # type: ignore[override]
        self, trainer: Trainer, pl_module: AlignmentModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        """Remember the batch, without its pixels; where the optimizer has stepped, log."""
        self._batches.append(
            batch._replace(pixel_values=batch.pixel_values.new_empty(len(batch.pixel_values), 0, 0, 0))
        )
        stepped = trainer.global_step > self._step
        if stepped and pl_module.device.type == "cuda":
            torch.cuda.synchronize(pl_module.device)
        self._seconds += time.perf_counter() - self._began
        if stepped:
            pl_module.log_dict(self._speed(trainer, pl_module))
            self._step = trainer.global_step
            self._batches.clear()
            self._seconds = 0.0

    def _speed(self, trainer: Trainer, module: AlignmentModule) -> dict[str, float]:
        """What there is to log of the step that has ended."""
        waited = _loader(trainer).waited_s
        wait, self._waited = waited - self._waited, waited
        batches = [batch._replace(segment_ids=batch.segment_ids.cpu()) for batch in self._batches]
        mine = [
            sum(batch.segment_ids.numel() for batch in batches),
            sum(int((batch.segment_ids >= 0).sum()) for batch in batches),
            sum(training_flops(module.llava, batch) for batch in batches),
            wait,
            self._seconds + wait,
        ]
        reduce = trainer.strategy.reduce
        totals = reduce(torch.tensor(mine, dtype=torch.float32, device=module.device), reduce_op="sum")
        padded, useful, flops, wait, seconds = totals.tolist()
        seconds /= trainer.world_size  # ranks wait for one another, so all take as long
        memory = torch.tensor(_peak_memory(module.device) / 1e9, device=module.device)
        speed = {
            "tokens_per_s": padded / seconds,
            "useful_tokens_per_s": useful / seconds,
            "loader_wait_s": wait / trainer.world_size,
            "flops_per_s": flops / seconds,
            "peak_memory_gb": float(reduce(memory, reduce_op="max")),
        }
        if self._peak is not None:
            speed["mfu"] = speed["flops_per_s"] / (self._peak * trainer.world_size)
        return {f"train/{name}": value for name, value in speed.items()}


def _loader(trainer: Trainer) -> RowLoader:
    loader = trainer.train_dataloader
    assert isinstance(loader, RowLoader)
    return loader


def _dtype(precision: str) -> torch.dtype:
    """What matrices are multiplied in."""
    if precision.startswith("bf16"):
        return torch.bfloat16
    return torch.float16 if precision.startswith("16") else torch.float32


def _peak_memory(device: torch.device) -> int:
    """Bytes."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
