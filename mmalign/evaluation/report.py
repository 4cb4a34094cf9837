"""`report.html`: one file that a person likes to look at, and `report.md` with the same table.

Everything is inside the file: pictures, curves, style; it opens without a network and prints.

Tests   tests/evaluation/test_report.py
"""

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

from mmalign.evaluation import table
from mmalign.evaluation.answers import ANSWERS_FILE, read_answers
from mmalign.evaluation.curves import Curve, draw, read_logs
from mmalign.evaluation.findings import Findings, findings
from mmalign.evaluation.gallery import Case, gallery
from mmalign.evaluation.page import HTML_FILE, MARKDOWN_FILE, environment, rows_of
from mmalign.evaluation.scores import Scores, read_scores, write_whole

TEMPLATE = "report.html.jinja"


class Gallery(NamedTuple):
    """The pictures, and how the descriptions fall into their cases."""

    cases: list[Case]
    num_described: int

    @property
    def num_never(self) -> int:
        """Descriptions in none of the cases: nothing false and nothing lost."""
        return self.num_described - sum(case.num_found for case in self.cases)


def write_report(evaluation: Path, run: Path | None, out: Path) -> Path:
    """Write both files; returns the path of the page.

    Args:
        evaluation: Folder of `mmalign evaluate`.
        run: Folder of the training run, for its curves; None leaves them out.
        out: Folder to write into.

    Raises:
        FileNotFoundError: No scores, or no such run.
    """
    scores = read_scores(evaluation)
    if run is not None and not run.is_dir():
        raise FileNotFoundError(
            f"No run folder {run}. Give the `trainer.default_root_dir` of the run, or leave `--run` out."
        )
    curves = draw(read_logs(run)) if run is not None else []
    answered = scores.suite == "world" and (evaluation / ANSWERS_FILE).is_file()
    pictures = Gallery(*gallery(read_answers(evaluation))) if answered else None
    page = out / HTML_FILE
    write_whole(page, render_html(scores, curves, pictures, evaluation=evaluation, run=run))
    write_whole(out / MARKDOWN_FILE, render_markdown(scores))
    return page


def render_html(
    scores: Scores, curves: Sequence[Curve], pictures: Gallery | None, *, evaluation: Path, run: Path | None
) -> str:
    """The page.

    Args:
        scores: What was measured.
        curves: Of the training run; may be empty.
        pictures: Cards with both answers; None where the suite has no answers.
        evaluation: Named in the command that makes the page again.
        run: Likewise.
    """
    by_name = {each.name: row for each, row in zip(scores.comparisons, rows_of(scores.comparisons), strict=True)}
    groups = [
        (group, [by_name[each.name] for each in comparisons])
        for group, comparisons in groupby(scores.comparisons, key=lambda each: each.group)
    ]
    words: Findings = findings(scores)
    return (
        environment()
        .get_template(TEMPLATE)
        .render(
            words=words,
            level=f"{100 * scores.level:.0f} %",
            scores=scores,
            tiles=[by_name[name] for name in table.MAIN if name in by_name],
            groups=groups,
            by_chance=len(scores.comparisons) * (1 - scores.level),
            curves=curves,
            pictures=pictures,
            evaluation=evaluation,
            run=run,
        )
    )


def render_markdown(scores: Scores) -> str:
    """Headline, table and lineage."""
    words = findings(scores)
    lineage = "\n".join(f"- {name}: `{value}`" for name, value in scores.lineage.items())
    paragraphs = [f"# {words.headline}", words.summary, words.caution, table.markdown_table(scores)]
    paragraphs.append(
        f"Paired bootstrap over samples, {scores.resamples:,} resamples, "
        f"{100 * scores.level:.0f} % percentile intervals."
    )
    return "\n\n".join([paragraph.rstrip() for paragraph in paragraphs if paragraph]) + f"\n\n## Lineage\n\n{lineage}\n"
