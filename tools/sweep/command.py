"""`mmalign sweep`: many trainings, each evaluated against the same base; one table and one plot.

    mmalign sweep --config sweeps/methods.yaml --out runs/methods --jobs 2
    mmalign sweep --config sweeps/methods.yaml --out runs/methods --only dpo,sft    # some of them

    title: DPO with less data
    fit: [--config=dpo.yaml, --config=scale/tiny.yaml]    # every run's arguments of `mmalign fit`
    runs:                                                 # runs by name, with arguments of their own, ...
      dpo: [--model.beta=0.5]
    grid:                                                 # ... and one run a point of a grid
      data.share: [0.25, 0.5, 0.75, 1.0]

Each run is fitted, exported and evaluated by the commands that a user would type, in processes of their own; the base
answers once for all. Writes into the folder: `table.md`, `table.json`, `plot.svg`, and a folder with a log for each
run. Stopped and run again, it goes on where it was; runs that failed are tried again. Runs whose arguments or configs
have changed are noticed; shards and base model are not looked at, so give another folder where those have changed.
"""

import fcntl
import json
import os
import platform
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import jsonargparse
from rich.console import Console

from mmalign.evaluation.scores import read_scores, write_whole
from mmalign.evaluation.sweep import (
    COLUMNS,
    Finished,
    Setting,
    check_one_base,
    check_readme,
    fill_readme,
    sweep_markdown,
    sweep_record,
    sweep_table,
)
from mmalign.evaluation.sweep_plot import draw_sweep

from .jobs import run_all
from .runs import RunFolder, SweepError, config_path, plan, read_config


def sweep(
    out: Path,
    title: str | None = None,
    fit: list[str] = [],  # noqa: B006, read only
    runs: dict[str, list[str]] = {},  # noqa: B006
    grid: dict[str, list[Setting]] = {},  # noqa: B006
    evaluate: list[str] = [],  # noqa: B006
    select: str | None = None,
    only: str | None = None,
    jobs: int = 1,
    readme: Path | None = None,
    overwrite: bool = False,
) -> None:
    """Train and evaluate many runs, and compare them in one table.

    Args:
        out: Where runs, table and plot go. Run again with the same folder to go on.
        title: Above table and plot; the folder's name if left out.
        fit: Arguments of `mmalign fit` that all runs share, each as `--name=value`. A run's own configs come before
            these, its other arguments behind them.
        runs: Runs by name, each with arguments of its own; `{sft}` in one stands for the adapter of the run `sft`,
            which then comes first.
        grid: Options of `mmalign fit`, such as `model.beta`, with the values to try; one run for each combination.
        evaluate: Arguments of `mmalign evaluate` that all runs share, each as `--name=value`.
        select: A measure of `scores.json`; the table marks the run that does best in it.
        only: Names of runs, with commas between them; the others stay as they are.
        jobs: Runs at a time, one thread each.
        readme: A file with a table between `<!-- measured -->` and `<!-- /measured -->`, whose measured columns are
            rewritten once every run is there.
        overwrite: Train or evaluate anew the runs in `out` whose settings have changed, instead of refusing to mix.

    Raises:
        SweepError: The sweep makes no sense, settings of its runs have changed, or runs failed.
    """
    console = Console(highlight=False)
    if jobs < 1:
        raise SweepError(f"`--jobs` is the number of runs at a time and at least 1, got {jobs}.")
    if select is not None and select not in COLUMNS:
        raise SweepError(f"`select: {select}` is no column of the table. Choose by one of: {', '.join(COLUMNS)}.")
    by_name: dict[str, RunFolder] = {}
    for run in plan(fit, runs, grid):
        by_name[run.name] = RunFolder(run, out, evaluate, by_name)
    folders = list(by_name.values())
    chosen = _choose(folders, only)
    if readme is not None:
        check_readme(readme.read_text(encoding="utf-8"), list(by_name))
    with _lock(out) as lock, _stopped_by_term():
        _refuse_changed(chosen, overwrite=overwrite)
        failed = run_all(chosen, jobs, lock, console)
        finished = [
            Finished(
                name=folder.run.name,
                args=folder.run.args,
                point=folder.run.point,
                scores=read_scores(folder.evaluation),
                seconds=folder.seconds,
            )
            for folder in folders
            if folder.done()
        ]
        missing = {each.run.name: failed.get(each.run.name) or _lack(each) for each in folders if not each.done()}
        if finished:
            _write(out, title or out.name, finished, missing, select, jobs, console)
    if failed:
        raise SweepError(
            f"{len(failed)} of {len(chosen)} runs failed: "
            + "; ".join(f"{name} ({reason})" for name, reason in failed.items())
            + ". The others are kept; mend what failed and run the same command again."
        )
    if readme is not None:
        _fill(readme, finished, missing, console)


