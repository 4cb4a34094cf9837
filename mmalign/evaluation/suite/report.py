"""`report.html` and `report.md` of a suite: what alignment gained and what it cost, benchmark by benchmark.

    write_suite_report(suite, run, suite, scaling={"0.25": Path("runs/quarter/suite")})    -> suite/report.html

Everything is inside the page: pictures, curves, style; it opens without a network and prints.

Tests   tests/evaluation/suite/test_report.py
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from mmalign.evaluation.curves import Curve, draw, read_logs
from mmalign.evaluation.page import HTML_FILE, MARKDOWN_FILE, Row, environment, rows_of
from mmalign.evaluation.paired import RESAMPLES, Comparison
from mmalign.evaluation.scores import write_whole
from mmalign.evaluation.suite import drawings
from mmalign.evaluation.suite.examples import examples_of
from mmalign.evaluation.suite.origins import command, failures_of, lineage_of, origins_of
from mmalign.evaluation.suite.results import Bench, SuiteResults, read_suite
from mmalign.evaluation.suite.scaling import Correlation, Model, correlation_of, models_of
from mmalign.evaluation.suite.table import columns_of, escaped, markdown_table
from mmalign.evaluation.suite.words import Words, words_of

TEMPLATE = "suite/suite.html.jinja"
SHIFTS = {"words": "Words an answer", "yes_ratio": "Answers that say yes", "format_kept": "Answers in the short format"}
"""Metrics that tell how answers changed beside how good they are: name -> heading."""


class Pictures(NamedTuple):
    """What is drawn; where something cannot be, why."""

    bars: list[drawings.Drawing]
    radar: drawings.Drawing | str
    scaling: list[drawings.Drawing]
    correlation: drawings.Drawing | str
    problems: list[str]
    """Of further models."""


class Measures(NamedTuple):
    """All measures of one benchmark."""

    title: str
    name: str
    rows: list[Row]
    official: list[str]
    """Numbers as the official script prints them, and single runs of the judge."""


def write_suite_report(
    out: Path,
    run: Path | None,
    to: Path,
    *,
    scaling: Mapping[str, Path] | None = None,
    paper_values: bool = False,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Path:
    """Write both files; returns the path of the page.

    Args:
        out: Folder of `mmalign evaluate --suite`.
        run: Folder of the training run, for its curves; None leaves them out.
        to: Folder to write into.
        scaling: Further models by label, each a suite folder or one with `<benchmark>/score.json`; a label that is a
            share (`0.25`) puts it on the data-scaling curve.
        paper_values: Whether the paper's own numbers stand beside the table.
        resamples: Bootstrap draws.
        seed: Of the draws.

    Raises:
        FileNotFoundError: No suite, no such run, or nothing in a folder of `scaling`.
        ValueError: A file is damaged, or a label is no share.
    """
    if run is not None and not run.is_dir():
        raise FileNotFoundError(
            f"No run folder {run}. Give the `trainer.default_root_dir` of the run, or leave `--run` out."
        )
    results = read_suite(out, resamples=resamples, seed=seed)
    again = command(out, run, to, scaling or {}, paper_values=paper_values)
    models, problems = models_of(results, scaling or {})
    curves = draw(read_logs(run)) if run is not None else []
    page = render_html(
        results, curves, _drawn(results, models, problems), run=run, again=again, paper_values=paper_values
    )
    write_whole(to / HTML_FILE, _valid(page))
    write_whole(to / MARKDOWN_FILE, _valid(render_markdown(results, again=again, paper_values=paper_values)))
    return to / HTML_FILE


def render_html(
    results: SuiteResults,
    curves: Sequence[Curve],
    pictures: Pictures,
    *,
    run: Path | None,
    again: str,
    paper_values: bool,
) -> str:
    """The page.

    Args:
        results: What was measured.
        curves: Of the training run; may be empty.
        pictures: What is drawn.
        run: Folder of the training run.
        again: The command that makes the page.
        paper_values: Whether the paper's own numbers stand in the table.
    """
    template = environment().get_template(TEMPLATE)
    return template.render(
        words=words_of(results),
        level=f"{100 * results.level:.0f} %",
        results=results,
        columns=columns_of(results),
        paper_values=paper_values,
        shifts=[(title, rows_of(some)) for name, title in SHIFTS.items() if (some := _shift(results, name))],
        measures=[_measures(bench) for bench in results.benches if bench.comparisons],
        pictures=pictures,
        examples=examples_of(results),
        failures=failures_of(results),
        origins=origins_of(results),
        lineage=lineage_of(results),
        curves=curves,
        run=run,
        again=again,
    )


def render_markdown(results: SuiteResults, *, again: str, paper_values: bool) -> str:
    """Words, table, failures and lineage.

    Args:
        results: What was measured.
        again: The command that makes the page.
        paper_values: Whether the paper's own numbers stand in the table.
    """
    words: Words = words_of(results)
    failed = [
        f"- {each.title}, {each.side}: {each.number:,}: {escaped(each.reason)} ({escaped(each.ids)})"
        for each in failures_of(results)
    ]
    origins = [f"- {name}: `{escaped(value)}`" for name, value in lineage_of(results).items()]
    origins += [
        f"- {each.title}, {each.side}: {escaped(each.model or 'unnamed')}, judge {escaped(each.judge)}, "
        f"`{escaped(each.protocol)}`, {each.compat}, `{escaped(each.score)}`"
        for each in origins_of(results)
    ]
    shifts = [f"- {escaped(line)}" for line in words.warnings]
    parts = [
        f"# {words.headline}",
        words.summary,
        f"**Alignment tax.** {words.tax}",
        *(["\n".join(shifts)] if shifts else []),
        markdown_table(results, paper_values=paper_values).rstrip(),
        f"Paired bootstrap over the questions, {results.resamples:,} resamples, {100 * results.level:.0f} % percentile "
        "intervals. Gained and lost mean that the interval of the difference lies clear of zero.",
        *(["## In no mean", "\n".join(failed)] if failed else []),
        "## Lineage",
        "\n".join(origins),
        f"    {again}",
    ]
    return "\n\n".join(parts) + "\n"


def _drawn(results: SuiteResults, models: Sequence[Model], problems: list[str]) -> Pictures:
    correlation = correlation_of(results, models)
    return Pictures(
        bars=drawings.bars(results),
        radar=drawings.radar(results),
        scaling=drawings.scaling_curves(results, models),
        correlation=drawings.heatmap(correlation) if isinstance(correlation, Correlation) else correlation,
        problems=problems,
    )


def _shift(results: SuiteResults, name: str) -> list[Comparison]:
    """One measure over the benchmarks that have it, each under its benchmark's name."""
    found = [(bench, bench.get(name)) for bench in results.benches]
    return [replace(each, label=bench.title, description="", group=name) for bench, each in found if each is not None]


def _measures(bench: Bench) -> Measures:
    return Measures(bench.title, bench.name, rows_of(bench.comparisons), _official(bench))


def _official(bench: Bench) -> list[str]:
    told = []
    for name, side in (("base", bench.base), ("aligned", bench.aligned)):
        for metric in side.scored.metrics if side else ():
            if metric.headline and metric.official is not None:
                runs = f" (runs of the judge: {', '.join(f'{run:g}' for run in metric.runs)})" if metric.runs else ""
                told.append(f"{metric.label}, {name}: {metric.official:g}{runs}")
    return told


def _valid(text: str) -> str:
    """Without halves of characters, which an answer may hold and no file can."""
    return text.encode("utf-8", "replace").decode("utf-8")
