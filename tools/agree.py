"""`mmalign agree`: how far raters agree, with 95 % intervals that resample whole samples.

    mmalign agree --shards shards/human --out runs/agree
    mmalign agree --shards shards/judged --raters '[world, world-noise-0.3]' --out runs/agree

Writes into the folder: `agree.json` (every number), `agree.md` (the tables), `heatmap.png` and `heatmap.svg` (how
differences within pairs correlate: the paper's figure 3). Nothing is kept on the way: run again, it reads again.

Tests   tests/tools/test_agree.py
"""

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jsonargparse
from rich.console import Console
from rich.text import Text

from mmalign.agreement.compare import compare
from mmalign.agreement.raters import WORLD, Collected, collect
from mmalign.agreement.report import Report, raters_of
from mmalign.agreement.table import printable, rich_table, tables
from mmalign.data.reader import ShardSet
from mmalign.data.rowset import Source
from mmalign.data.sample import Sample

from .progress import progress_bars


def agree(
    shards: str,
    out: Path,
    raters: list[str] | None = None,
    score: list[str] | None = None,
    resamples: int = 2000,
    seed: int = 0,
) -> Report:
    """Compare what people and judges say of the same answers.

    Args:
        shards: Folder or address of shards with judgments or direct preferences, or `world`, which ships with mmalign.
        out: Folder for the numbers, the tables and the heatmap; files of an earlier call are replaced.
        raters: Two or more of `preference` (the direct choice of a person or a published set), judges by the name in
            the samples, `ratings` (the latest judgment, whoever gave it), `unnamed` (judgments without a judge's name)
            and `world` (the exact judge of the embedded world, asked on the spot). Left out: all that the samples
            hold. A judge whose own name is one of these words is `judge:NAME`.
        score: Ratings whose sum is a judge's choice between two answers, such as `'[helpfulness, -hallucinations]'`;
            left out, helpfulness + correctness + coherence, or the one rating that a judge gives.
        resamples: Bootstrap draws for the intervals.
        seed: Of the bootstrap.

    Raises:
        FileNotFoundError: No shards.
        ValueError: A rater or a rating that the samples do not have.
    """
    console = Console(soft_wrap=True)
    began = time.perf_counter()
    shard_set = ShardSet(Source(path=shards).resolve())
    collected = collect(_read(shard_set), raters, where=shards)
    _check_score(collected, score or [])
    found = compare(collected, score=score or [], resamples=resamples, seed=seed)
    settings: dict[str, Any] = {"score": score or [], "resamples": resamples, "seed": seed}
    report = Report(
        shards=shards,
        samples=collected.num_samples,
        raters=raters_of(collected, score or []),
        findings=tuple(found),
        lineage={"manifest": shard_set.manifest.hash, **settings},
    )
    files = report.write(out)
    _show(console, report, collected)
    console.print(f"{files[0]} and its neighbours, in {time.perf_counter() - began:.0f} s", markup=False)
    return report


def _read(shard_set: ShardSet) -> Iterator[Sample]:
    with progress_bars() as progress:
        bar = progress.add_task("samples", total=len(shard_set), note="")
        for number in range(len(shard_set)):
            yield shard_set[number]
            progress.advance(bar)


def _check_score(collected: Collected, score: Sequence[str]) -> None:
    known = sorted({name for rated in collected.raters.values() for name in rated.values})
    missing = [name for name in score if name.removeprefix("-") not in known]
    if missing:
        raise ValueError(
            f"`--score` names {missing}, but the raters give {', '.join(known) or 'no ratings'}. Name some of these, "
            "with a minus sign before one that is better when it is lower."
        )


def _show(console: Console, report: Report, collected: Collected) -> None:
    console.print(Text(f"{report.shards}: {report.samples:,} samples. 95 % intervals, over samples."))
    for rater in report.raters:
        console.print(Text(f"  {printable(rater.line())}"))
    for cells in tables(report.findings):
        console.print()
        console.print(rich_table(cells))
    for hint in _hints(report, collected):
        console.print(Text(printable(hint)))


def _hints(report: Report, collected: Collected) -> Iterator[str]:
    """What would give more."""
    for rater in report.raters:
        if len(rater.ratings) > 1 and not rater.score:
            yield (
                f"{rater.name} makes no choice of its own: name the ratings whose sum it is with `--score`, those that "
                f"are better when lower after a minus sign. It gives {', '.join(rater.ratings)}."
            )
    if len(report.raters) < 2:
        world = f" Add `--raters '[{report.raters[0].name}, {WORLD}]'` to ask the exact judge." * collected.has_world
        yield f"Only one rater, {report.raters[0].name}: nothing to agree with.{world}"


def main(args: Sequence[str] | None = None) -> None:
    """Entry point of `mmalign agree`."""
    jsonargparse.auto_cli(agree, args=None if args is None else list(args), as_positional=False, prog="mmalign agree")
