"""`mmalign doctor`: would this run, here? Checks a machine and a config without training.

    mmalign doctor                                                       # the machine alone
    mmalign doctor --config dpo.yaml --config scale/four_gpus.yaml       # and a run: any option of `mmalign fit`
    mmalign doctor --config dpo.yaml --data.shards shards/mine --full    # hash every shard, too
    mmalign doctor --config dpo.yaml --json report.json                  # the same lines for a program

One line a check: ok, warning or failed, with what was found and, below, what to do. Exit code 1 if any failed.
"""

import argparse
import json
import logging
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from rich.console import Console
from rich.text import Text
from transformers.utils.logging import disable_progress_bar, enable_progress_bar

import mmalign
from mmalign.batch import Batch
from mmalign.data.cache import cache_root
from mmalign.data.manifest import write_whole
from mmalign.data.remote import Remote
from mmalign.plan import gigabytes, make_plan, total
from mmalign.planned import describe, room_of

from ..plan.command import processes_of
from . import data, disk, machine, model
from .findings import Check, Finding, Result, Status, examine, failed, ok, warning
from .ranks import collectives
from .run import Subject, check_launcher

STYLES = {Status.OK: "green", Status.WARNING: "yellow", Status.FAILED: "bold red"}
WIDTH = max(len(status) for status in Status)
NAME_WIDTH = 14
CONSOLE = Console(soft_wrap=True, highlight=False)


def main(args: Sequence[str] | None = None) -> None:
    """Entry point of `mmalign doctor`.

    Args:
        args: The command line behind `mmalign doctor`; None takes it from the shell.

    Raises:
        SystemExit: With 1, where a check failed.
    """
    parser = argparse.ArgumentParser(
        prog="mmalign doctor", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        epilog="All other options are those of `mmalign fit`, see `mmalign fit --help`.",
    )  # fmt: skip
    parser.add_argument("--full", action="store_true", help="hash every shard whole; sizes are compared in any case")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write what was found to FILE")
    own, rest = parser.parse_known_args(None if args is None else list(args))
    results = list[Result]()
    with _quiet():
        for result in examine(checks_of(Subject(rest), full=own.full)):
            CONSOLE.print(line_of(result))
            results.append(result)
    counts = {status: sum(result.status == status for result in results) for status in Status}
    CONSOLE.print(", ".join(f"{count} {status}" for status, count in counts.items()))
    if own.json is not None:
        own.json.absolute().parent.mkdir(parents=True, exist_ok=True)
        content = {
            "mmalign": mmalign.__version__,
            "args": rest,
            "counts": counts,
            "checks": [result._asdict() for result in results],
        }
        write_whole(own.json, json.dumps(content, indent=1).encode())
    if counts[Status.FAILED]:
        sys.exit(1)


def checks_of(subject: Subject, *, full: bool = False) -> list[Check]:
    """What there is to check, in the order of the report.

    Args:
        subject: The machine, and the run if there is one.
        full: Hash every shard.
    """
    of_run = _of_run(subject, full=full) if subject.args else []
    config = [check for check in of_run if check.name == "config"]
    return [*config, *_of_machine(subject, ("config",) if config else ()), *(c for c in of_run if c not in config)]


def _of_machine(subject: Subject, needs: tuple[str, ...]) -> list[Check]:
    folders = {
        "run folder": lambda: disk.check_folder(subject.wanted.run_dir, nodes=subject.wanted.nodes),
        "cache": lambda: disk.check_folder(cache_root(subject.data.remote if subject.args else Remote())),
        "TMPDIR": lambda: disk.check_folder(Path(tempfile.gettempdir())),
    }
    return [
        Check("versions", machine.check_versions),
        Check("GPUs", lambda: machine.check_gpus(wanted_gpus(subject), bfloat16=subject.wanted.bfloat16), needs),
        Check("ranks", lambda: check_ranks(subject), needs),
        *(Check(name, run, () if name == "TMPDIR" else needs) for name, run in folders.items()),
        Check("memory", machine.check_memory),
        *([] if subject.args else [Check("shared memory", lambda: machine.check_shared_memory(0, 0))]),
    ]


