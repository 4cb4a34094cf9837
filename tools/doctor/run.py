"""What a config asks for: read as `fit` reads it, built on one device, never trained."""

import os
from argparse import ArgumentError
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from lightning import Trainer
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.pytorch.cli import LightningArgumentParser

from mmalign.checkpoint import resolve_resume
from mmalign.data.datamodule import ShardData
from mmalign.methods.base import AlignmentModule
from mmalign.strategies import check_strategy
from mmalign.training import TrainingCLI, check_epochs, check_method, run_trainer

from .findings import Finding, failed, ok, warning

KEPT = ("max_epochs", "max_steps", "accumulate_grad_batches", "limit_train_batches", "overfit_batches", "precision")
"""Settings of the trainer that mean the same on one device; `fit` looks at them before it begins."""
INTERACTIVE = ("bash", "interactive")
"""Names of SLURM jobs that Lightning takes for a shell."""
CPU_RANKS = 2
"""Ranks to try where there is neither a config nor a GPU."""


class Reader(TrainingCLI):
    """Parses the options of `fit` and builds the method, its data and a trainer for one device of this machine."""

    def init_parser(self, **kwargs: Any) -> LightningArgumentParser:
        """A wrong option is an error like others, to be told in its line."""
        return super().init_parser(exit_on_error=False, **kwargs)

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add what only `fit` has."""
        super().add_arguments_to_parser(parser)
        parser.add_argument("--ckpt_path", type=str | None, default=None, help="Where `fit` would go on from.")

    def before_instantiate_classes(self) -> None:
        """Leave `--ckpt_path` as it is: `check_resume` looks at it."""

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """On one device, whatever the config wants, and without a launcher's environment."""
        settings = self.config.trainer
        return Trainer(
            accelerator="gpu" if wants_gpu(settings.accelerator) and torch.cuda.is_available() else "cpu",
            devices=1,
            logger=False,
            enable_checkpointing=False,
            plugins=[LightningEnvironment()],
            **{name: settings[name] for name in KEPT},
        )


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """The processes of a run, and where it writes."""

    gpu: bool
    devices: int
    """Ranks on each node."""
    nodes: int = 1
    bfloat16: bool = False
    run_dir: Path = Path()

    @property
    def ranks(self) -> int:
        """Ranks of all nodes."""
        return self.devices * self.nodes


class Subject:
    """What is examined: this machine and, where options are given, the run that they describe."""

    def __init__(self, args: Sequence[str]) -> None:
        """Remember the options.

        Args:
            args: Of `mmalign fit`; none: the machine alone.
        """
        self.args = list(args)

    @cached_property
    def reader(self) -> Reader:
        """The options, parsed and built.

        Raises:
            ValueError: A setting is wrong.
        """
        try:
            reader = run_trainer(self.args, Reader, run=False)
        except ArgumentError as error:
            raise ValueError(f"{error} See `mmalign fit --help`.") from error
        assert isinstance(reader, Reader)
        return reader

    @property
    def module(self) -> AlignmentModule:
        """The method; weights only once somebody loads them."""
        module: AlignmentModule = self.reader.model
        return module

    @property
    def data(self) -> ShardData:
        """Its data."""
        data: ShardData = self.reader.datamodule
        return data

    @cached_property
    def wanted(self) -> Wanted:
        """Of the config, or what the machine has."""
        present = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if not self.args:
            return Wanted(gpu=present > 0, devices=present or CPU_RANKS)
        settings = self.reader.config.trainer
        gpu = wants_gpu(settings.accelerator) and (settings.accelerator != "auto" or present > 0)
        return Wanted(
            gpu=gpu,
            devices=count_devices(settings.devices, present=present if gpu else 1),
            nodes=settings.num_nodes,
            bfloat16="bf16" in str(settings.precision),
            run_dir=Path(settings.default_root_dir or "."),
        )

    def check_config(self) -> Finding:
        """The config parses, and its parts fit one another."""
        check_strategy(self.reader.trainer.strategy)
        check_epochs(self.reader.trainer)
        check_method(self.module, self.data, precision=str(self.reader.trainer.precision))
        device, ranks = "GPU" if self.wanted.gpu else "CPU", self.wanted.ranks
        places = f"{ranks} {device} rank{'s' * (ranks > 1)} on {self.wanted.nodes} node{'s' * (self.wanted.nodes > 1)}"
        return ok(f"{type(self.module).__name__} on {places}, into {self.wanted.run_dir}")

    def check_batch(self) -> Finding:
        """The ranks can divide a step."""
        accumulation = self.data.accumulation(self.wanted.ranks)
        return ok(
            f"{self.data.batch_size} rows a step = {self.wanted.ranks} (ranks) x {self.data.micro_batch_size} (rows of "
            f"a micro-batch) x {accumulation} (micro-batches)"
        )

    def check_resume(self) -> Finding:
        """`--ckpt_path` names something to go on from, or the run's directory is free."""
        found = resolve_resume(self.reader.config.ckpt_path, self.wanted.run_dir)
        return ok(f"goes on from {found}" if found else "a fresh run")


def check_launcher(wanted: Wanted, environment: Mapping[str, str] = os.environ) -> Finding:
    """Inside a SLURM job, its tasks are the ranks that the config wants; elsewhere there is nothing to compare."""
    if "SLURM_NTASKS" not in environment:
        return ok("no SLURM job around this")
    name = environment.get("SLURM_JOB_NAME", "")
    if name in INTERACTIVE:
        return warning(
            f"the SLURM job is called {name!r}: its tasks would not find one another",
            "Start one process, or call the job otherwise (`--job-name`).",
        )
    tasks, nodes = environment.get("SLURM_NTASKS_PER_NODE"), environment.get("SLURM_NNODES", "1")
    found = f"{tasks or 'no number of'} tasks a node on {nodes} nodes; wanted: {wanted.devices} on {wanted.nodes}"
    if (tasks, nodes) != (str(wanted.devices), str(wanted.nodes)):
        asked = f"sbatch --nodes={wanted.nodes} --ntasks-per-node={wanted.devices}"
        return failed(found, f"`{asked}`, or set `trainer.devices` and `trainer.num_nodes`.")
    return ok(found)


def wants_gpu(accelerator: str) -> bool:
    """Whether `trainer.accelerator` means a GPU; `auto` does where there is one."""
    return accelerator in ("gpu", "cuda", "auto")


def count_devices(devices: int | str | list[int], *, present: int) -> int:
    """Devices that `trainer.devices` means: 4, "4", [0, 2], "0,2", -1 or "auto".

    Args:
        devices: As a config says it.
        present: Devices of this machine, for those that say "all".
    """
    if devices in ("auto", -1, "-1"):
        return max(present, 1)
    if isinstance(devices, list):
        return len(devices)
    if isinstance(devices, str) and "," in devices:
        return len([each for each in devices.split(",") if each])
    return int(devices)
