"""`mmalign plan`: what a run will need, before it runs.

    mmalign plan --config dpo.yaml --config scale/four_gpus.yaml   # rows as long as data.max_length
    mmalign plan --config dpo.yaml --data.shards shards/mine                         # rows as long as they are
    mmalign plan --config dpo.yaml --data.shards shards/mine --measured runs/trial   # time by an earlier run's speed
    mmalign plan --config dpo.yaml --gpu_gb 80 --mfu 0.35 --json plan.json

Memory of one GPU and of one machine, disk, and time, beside what there is; without loading weights, on a machine of any
kind. Formulas: mmalign/memory.py (weights, optimizer, activations), mmalign/flops.py (operations), mmalign/plan.py
(host, disk, and what is assumed). Exit code 1 where something does not fit.
"""

import argparse
import json
import logging
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from mmalign.data.datamodule import ShardData
from mmalign.data.manifest import write_whole
from mmalign.data.rowset import RowSet
from mmalign.memory import Placement
from mmalign.plan import Processes, make_plan
from mmalign.planned import describe, room_of, sharding_of, zero_of

from ..doctor.run import Subject
from .duration import MFU, PEAK_TFLOPS, Duration, speed, step_flops
from .table import as_json, show

GPU_GB = 80.0
"""Of a GPU where there is none to ask: what the shipped configs are made for."""


def main(args: Sequence[str] | None = None) -> None:
    """Entry point of `mmalign plan`.

    Args:
        args: The command line behind `mmalign plan`; None takes it from the shell.

    Raises:
        ValueError, FileNotFoundError: The run cannot be planned: a wrong option, a model or a strategy unknown here.
        SystemExit: With 1, where the run does not fit.
    """
    parser = argparse.ArgumentParser(
        prog="mmalign plan",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        epilog="All other options are those of `mmalign fit`, see `mmalign fit --help`.",
    )
    parser.add_argument("--gpu_gb", type=float, metavar="GB", help=f"memory of a GPU (this one's, else {GPU_GB:g})")
    parser.add_argument("--host_gb", type=float, metavar="GB", help="host memory of a machine (what is free here)")
    parser.add_argument("--disk_gb", type=float, metavar="GB", help="room for the run (what is free here)")
    parser.add_argument("--mfu", type=float, default=MFU, help=f"share of the peak that a step reaches ({MFU})")
    parser.add_argument("--tflops", type=float, help=f"peak of a GPU in 10^12/s (this one's, else {PEAK_TFLOPS:g})")
    parser.add_argument("--measured", type=Path, metavar="RUN", help="take the speed that this run logged instead")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the plan to FILE")
    own, rest = parser.parse_known_args(None if args is None else list(args))
    if not 0 < own.mfu <= 1:
        raise ValueError(f"`--mfu` is a share of the peak, in (0, 1], got {own.mfu}.")
    subject = Subject(rest)
    with quiet():
        try:
            data, processes = open_rows(subject.data), processes_of(subject)
        except argparse.ArgumentError as error:
            raise ValueError(f"{error} `mmalign fit --help` lists the options.") from error
        run = describe(subject.module, data, processes)
        flops = step_flops(run, subject.module.backbone, rows=data.batch_size * run.batch.rows // data.micro_batch_size)
    rate, source = speed(run, measured=own.measured, mfu=own.mfu, tflops=own.tflops)
    duration = Duration(flops=flops, flops_per_s=rate, rate_from=source, steps=total_steps(subject, data))
    supposed = None if torch.cuda.is_available() else GPU_GB
    room = room_of(processes, gpu_gb=own.gpu_gb or supposed, host_gb=own.host_gb, disk_gb=own.disk_gb)
    plan = make_plan(run, room)
    show(plan, duration, supposed=own.gpu_gb is None and supposed is not None)
    if own.json is not None:
        own.json.absolute().parent.mkdir(parents=True, exist_ok=True)
        write_whole(own.json, json.dumps(as_json(plan, duration, rest), indent=1).encode())
    if plan.lacks:
        sys.exit(1)


@contextmanager
def quiet() -> Iterator[None]:
    """Lines of our own only: Lightning would report on the machine that it is on."""
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)


def open_rows(data: ShardData) -> ShardData:
    """Let the data know its rows, where it names shards: from their manifests, without the model's tokenizer."""
    if data.train_sources:
        data.train_rows = RowSet(data.train_sources, data.view, share=data.share, seed=data.seed, remote=data.remote)
    return data


def processes_of(subject: Subject) -> Processes:
    """The processes of a config, for a machine that may be another one.

    Raises:
        ValueError: No plan is known for its strategy.
    """
    config, wanted = subject.reader.config, subject.wanted
    strategy = config.trainer.strategy
    name = strategy if isinstance(strategy, str) else strategy.class_path.rpartition(".")[2]
    options: Any = {} if isinstance(strategy, str) else strategy.get("init_args", {})
    sharding = sharding_of(name, wanted.ranks)
    if sharding is None:
        raise ValueError(
            f"No plan is known for `trainer.strategy` {name}: `fit` would refuse it, too. Choose auto, ddp or zero3."
        )
    return Processes(
        placement=Placement(
            sharding=sharding,
            ranks=wanted.ranks,
            per_node=wanted.devices,
            zero=zero_of({**(options.get("zero") or {})}),
        ),
        on_gpu=wanted.gpu,
        autocast=config.trainer.precision == "bf16-mixed",
        run_dir=wanted.run_dir,
        kept_checkpoints=config.checkpoint.keep_last + config.checkpoint.keep_best + 1,
    )


def total_steps(subject: Subject, data: ShardData) -> int | None:
    """Optimizer steps of the whole run; None where neither rows nor a limit say how many."""
    settings = subject.reader.config.trainer
    limits = [settings.max_steps]
    if hasattr(data, "train_rows"):
        limits.append(data.steps_per_epoch * (settings.max_epochs or 1))
    return min((limit for limit in limits if limit > 0), default=None)
