"""`mmalign evaluate score`: official scores of answers and judgments, ours or published; pure, offline, without torch.

    mmalign evaluate score pope --questions llava_pope_test.jsonl --labels coco --answers llava-v1.5-7b.jsonl
    mmalign evaluate score mm_vet --questions mm-vet.json --judgments llava-v1.5-7b_gpt-4-grade-3runs.json

Tests   tests/tools/test_evaluate_score.py
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from mmalign.evaluation.steps.benchmark import Benchmark, JudgedBenchmark
from mmalign.evaluation.steps.faults import NAMED, Handling
from mmalign.evaluation.steps.reading import read_answers, read_runs
from mmalign.evaluation.steps.records import JudgeReply
from mmalign.evaluation.steps.scored import Metric, Scored
from mmalign.evaluation.table import number

from ..inspection.seen import seen

CONSOLE = Console(soft_wrap=True, highlight=False)


def score_answers(
    bench: Benchmark,
    answers: str | None = None,
    judgments: list[str] | None = None,
    out: Path | None = None,
    compat: Literal["strict", "official"] = "strict",
    on_bad: Literal["error", "count"] = "error",
) -> Scored:
    """Score answers by the benchmark's official rule.

    Args:
        bench: The benchmark.
        answers: The folder of `mmalign evaluate generate`, or a file in the layout that the benchmark publishes. May be
            left out where judgments alone say all.
        judgments: The folder of `mmalign evaluate judge`, or published judgments; several are runs of one judge.
        out: Where `score.json` and `scores.jsonl` go; left out, the score is only shown.
        compat: `official` does as the benchmark's own script does, its faults included: joins by position, averages
            what could not be read. What that concerns is counted all the same.
        on_bad: What to do about missing, double or unknown answers, and about judgments without a score. `error`: say
            how many and which. `count`: leave them out of every mean, and count them beside it.

    Raises:
        FileNotFoundError: A file is not there.
        ValueError: A file is of another layout, or not all can be scored; how many and which.
    """
    found = read_answers(bench, answers) if answers is not None else None
    scored = bench.score(found, _runs(bench, judgments or ()), Handling(compat=compat, on_bad=on_bad))
    CONSOLE.print(score_table(scored))
    for reason, ids in scored.failures.items():
        more = f" and {len(ids) - NAMED} more" if len(ids) > NAMED else ""
        CONSOLE.print(f"{len(ids)} not scored: {escape(seen(reason))}: {escape(seen(', '.join(ids[:NAMED])))}{more}")
    if out is not None:
        CONSOLE.print(f"{scored.write(out)} and its neighbour", markup=False)
    return scored


def score_table(scored: Scored) -> Table:
    """One benchmark under one model, for a terminal."""
    judge = f", judged by {scored.judge}" if scored.judge else ""
    official = ", as the official script does" if scored.compat == "official" else ""
    failed = sum(len(ids) for ids in scored.failures.values())
    title = f"{scored.title} ({scored.protocol}{judge}{official}): {scored.num_scored} of {scored.num_questions} scored"
    table = Table(
        box=box.SIMPLE_HEAD, pad_edge=False, title=escape(seen(title + f", {failed} failed")), title_justify="left"
    )
    table.add_column("measure")
    for column in ("value", "official"):
        table.add_column(column, justify="right", no_wrap=True)
    for metric in scored.metrics:
        name = f"  {metric.group}: {metric.label}" if metric.group else metric.label
        style = "bold" if metric.headline else None
        table.add_row(escape(name), _value(metric), _official(metric), style=style)
    return table


def _value(metric: Metric) -> str:
    unit = " %" if metric.percent and not math.isnan(metric.value) else ""
    return number(metric.value, percent=metric.percent) + unit


def _official(metric: Metric) -> str:
    """What the official script prints, with every run's."""
    if metric.official is None:
        return ""
    if metric.std is None:
        return repr(metric.official)
    deviation = number(metric.std, percent=metric.percent)
    return f"{metric.official!r} ± {deviation} ({', '.join(map(repr, metric.runs))})"


def _runs(bench: Benchmark, places: Sequence[str]) -> list[list[JudgeReply]]:
    """Judgments, a list for each run."""
    if places and not isinstance(bench, JudgedBenchmark):
        raise ValueError(f"{bench.title} is scored by a rule and has no judge: leave `--judgments` out.")
    return [run for place in places for run in read_runs(bench, place)]  # type: ignore[arg-type]  # judged, see above
