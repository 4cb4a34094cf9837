"""`mmalign report`: an evaluation and its training run as a page a person can look at.

mmalign report --evaluation runs/demo/evaluation --run runs/demo
"""

from collections.abc import Sequence
from pathlib import Path

import jsonargparse

from mmalign.evaluation.report import MARKDOWN_FILE, write_report


def report(evaluation: Path, run: Path | None = None, out: Path | None = None) -> Path:
    """Write `report.html` (table, intervals, training curves, pictures with both answers) and `report.md` (the table).

    Args:
        evaluation: Folder that `mmalign evaluate` wrote.
        run: Folder of the training run, `trainer.default_root_dir` of its `fit`; left out, there are no curves.
        out: Folder to write into; left out, the evaluation's.

    Raises:
        FileNotFoundError: No scores in the evaluation folder, or no such run.
    """
    page = write_report(evaluation, run, out or evaluation)
    print(f"{page} (and {MARKDOWN_FILE} beside it)")
    return page


def main(args: Sequence[str] | None = None) -> None:
    """Entry point of `mmalign report`."""
    jsonargparse.auto_cli(report, args=None if args is None else list(args), as_positional=False, prog="mmalign report")
