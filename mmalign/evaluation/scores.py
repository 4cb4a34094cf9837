"""`scores.json`: every measure of base and aligned with its intervals, and where the numbers came from."""

import json
import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from mmalign.evaluation.paired import Comparison, Direction, Estimate, Verdict

Suite = Literal["world", "preferences"]
SCORES_FILE = "scores.json"


@dataclass(frozen=True, kw_only=True)
class Scores:
    """What one evaluation found."""

    suite: Suite
    comparisons: tuple[Comparison, ...]
    lineage: Mapping[str, str] = field(default_factory=dict)
    """Versions, seed, hashes of model and adapter, shards: whatever someone needs to get the same numbers."""
    resamples: int
    level: float

    def __getitem__(self, name: str) -> Comparison:
        """The measure of that name."""
        return next(comparison for comparison in self.comparisons if comparison.name == name)

    def __contains__(self, name: str) -> bool:
        """Whether that measure was taken."""
        return any(comparison.name == name for comparison in self.comparisons)

    def write(self, folder: Path) -> Path:
        """Write `scores.json` into `folder`, whole or not at all."""
        record = {
            "suite": self.suite,
            "level": self.level,
            "resamples": self.resamples,
            "measures": [comparison_record(comparison) for comparison in self.comparisons],
            "lineage": dict(self.lineage),
        }
        path = folder / SCORES_FILE
        write_whole(path, json.dumps(record, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
        return path


def read_scores(folder: Path) -> Scores:
    """Read `scores.json` of an evaluation folder.

    Raises:
        FileNotFoundError: There is none.
        ValueError: It is no such file.
    """
    path = folder / SCORES_FILE
    if not path.is_file():
        raise FileNotFoundError(f"No {SCORES_FILE} in {folder}. Write it with `mmalign evaluate --out {folder}`.")
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        return Scores(
            suite=record["suite"],
            comparisons=tuple(parse_comparison(measure) for measure in record["measures"]),
            lineage=record["lineage"],
            resamples=record["resamples"],
            level=record["level"],
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path} is not a whole scores file ({type(error).__name__}: {error}). "
            "Delete it and run `mmalign evaluate` again; its answers are kept."
        ) from error


def write_whole(path: Path, text: str) -> None:
    """Write a text file so that a reader sees all of it or the old one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.write_bytes(text.encode("utf-8", "replace"))  # a model that is cut leaves half an emoji
    partial.replace(path)


def comparison_record(comparison: Comparison) -> dict[str, Any]:
    """JSON form; JSON has no NaN, so an undefined number is null."""
    record = asdict(comparison)
    for name in ("base", "aligned", "difference"):
        estimate: Estimate = getattr(comparison, name)
        record[name] = {k: None if math.isnan(v) else v for k, v in estimate._asdict().items()}
    record["relative"] = None if math.isnan(comparison.relative) else comparison.relative
    return record


def parse_comparison(record: Mapping[str, Any]) -> Comparison:
    """From its JSON form."""
    kept = {name: value for name, value in record.items() if name != "relative"}
    for name in ("base", "aligned", "difference"):
        kept[name] = Estimate(**{k: math.nan if v is None else v for k, v in record[name].items()})
    kept["direction"] = Direction(record["direction"])
    kept["verdict"] = Verdict(record["verdict"])
    return Comparison(**kept)
