"""Shards made of shards: what `mmalign sample`, `judge` and `contrast` have in common.

    settings = {"judge": "world", "aspects": "helpsteer"}
    with making("shards/sampled", Path("shards/judged"), command="judge", settings=settings, overwrite=False) as work:
        if work is None:  # made already; that was said
            return
        kept = work.records("ratings.jsonl", Rated)         # in shards/judged.partial, with what an earlier start left
        ...
        finish(work, samples, {"samples": 60, "answers rated": 240}, following="mmalign fit ...")

Work in progress lies in `OUT.partial`, which one process holds at a time. Killed at any moment and run again, a command
finds there what it had; OUT appears whole, at the end, with one more step in its lineage.

Tests   tests/tools/test_making.py
"""

import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from filelock import FileLock, Timeout
from rich.console import Console

from mmalign.data.lineage import Step, lineage_of, without_secret
from mmalign.data.manifest import MANIFEST_NAME, Manifest
from mmalign.data.reader import ShardSet
from mmalign.data.records import IDENTITY_FILE, R, RecordFile
from mmalign.data.remote import is_remote
from mmalign.data.replacing import put_in_place, settle
from mmalign.data.rowset import SHIPPED, Source
from mmalign.data.sample import Sample
from mmalign.data.shards import ShardWriter

from .progress import progress_bars

KEPT = "replies"
"""In `OUT.partial`: what was paid for. It outlives the end of a command and `--overwrite true`."""
LOCK = "lock"
WRITTEN, FORMER = "written", "former"
"""In `OUT.partial`: the new shard set before it is put in place, and the one that it replaces."""


class Making(NamedTuple):
    """One shard set that is being made of another."""

    source: ShardSet
    out: Path
    partial: Path
    """Holds the work in progress; gone when all is done, unless it holds what was paid for."""
    step: Step
    """What is being done, still without its counts."""

    @property
    def identity(self) -> dict[str, str]:
        """All that a result depends on besides its sample's id: the identity of record files."""
        settings = {name: _text(value) for name, value in self.step.settings.items()}
        return {"command": self.step.command, "shards": self.step.hash} | settings

    def records(self, name: str, kind: Callable[..., R]) -> RecordFile[R]:
        """A file of records in `partial`, with those that an earlier start left there.

        Args:
            name: Of the file.
            kind: The record's class.

        Raises:
            ValueError: A line is damaged.
        """
        return RecordFile(self.partial / name, kind, self.identity)


@contextmanager
def making(
    shards: str, out: Path, *, command: str, settings: Mapping[str, Any], overwrite: bool
) -> Iterator[Making | None]:
    """Hold `OUT.partial` while a shard set is made; None where it is made already, which is said.

    Args:
        shards: IN: a folder, an address, or a name that ships with mmalign.
        out: OUT: a new folder.
        command: As it is called, without `mmalign`.
        settings: All that the results depend on besides the samples, in JSON's types; no secret.
        overwrite: Replace what OUT and `OUT.partial` hold of other settings, instead of refusing.

    Raises:
        FileNotFoundError: No shards.
        ValueError: OUT is IN, or something else, or of other settings; or another process is at it.
    """
    _check_name(shards, out)
    try:
        source = ShardSet(Source(path=shards).resolve())
    except FileNotFoundError as error:
        raise FileNotFoundError(f"`--shards`: {error}") from error
    step = Step(command, without_secret(shards), source.manifest.hash, json.loads(json.dumps(dict(settings))))
    work = Making(source, out, partial_of(out), step)
    with _held(work):
        settle(work.partial / FORMER, out.resolve())
        if _is_made(work, overwrite=overwrite):
            _clear(work.partial)
            CONSOLE.print(
                f"{out} is there already, made with these settings: {_counted(lineage_of(_manifest(out))[-1])}."
            )
            yield None
            return
        _check_partial(work, overwrite=overwrite)
        yield work


def partial_of(out: Path) -> Path:
    """Where the work in progress of a shard set lies: beside it, and where OUT is a link beside what it points at."""
    real = out.resolve() if out.is_symlink() else out
    return real.with_name(f"{real.name}.partial")


