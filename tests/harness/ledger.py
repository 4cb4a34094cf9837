"""What the processes of a run do, noted by one system call each, so that it is there after kill -9.

    ranks.start(2, fit_noting, "ledger/0", "--config=dpo.yaml", ...)     `mmalign fit`, and its notes in ledger/0
    busy_with("ledger/0")                                               what it was killed in
    committed(["ledger/0", "ledger/1"])                                 the steps that two starts make up

Used by  tests/faults/
"""

import json
import os
import sys
import time
from math import inf
from pathlib import Path
from typing import Any, NamedTuple

from lightning.pytorch.loops.optimization.automatic import _AutomaticOptimization

from mmalign import cli
from mmalign.checkpoint import Checkpoints, DirectoryCheckpointIO
from mmalign.data.loader import EncodedRows
from mmalign.methods.base import AlignmentModule

KINDS = {
    "training": (_AutomaticOptimization, "run"),
    "loading": (EncodedRows, "__getitem__"),
    "validation": (AlignmentModule, "validation_step"),
    "saving": (DirectoryCheckpointIO, "save_checkpoint"),
    "tidying": (Checkpoints, "_rotate"),
}
"""What a process may be about: forward, backward and step of a micro-batch, a row, a batch of validation, and so on."""


def fit_noting(folder, *args):
    """`mmalign fit`, and notes of it; in a rank."""
    note_into(Path(folder))
    sys.argv = ["mmalign", "fit", *args]
    cli.console()


def note_into(folder: Path) -> None:
    """From here on this process and its children note what they do."""
    folder.mkdir(parents=True, exist_ok=True)

    def note(**what):
        # Opened anew each time: a worker is another process, with a file of its own.
        descriptor = os.open(folder / str(os.getpid()), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.write(descriptor, json.dumps({"at": time.monotonic()} | what).encode() + b"\n")
        os.close(descriptor)

    def note_loss(module, *_):
        if module.ends_step:
            note(step=module.global_step, loss=float(module._step_means["loss"]))

    for kind, (owner, name) in KINDS.items():
        wrap(owner, name, lambda *_, kind=kind: note(begin=kind), lambda *_, kind=kind: note(end=kind))
    wrap(AlignmentModule, "on_train_start", lambda module: note(starts=module.global_step))
    wrap(
        AlignmentModule,
        "on_train_batch_start",
        lambda module, batch, _: note(step=module.global_step, rank=module.global_rank, rows=batch.keys),
    )
    wrap(AlignmentModule, "optimizer_step", after=note_loss)


def wrap(owner, name, before=None, after=None):
    """Have a method do something before it begins and when it has ended, with whatever it was called with."""
    method = getattr(owner, name)

    def wrapped(*args, **kwargs):
        if before is not None:
            before(*args)
        result = method(*args, **kwargs)
        if after is not None:
            after(*args)
        return result

    setattr(owner, name, wrapped)


def notes(folder: Path) -> list[list[dict[str, Any]]]:
    """Of each process, in the order of time."""
    return [[json.loads(line) for line in path.read_text().splitlines()] for path in sorted(folder.glob("*"))]


def begun(folder: Path, kind: str) -> int:
    """How often something has begun so far, over all processes."""
    return sum(path.read_bytes().count(f'"begin": "{kind}"'.encode()) for path in folder.glob("*"))


def busy_with(folder: Path) -> set[str]:
    """What has begun and has not ended, over all processes."""
    return {
        kind
        for process in notes(folder)
        for kind in KINDS
        if sum((note.get("begin") == kind) - (note.get("end") == kind) for note in process) > 0
    }


def duration(folder: Path, kind: str) -> float:
    """Seconds that something takes, the median."""
    took = []
    for process in notes(folder):
        times = [note["at"] for note in process if kind in (note.get("begin"), note.get("end"))]
        took += [end - begin for begin, end in zip(times[::2], times[1::2], strict=False)]
    return sorted(took)[len(took) // 2]


def first(folder: Path, what: str) -> float:
    """When something was noted for the first time."""
    return min(note["at"] for process in notes(folder) for note in process if what in note)


class Step(NamedTuple):
    """What an optimizer step was made of."""

    rows: dict[int, list[list[str]]]
    """By rank: keys of its micro-batches."""
    loss: float

    @property
    def keys(self) -> list[str]:
        """Of all ranks, sorted."""
        return sorted(key for batches in self.rows.values() for batch in batches for key in batch)


def committed(folders: list[Path]) -> dict[int, Step]:
    """The steps that the starts of a run make up: of each start those that no later one had to repeat."""
    found, end = dict[int, Step](), inf
    for folder in reversed(folders):
        if (begin := _begin(folder)) is None:
            continue
        steps = steps_of(folder)
        assert list(steps) == list(range(begin, begin + len(steps))), f"{folder} began at {begin}, did {list(steps)}"
        found |= {step: made for step, made in steps.items() if step < end}
        end = min(end, begin)
    assert sorted(found) == list(range(len(found))), (
        f"steps {sorted(set(range(max(found))) - set(found))} are in no start"
    )
    return dict(sorted(found.items()))


def _begin(folder: Path) -> int | None:
    """The step at which a start began to train; None where it was killed before."""
    begins = {note["starts"] for process in notes(folder) for note in process if "starts" in note}
    assert len(begins) <= 1, f"ranks began at different steps: {begins}"
    return next(iter(begins), None)


def steps_of(folder: Path) -> dict[int, Step]:
    """All that a start has ended, in order."""
    rows, losses = dict[int, dict[int, list[list[str]]]](), dict[int, float]()
    for note in (note for process in notes(folder) for note in process if "step" in note):
        if "rows" in note:
            rows.setdefault(note["step"], {}).setdefault(note["rank"], []).append(note["rows"])
        else:
            losses[note["step"]] = note["loss"]
    return {step: Step(dict(sorted(rows[step].items())), losses[step]) for step in sorted(losses)}
