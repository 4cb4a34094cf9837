"""What a run will need, of a GPU, of the host and of the disk, beside what there is, and what to change where it lacks.

    Run (mmalign/planned.py) --> Plan: items in bytes

Bytes of weights, optimizer and activations are those of `mmalign/memory.py`. What is assumed rather than counted says
so, and stands here.

Tests    tests/test_plan.py
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from mmalign.memory import FLOAT32, MOMENTS, Item, MicroBatch, Model, Placement, gpu_items

CONTEXT = 1_500_000_000
"""Assumed: CUDA's context, cuBLAS and NCCL on each GPU."""
FRAGMENTATION = 0.05
"""Assumed: what the allocator cannot hand out again, as a part of all that comes and goes."""
PROCESS, WORKER = 1_000_000_000, 500_000_000
"""Assumed: host memory of a rank (Python and its libraries), and of a process that prepares rows."""
PREFETCHED = 2
"""Batches that wait in each worker's queue; torch's default."""
GB = 1e9


class Processes(NamedTuple):
    """How a run is started, as far as memory goes."""

    placement: Placement
    on_gpu: bool
    autocast: bool
    """`trainer.precision` bf16-mixed."""
    run_dir: Path
    kept_checkpoints: int
    """On disk at one time."""


class Room(NamedTuple):
    """Bytes that there are; None where that is not known, as of a machine that this is not."""

    gpu: int | None
    """Of each GPU."""
    host: int | None
    disk: int | None


@dataclass(frozen=True, kw_only=True)
class Run:
    """All that the plan of a run depends on."""

    model: Model
    architecture: str
    """Where the sizes of the model come from."""
    batch: MicroBatch
    """The largest."""
    tokens_from: str
    """Why its rows are so long."""
    typical_tokens: int
    """Of a row."""
    responses: int
    """Behind a prompt."""
    accumulation: int
    """Micro-batches of each rank in a step."""
    processes: Processes
    num_workers: int
    image_values: int
    """Of the pixels of one picture."""
    rows: int
    """Of the data; 0 where it is not known."""
    manifest_bytes: int
    stored_logps: int
    """Values that the reference stores of the run will hold."""


CERTAIN = ("frozen weights", "trained weights", "reference", "gradients", "optimizer moments", "master weights")
"""Items that are counted, not estimated: a run is at least as large."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a run needs, beside what there is."""

    run: Run
    room: Room
    gpu: list[Item]
    """Of one rank; on the CPU this is host memory."""
    host: list[Item]
    """Of one machine."""
    disk: list[Item]

    @property
    def impossible(self) -> str:
        """Why no batch could be trained, however small: both numbers, and what to change; empty where one could."""
        weights = sum(item.bytes for item in self.gpu if item.name in CERTAIN)
        on_gpu = self.room.gpu is not None
        room = self.room.gpu if on_gpu else None if self.run.processes.on_gpu else self.room.host
        need, where = (weights, "Each GPU") if on_gpu else (self.run.processes.placement.per_node * weights, "The host")
        if room is None or need <= room:
            return ""
        change = advice(self.run, self.room) if on_gpu else "Take a machine with more, or fewer `trainer.devices`."
        return (
            f"{where} would hold {gigabytes(need)} of weights, gradients and moments alone and has {gigabytes(room)}. "
            f"{change}"
        )

    @property
    def lacks(self) -> list[str]:
        """What does not fit: both numbers, and what to change."""
        lacking = []
        if self.room.gpu is not None and (need := total(self.gpu)) > self.room.gpu:
            lacking.append(
                f"Each GPU needs {gigabytes(need)} and has {gigabytes(self.room.gpu)}. {advice(self.run, self.room)}"
            )
        if self.room.host is not None and (need := total(self.host)) > self.room.host:
            lacking.append(
                f"Each machine needs {gigabytes(need)} of host memory and has {gigabytes(self.room.host)} free. "
                "Lower `data.num_workers`, let one rank read the checkpoint for all (`--trainer.strategy zero3`), or "
                "take a machine with more."
            )
        if self.room.disk is not None and (need := total(self.disk)) > self.room.disk:
            lacking.append(
                f"The run writes {gigabytes(need)} and {self.run.processes.run_dir} has {gigabytes(self.room.disk)} "
                "free. Lower `checkpoint.keep_last` or `checkpoint.keep_best`, or set `trainer.default_root_dir` to a "
                "larger disk."
            )
        return lacking


def make_plan(run: Run, room: Room) -> Plan:
    """All items of a run."""
    gpu = device_items(run)
    return Plan(run=run, room=room, gpu=gpu, host=host_items(run, gpu), disk=disk_items(run))