def _choose(folders: Sequence[RunFolder], only: str | None) -> list[RunFolder]:
    """The runs that `--only` names, or all."""
    if only is None:
        return list(folders)
    wanted = [name.strip() for name in only.split(",")]
    known = [folder.run.name for folder in folders]
    strange = [name for name in wanted if name not in known]
    if strange:
        raise SweepError(f"`--only` names {', '.join(strange)}, but the sweep has: {', '.join(known)}.")
    return [folder for folder in folders if folder.run.name in wanted]


@contextmanager
def _lock(out: Path) -> Iterator[int]:
    """Hold the folder. The commands inherit the lock, so that those of a killed sweep still hold it."""
    out.mkdir(parents=True, exist_ok=True)
    with (out / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise SweepError(
                f"Another sweep is at work in {out}, or commands of one that was killed. Wait for them, or end them."
            ) from error
        yield file.fileno()


@contextmanager
def _stopped_by_term() -> Iterator[None]:
    """Let a SIGTERM stop the sweep as Ctrl-C does, so that it takes its commands along."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _refuse_changed(folders: Sequence[RunFolder], *, overwrite: bool) -> None:
    """Claim the runs' folders, or raise where they hold runs of other settings."""
    changed = {folder.run.name: parts for folder in folders if (parts := folder.changed())}
    if changed and not overwrite:
        named = "; ".join(f"{name} ({', '.join(parts)})" for name, parts in changed.items())
        raise SweepError(
            f"Settings have changed since these runs were started: {named}. Give another `--out`, or do them anew with "
            f"`--overwrite true --only {','.join(changed)}`."
        )
    for folder in folders:
        folder.claim()


def _lack(folder: RunFolder) -> str:
    return "run with other settings" if folder.changed() else "not run yet"


def _write(
    out: Path,
    title: str,
    finished: Sequence[Finished],
    missing: Mapping[str, str],
    select: str | None,
    jobs: int,
    console: Console,
) -> None:
    """Table and plot of the runs that are done."""
    check_one_base(finished)
    machine = {"system": platform.platform(), "cpus": os.cpu_count(), "jobs": jobs}
    record = {"title": title, "machine": machine} | sweep_record(finished, select=select, missing=missing)
    write_whole(out / "table.json", json.dumps(record, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    write_whole(out / "table.md", sweep_markdown(title, finished, select=select, missing=missing))
    write_whole(out / "plot.svg", draw_sweep(title, finished))
    console.print(sweep_table(finished, select=select))
    console.print(f"{out / 'table.md'}, table.json and plot.svg", soft_wrap=True)


def _fill(readme: Path, finished: Sequence[Finished], missing: Mapping[str, str], console: Console) -> None:
    if missing:
        raise SweepError(f"{readme} is left as it is: no scores of {', '.join(missing)}. Run them first.")
    write_whole(readme, fill_readme(readme.read_text(encoding="utf-8"), finished))
    console.print(f"measured columns of {readme}", soft_wrap=True)


def main(args: Sequence[str] | None = None) -> None:
    """Entry point of `mmalign sweep`."""
    jsonargparse.set_parsing_settings(docstring_parse_attribute_docstrings=True)
    given = [_config_found(arg, before) for before, arg in pairwise(["", *(sys.argv[1:] if args is None else args)])]
    jsonargparse.auto_cli(sweep, args=given, as_positional=False, prog="mmalign sweep")


def _config_found(arg: str, before: str) -> str:
    """An argument, with the path of the config that it names, if it names one; checked for names that stand twice."""
    name = arg.removeprefix("--config=")
    if name == arg and before != "--config":
        return arg
    path = config_path(name)
    read_config(path)
    return arg.removesuffix(name) + str(path)
