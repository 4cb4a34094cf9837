"""Reads off a method, its data and its processes what their plan depends on, before any weight is loaded.

    AlignmentModule, ShardData, Processes --> Run --> mmalign/plan.py

`fit` warns where the run cannot fit (`RoomCheck`); `mmalign plan` needs no trainer.

Tests    tests/test_planned.py
"""

import shutil
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import psutil
import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

from mmalign.architecture import image_tokens, read_architecture
from mmalign.batch import Role
from mmalign.checkpoint import Checkpoints
from mmalign.checkpoint.disk import bytes_of
from mmalign.checkpoint.resume import checkpoints_of
from mmalign.data.datamodule import ShardData
from mmalign.memory import BFLOAT16, FLOAT32, MicroBatch, Model, Placement, Sharding, Zero
from mmalign.methods.base import AlignmentModule
from mmalign.plan import GB, Processes, Room, Run, make_plan

CGROUP = Path("/sys/fs/cgroup")
"""Where Linux says what a container may have."""


class RoomCheck(Callback):
    """Stops, or warns of, what cannot fit: the data is known by then, and no weight is loaded yet."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Once, before `fit` loads weights."""
        if stage == "fit":
            assert isinstance(pl_module, AlignmentModule)
            check_room(pl_module, trainer.datamodule, processes_of(trainer))  # type: ignore[attr-defined]


def check_room(method: AlignmentModule, data: ShardData, processes: Processes | None) -> None:
    """Warn, once, where the memory or the disk of this machine seems too small for a run; stop where it surely is.

    Args:
        method: Its settings are read; its weights need not be there.
        data: Where it is set up, rows are as long as its manifests say; else as `data.max_length` allows.
        processes: From `processes_of`; None, a strategy that no plan is known for, is left alone.

    Raises:
        ValueError: Weights, gradients and moments alone are larger than the memory.
    """
    if processes is None:
        return
    try:
        run = describe(method, data, processes)
    except ValueError as error:
        rank_zero_info(f"Memory is not planned: {error}")
        return
    plan = make_plan(run, room_of(processes))
    if plan.impossible:
        raise ValueError(plan.impossible)
    for lack in plan.lacks:
        rank_zero_warn(f"{lack} `mmalign plan` with the options of this run shows what needs how much.")


def processes_of(trainer: Trainer) -> Processes | None:
    """The processes of a trainer; None for a strategy that no plan is known for."""
    strategy: Any = trainer.strategy
    sharding = sharding_of(type(strategy).__name__, trainer.world_size)
    if sharding is None:
        return None
    options = getattr(strategy, "config", None) or {}
    saving = [each for each in trainer.checkpoint_callbacks if isinstance(each, Checkpoints)]
    return Processes(
        placement=Placement(
            sharding=sharding,
            ranks=trainer.world_size,
            per_node=trainer.world_size // trainer.num_nodes,
            zero=zero_of(options.get("zero_optimization", {})),
        ),
        on_gpu=strategy.root_device.type == "cuda",
        autocast=trainer.precision == "bf16-mixed",
        run_dir=Path(trainer.default_root_dir),
        kept_checkpoints=sum(each.keep_last + each.keep_best + 1 for each in saving),
    )


def sharding_of(strategy: str, ranks: int) -> Sharding | None:
    """How a strategy spreads the model; None where that is not known.

    Args:
        strategy: Its registered name, or the name of its class.
        ranks: Of the run: `auto` is DDP where there are several.
    """
    name = strategy.lower()
    if "zero3" in name:
        return "zero3"
    if "ddp" in name or "single" in name or name == "auto":
        return "ddp" if ranks > 1 else "replicated"
    return None


def zero_of(options: Mapping[str, Any]) -> Zero:
    """DeepSpeed's buffers, with what a strategy sets of its `zero_optimization`."""
    known = {field.name for field in fields(Zero)}
    return Zero(**{name: int(value) for name, value in options.items() if name in known and value != "auto"})


