"""`mmalign report`: an evaluation as a page that a person can look at, and a table for an issue thread.

mmalign report --evaluation runs/demo/evaluation --run runs/demo        the embedded world, with training curves
mmalign report --evaluation runs/dpo/suite                              benchmarks of `mmalign evaluate --suite`
mmalign report --evaluation runs/dpo/suite --scaling '{"0.25": runs/quarter/suite, "0.5": runs/half/suite}'
"""

from collections.abc import Sequence
from pathlib import Path

import jsonargparse

from mmalign.evaluation.page import MARKDOWN_FILE
from mmalign.evaluation.report import write_report
from mmalign.evaluation.scores import SCORES_FILE
from mmalign.evaluation.suite.report import write_suite_report


def report(
    evaluation: Path,
    run: Path | None = None,
    out: Path | None = None,
    scaling: dict[str, Path] = {},  # noqa: B006, read only
    paper_values: bool = False,
) -> Path:
    """Write `report.html` (tables, intervals, drawings, pictures with both answers) and `report.md` (the tables).

    Args:
        evaluation: Folder that `mmalign evaluate` wrote.
        run: Folder of the training run, `trainer.default_root_dir` of its `fit`; left out, there are no curves.
        out: Folder to write into; left out, the evaluation's.
        scaling: Of a suite: folders of further suites, by the share of the preference pairs that their models were
            trained on (`"0.25"`), for the curve; or by a model's name, for the correlation of benchmarks.
        paper_values: Of a suite: show the paper's own numbers beside, which another judge gave.

    Raises:
        FileNotFoundError: No scores in the evaluation folder, or no such run.
        ValueError: An option of a suite, for another evaluation.
    """
    if not (evaluation / SCORES_FILE).is_file():
        page = write_suite_report(evaluation, run, out or evaluation, scaling=scaling, paper_values=paper_values)
    elif scaling or paper_values:
        raise ValueError(
            f"`--scaling` and `--paper_values` are for suites of benchmarks, and {evaluation} holds another evaluation."
        )
    else:
        page = write_report(evaluation, run, out or evaluation)
    print(f"{page} (and {MARKDOWN_FILE} beside it)")
    return page


def main(args: Sequence[str] | None = None) -> None:
    """Entry point of `mmalign report`."""
    jsonargparse.auto_cli(report, args=None if args is None else list(args), as_positional=False, prog="mmalign report")
