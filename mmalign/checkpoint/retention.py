"""Which checkpoints stay: the newest, and those that validated best.

Tests    tests/checkpoint/test_retention.py
"""

import json
import math
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Literal

from mmalign.checkpoint.disk import discard, write_text

Mode = Literal["min", "max"]
BEST_FILE = "best.json"


def staying(
    names: Collection[str], scores: Mapping[str, float], *, keep_last: int, keep_best: int, mode: Mode
) -> set[str]:
    """Names of the checkpoints that stay.

    Args:
        names: Of all, oldest first.
        scores: What validation said, of those that were validated.
        keep_last: The newest so many.
        keep_best: The best so many; among equals the newest.
        mode: Whether small scores are good ones.
    """
    sign = 1 if mode == "min" else -1
    scored = [name for name in reversed(list(names)) if name in scores]
    return {*list(names)[-keep_last:], *sorted(scored, key=lambda name: sign * scores[name])[:keep_best]}


def remove_others(checkpoints: Collection[Path], stay: Collection[str]) -> None:
    """Delete the checkpoints that do not stay.

    Raises:
        OSError: One cannot be deleted.
    """
    for folder in checkpoints:
        if folder.name not in stay:
            discard(folder)


def read_scores(folder: Path, monitor: str) -> dict[str, float]:
    """Scores of checkpoints by name; none where they are of another metric, or the file is torn.

    Args:
        folder: Of the checkpoints.
        monitor: Name of the metric.
    """
    try:
        content = json.loads((folder / BEST_FILE).read_text())
        return {str(name): float(score) for name, score in dict(content[monitor]).items()}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def write_score(folder: Path, monitor: str, name: str, score: float) -> None:
    """Add a checkpoint's score; one that is no number is no score.

    Args:
        folder: Of the checkpoints.
        monitor: Name of the metric.
        name: Of the checkpoint.
        score: Its value.
    """
    if not math.isfinite(score):
        return
    scores = _of_those_here(folder, monitor)
    write_text(folder / BEST_FILE, json.dumps({monitor: scores | {name: score}}, indent=1))


def forget_scores(folder: Path, monitor: str) -> None:
    """Drop the scores of checkpoints that are gone: others of their names may come.

    Args:
        folder: Of the checkpoints.
        monitor: Name of the metric.
    """
    if (scores := _of_those_here(folder, monitor)) != read_scores(folder, monitor):
        write_text(folder / BEST_FILE, json.dumps({monitor: scores}, indent=1))


def _of_those_here(folder: Path, monitor: str) -> dict[str, float]:
    return {name: score for name, score in read_scores(folder, monitor).items() if (folder / name).is_dir()}