def describe(method: AlignmentModule, data: ShardData, processes: Processes) -> Run:
    """What of a method, its data and its processes the plan depends on.

    Raises:
        FileNotFoundError, ValueError: The model's config cannot be read, or the ranks cannot divide a step.
    """
    settings = method.backbone
    config, architecture = read_architecture(settings.checkpoint)
    rowset = getattr(data, "train_rows", None)
    pictures, responses = 1, max(sum(role != Role.OTHER_IMAGE for role in method.roles), 1)
    longest = typical = data.max_length
    tokens_from = "`data.max_length`"
    if rowset is not None:
        lengths = rowset.estimated_lengths(image_tokens(config))
        longest, typical = int(lengths.max()), round(float(lengths.mean()))
        pictures = max(int(max(found.pictures, default=0)) for found in rowset.usable)
        tokens_from = f"the longest of {len(rowset):,} rows by its characters"
    padded = -(-longest // data.pad_to_multiple) * data.pad_to_multiple
    rows = data.micro_batch_size * (2 if Role.OTHER_IMAGE in method.roles else 1)
    if data.max_tokens is not None and rows * padded > data.max_tokens:
        padded, tokens_from = data.max_tokens // rows, "`data.max_tokens`"
    text = max(padded - pictures * image_tokens(config), responses)
    vision: Any = config.vision_config
    return Run(
        model=Model(
            config=config,
            rank=settings.lora_rank,
            weight_bytes=BFLOAT16 if settings.dtype == "bfloat16" else FLOAT32,
            trains_projector=settings.train_projector,
            starts_from_adapter=bool(settings.adapter),
        ),
        architecture=architecture,
        batch=MicroBatch(
            rows=rows,
            tokens=padded,
            pictures=rows * pictures,
            targets=rows * text,
            autocast=processes.autocast,
            dropout=settings.lora_dropout > 0,
            on_gpu=processes.on_gpu,
            recomputed=float(settings.gradient_checkpointing),
        ),
        tokens_from=tokens_from,
        typical_tokens=typical,
        responses=responses,
        accumulation=data.accumulation(processes.placement.ranks),
        processes=processes,
        num_workers=data.num_workers,
        image_values=vision.num_channels * vision.image_size**2,
        rows=0 if rowset is None else len(rowset),
        manifest_bytes=0 if rowset is None else sum(each.manifest.table.nbytes for each in rowset.sets),
        stored_logps=len(method.references) * (0 if rowset is None else len(rowset) * typical),
    )


def room_of(
    processes: Processes,
    *,
    gpu_gb: float | None = None,
    host_gb: float | None = None,
    disk_gb: float | None = None,
) -> Room:
    """What there is: what somebody says, else what this machine has, unless the run is clearly for another one.

    Args:
        processes: Say where the run writes, and on what it runs.
        gpu_gb: Memory of a GPU, of 10^9 bytes; None asks CUDA.
        host_gb: Memory of the machine; None takes what is free here.
        disk_gb: Room for the run; None takes what is free here.
    """
    elsewhere = processes.on_gpu and not torch.cuda.is_available()
    gpu, host, disk = (None if each is None else int(each * GB) for each in (gpu_gb, host_gb, disk_gb))
    if gpu is None and torch.cuda.is_available():
        gpu = torch.cuda.get_device_properties(0).total_memory
    if host is None and not elsewhere:
        host = host_memory()
    if disk is None and not elsewhere:
        folder = processes.run_dir.absolute()
        disk = shutil.disk_usage(next(each for each in (folder, *folder.parents) if each.is_dir())).free
        disk += sum(bytes_of(each) for each in checkpoints_of(folder))  # what is written already, is not written again
    return Room(gpu if processes.on_gpu else None, host, disk)


def host_memory() -> int:
    """Bytes that can be had: what the kernel calls available, or less where a container's limit is nearer."""
    available = int(psutil.virtual_memory().available)
    limit, used = CGROUP / "memory.max", CGROUP / "memory.current"
    if limit.is_file() and (most := limit.read_text().strip()) != "max":
        return min(available, int(most) - int(used.read_text()))
    return available