def finish(work: Making, samples: Iterable[Sample], counts: Mapping[str, int | float], *, following: str = "") -> None:
    """Write OUT whole, with its lineage, clear away what led to it, and say so.

    Args:
        work: What `making` gave.
        samples: In the order of IN.
        counts: What came of it, by a name that reads behind its number (`{"answers": 240}`). Looked at behind the last
            sample, so those who make the samples may count in it.
        following: The command to run next.
    """
    written = work.partial / WRITTEN
    with progress_bars() as progress, ShardWriter(written) as writer:
        for sample in progress.track(samples, total=len(work.source), description=f"writing {work.out.name}"):
            writer.write(sample)
        step = work.step._replace(counts=dict(counts))
        writer.lineage = (*lineage_of(work.source.manifest), step)
    put_in_place(written, work.out.resolve(), work.partial / FORMER)  # where it is a link, what it points at
    _clear(work.partial)
    CONSOLE.print(f"{work.out}: {_counted(step)}." + (f"\nNext: {following}" if following else ""))


CONSOLE = Console(soft_wrap=True, highlight=False, markup=False)


def _check_name(shards: str, out: Path) -> None:
    """Raise where OUT cannot be the name of a new shard set."""
    location = Source(path=shards).resolve()
    if not is_remote(location) and Path(location).resolve() == out.resolve():
        raise ValueError(
            f"--out {out} is what --shards reads. Give a new folder: shards are made of shards, not changed."
        )
    if str(out) in SHIPPED:
        raise ValueError(
            f"--out {out}: by this name mmalign reads its own shards. Write `--out ./{out}-2` or the like."
        )


@contextmanager
def _held(work: Making) -> Iterator[None]:
    """Be the only process at this folder."""
    work.partial.mkdir(parents=True, exist_ok=True)
    lock = FileLock(work.partial / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise ValueError(
            f"{work.partial / LOCK} is held: another process makes {work.out}. Wait for its end, or give another --out."
        ) from error
    try:
        yield
    finally:
        _drop_empty(work.partial)  # while it is held: nobody else can have begun there
        lock.release()


def _is_made(work: Making, *, overwrite: bool) -> bool:
    """Whether OUT is what would be made.

    Raises:
        ValueError: OUT is something else, and may not be replaced.
    """
    if work.out.exists() and not work.out.is_dir():
        raise ValueError(f"--out {work.out} is a file. Give the name of a new folder.")
    if not work.out.exists() or not any(work.out.iterdir()):
        return False
    if not (work.out / MANIFEST_NAME).is_file():
        raise ValueError(f"--out {work.out} is there and is no shard set. Give the name of a new folder.")
    steps = lineage_of(_manifest(work.out))
    differing = _differing(steps[-1], work.step) if steps else ["its origin"]
    if differing and not overwrite:
        raise ValueError(
            f"--out {work.out} holds other shards: {', '.join(differing)} differ. Give another folder, go back to "
            "those settings, or replace it with `--overwrite true`."
        )
    return not differing


def _differing(found: Step, wanted: Step) -> list[str]:
    """What tells two steps apart, if anything does that could change the result."""
    names = [
        name
        for name, field in (("the command", "command"), ("the shards read", "hash"))
        if getattr(found, field) != getattr(wanted, field)
    ]
    settings = sorted({*found.settings, *wanted.settings})
    return names + [name for name in settings if found.settings.get(name) != wanted.settings.get(name)]


def _check_partial(work: Making, *, overwrite: bool) -> None:
    """Raise where work of other settings lies in `partial`, or drop it."""
    path = work.partial / IDENTITY_FILE
    found = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else work.identity
    differing = sorted(name for name in {*found, *work.identity} if found.get(name) != work.identity.get(name))
    if differing and not overwrite:
        raise ValueError(
            f"{work.partial} holds unfinished work of other settings: {', '.join(differing)} differ. Go back to those "
            "settings, give another --out, or drop that work with `--overwrite true`."
        )
    if differing:
        _clear(work.partial)


def _clear(partial: Path) -> None:
    """Remove the work in progress; not what was paid for, and not the lock that is held."""
    for path in partial.iterdir():
        if path.is_dir() and path.name != KEPT:
            shutil.rmtree(path)
        elif path.name not in (KEPT, LOCK):
            path.unlink()


def _drop_empty(partial: Path) -> None:
    """Remove the folder if nothing but the lock is in it."""
    if partial.is_dir() and {path.name for path in partial.iterdir()} <= {LOCK}:
        shutil.rmtree(partial)


def _manifest(folder: Path) -> Manifest:
    return Manifest.load(folder)


def _counted(step: Step) -> str:
    """`60 samples, 240 answers`."""
    return ", ".join(f"{value:,} {name}" for name, value in step.counts.items()) or "nothing counted"


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