def device_items(run: Run) -> list[Item]:
    """What one rank holds while it trains; on a GPU with what cannot be counted."""
    items = gpu_items(run.model, run.batch, run.processes.placement, accumulates=run.accumulation > 1)
    if not run.processes.on_gpu:
        return items
    moving = sum(item.bytes for item in items if item.name in ("activations", "working space", "gathered weights"))
    return [
        *items,
        Item("fragmentation", int(FRAGMENTATION * moving), f"assumed: {FRAGMENTATION:.0%} of what comes and goes"),
        Item("CUDA context", CONTEXT, "assumed: context, cuBLAS, NCCL"),
    ]


def host_items(run: Run, device: list[Item]) -> list[Item]:
    """What one machine holds besides its GPUs, at most."""
    ranks, workers = run.processes.placement.per_node, run.processes.placement.per_node * run.num_workers
    checkpoint = run.model.frozen * run.model.weight_bytes
    readers, who = (1, "rank 0") if run.processes.placement.sharding == "zero3" else (ranks, "every rank")
    batch = run.batch.pictures * run.image_values * FLOAT32
    if run.processes.on_gpu:
        model = [Item("checkpoint", readers * checkpoint, f"{who} reads it whole, then it moves to the GPU")]
    else:
        model = [Item("training", ranks * total(device), f"what {_count(ranks, 'CPU rank')} hold, see above")]
    return [
        *model,
        Item("processes", ranks * PROCESS, f"assumed: {gigabytes(PROCESS)} for each of {_count(ranks, 'rank')}"),
        Item(
            "workers", workers * WORKER, f"assumed: {gigabytes(WORKER)} for each of {_count(workers, 'loader process')}"
        ),
        Item("batches", max(workers, 1) * PREFETCHED * batch, f"pixels: {PREFETCHED} batches wait in each worker"),
        Item("manifests", ranks * run.manifest_bytes, "one copy a rank"),
    ]


def disk_items(run: Run) -> list[Item]:
    """What the run writes."""
    trained, kept = run.model.trained * FLOAT32, run.processes.kept_checkpoints
    return [
        Item("checkpoints", kept * (1 + MOMENTS) * trained, f"{kept} of adapter and moments, one while it is written"),
        Item("reference store", run.stored_logps * FLOAT32, "a float32 for each trained token of all rows, at most"),
        Item("export", trained, "the adapter in float32"),
    ]


def advice(run: Run, room: Room) -> str:
    """Settings with which a run that is too big fits its GPUs, each alone, or else the smallest there is."""
    assert room.gpu is not None
    found = {option: total(device_items(other)) for option, other in smaller(run)}
    fitting = [f"`{option}` ({gigabytes(need)})" for option, need in found.items() if need <= room.gpu]
    if fitting:
        return f"What fits: {', or '.join(fitting)}."
    least = min(found, key=found.__getitem__, default="")
    return (
        f"The least found is `{least}` with {gigabytes(found[least])}: take more or larger GPUs, shorter rows "
        "(`data.max_tokens`) or a smaller `model.backbone.checkpoint`."
    )


def smaller(run: Run) -> Iterator[tuple[str, Run]]:
    """Options that need less, one by one and then all together, with the run as it would be."""
    batch, placement = run.batch, run.processes.placement

    def placed(**changes: Any) -> Run:
        return replace(run, processes=run.processes._replace(placement=replace(placement, **changes)))

    together, options = run, []
    rows = batch.rows
    while rows > 1 and rows % 2 == 0:
        rows //= 2
        part = replace(
            batch, rows=rows, pictures=batch.pictures * rows // batch.rows, targets=batch.targets * rows // batch.rows
        )
        together = replace(run, batch=part, accumulation=run.accumulation * batch.rows // rows)
        yield f"--data.micro_batch_size {rows}", together
    if rows < batch.rows:
        options.append(f"--data.micro_batch_size {rows}")
    if batch.recomputed < 1:
        option = "--model.backbone.gradient_checkpointing true"
        yield option, replace(run, batch=replace(batch, recomputed=1.0))
        together, options = replace(together, batch=replace(together.batch, recomputed=1.0)), [*options, option]
    if placement.sharding != "zero3" and placement.ranks > 1:
        other, option = placed(sharding="zero3"), "--trainer.strategy zero3"
        yield option, other
        together, options = replace(together, processes=other.processes), [*options, option]
    if placement.sharding == "zero3" or placement.ranks == 1:
        for times in (2, 4, 8):
            more = times * placement.per_node
            option = f"--trainer.devices {more}" + " --trainer.strategy zero3" * (placement.sharding == "replicated")
            yield option, placed(sharding="zero3", ranks=times * placement.ranks, per_node=more)
    if len(options) > 1:
        yield " ".join(options), together


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 'es' if what.endswith('s') else 's'}"


def total(items: list[Item]) -> int:
    """Bytes of all items."""
    return sum(item.bytes for item in items)


def gigabytes(number: float | int) -> str:
    """`12.3 GB` of 10^9 bytes, as GPUs are sold; `0.45 GB` below ten."""
    return f"{number / GB:.1f} GB" if number >= 10 * GB else f"{number / GB:.2f} GB"