def _of_run(subject: Subject, *, full: bool) -> list[Check]:
    batches = dict[str, Batch]()

    def batch() -> Batch:
        """The first usable rows, read once."""
        if not batches:
            batches["first"], _ = subject.data.preview()
        return batches["first"]

    def shared_memory() -> Finding:
        workers = subject.data.num_workers * subject.wanted.devices
        return machine.check_shared_memory(workers, model.batch_bytes(batch()))

    def open_files() -> Finding:
        tensors = sum(isinstance(part, torch.Tensor) for part in batch())
        return machine.check_open_files(subject.data.num_workers, tensors)

    return [
        Check("config", subject.check_config),
        Check("batch", subject.check_batch, ("config",)),
        Check("launcher", lambda: check_launcher(subject.wanted), ("config",)),
        Check("resume", subject.check_resume, ("config",)),
        Check("round trip", lambda: disk.check_round_trip(subject.wanted.run_dir), ("config", "run folder")),
        Check("shards", lambda: data.check_shards(subject.data, full=full), ("config",)),
        Check("checkpoint", lambda: model.check_checkpoint(subject.data.checkpoint), ("config",)),
        Check("processor", lambda: model.check_processor(subject.data), ("config", "checkpoint")),
        Check("rows", lambda: data.check_rows(subject.data), ("shards", "processor")),
        Check("samples", lambda: data.check_samples(subject.data), ("rows",)),
        Check("lengths", lambda: data.check_lengths(subject.data), ("rows", "samples")),
        Check("memory plan", lambda: check_plan(subject), ("config", "batch")),
        Check("shared memory", shared_memory, ("samples", "lengths")),
        Check("open files", open_files, ("samples", "lengths")),
        Check("preflight", lambda: check_preflight(subject), ("samples", "lengths")),
    ]


def wanted_gpus(subject: Subject) -> int:
    """GPUs that the run wants on this machine; without a run, none has to be there."""
    return subject.wanted.devices if subject.args and subject.wanted.gpu else 0


def check_ranks(subject: Subject) -> Finding:
    """Sum tensors between as many local processes as the run has here."""
    wanted = subject.wanted
    if wanted.ranks == 1:
        return ok("one rank: nobody to reach")
    present = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if wanted.gpu and present < wanted.devices:
        found = collectives(wanted.devices, "gloo")
        return found if found.status == Status.FAILED else warning(
            f"nccl skipped: needs {wanted.devices} GPUs, {present} are here; {found.found}", "Run this where they are."
        )  # fmt: skip
    found = collectives(wanted.devices, "nccl" if wanted.gpu else "gloo")
    if wanted.nodes > 1 and found.status == Status.OK:
        return warning(
            f"{found.found}; not checked between the {wanted.nodes} nodes",
            "Start the run itself on all nodes with `--trainer.max_steps 1`, see configs/scale/README.md.",
        )
    return found


def check_plan(subject: Subject) -> Finding:
    """What the run needs, beside what this machine has; see `mmalign plan`."""
    processes = processes_of(subject)
    plan = make_plan(describe(subject.module, subject.data, processes), room_of(processes))
    needs = {"each machine": (plan.host, plan.room.host), "disk": (plan.disk, plan.room.disk)}
    if processes.on_gpu:
        needs = {"each GPU": (plan.gpu, plan.room.gpu), **needs}
    found = ", ".join(
        f"{name} {gigabytes(total(items))}" + ("" if room is None else f" of {gigabytes(room)}")
        for name, (items, room) in needs.items()
    )
    if plan.lacks:
        return failed(found, " ".join(plan.lacks))
    if processes.on_gpu and plan.room.gpu is None:
        return warning(f"{found}; no GPU here to compare with", "Compare with yours, or run this where they are.")
    return ok(found)


def check_preflight(subject: Subject) -> Finding:
    """The preflight of `fit` where the machine can run it."""
    if subject.wanted.gpu and not torch.cuda.is_available():
        return warning(f"skipped: needs {subject.wanted.devices} GPUs", "Run this on a machine that has them.")
    return model.check_preflight(subject.module, subject.data, subject.reader.trainer)


def line_of(result: Result) -> Text:
    """`ok       memory         21.3 GiB free, ...`, and below it what to do."""
    text = Text(f"{result.status:<{WIDTH}}", style=STYLES[result.status])
    indent = "\n" + " " * (WIDTH + NAME_WIDTH + 4)
    text.append(f"  {result.name:<{NAME_WIDTH}}  {result.found.replace(chr(10), indent)}", style="default")
    if result.remedy:
        text.append(f"{indent}-> {result.remedy}", style="default")
    return text


@contextmanager
def _quiet() -> Iterator[None]:
    """Lines of our own only: Lightning and transformers would report on what they build."""
    disable_progress_bar()
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric", "lightning")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        enable_progress_bar()
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
