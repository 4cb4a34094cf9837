"""What scoring finds: each metric with every sample's share in it, so that two models can be compared sample by sample.

    {"benchmark": "pope", "protocol": "pope/llava15-e3e3926", "model": "embedded+dpo", "judge": "",
     "num_questions": 8910, "num_scored": 8910, "failures": {},
     "metrics": [{"name": "mean_f1", "value": 0.859, "official": 0.859, "ids": [...], "numerators": [...], ...}]}

`score.json` has that; `scores.jsonl` beside it every question, its answer and what it was given.

Tests   tests/evaluation/steps/test_scored.py
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mmalign.evaluation.paired import Direction, Ratio
from mmalign.evaluation.scores import write_whole
from mmalign.evaluation.steps.records import ITEMS_FILE, SCORE_FILE


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One number of a benchmark under one model: a ratio of two sums over samples, or the mean of several such."""

    name: str
    """Key in `score.json`, such as `mean_f1`."""
    label: str
    """As a table shows it."""
    description: str
    """What it counts, in one sentence."""
    direction: Direction = Direction.HIGHER
    percent: bool = True
    """A share, shown in percent; otherwise shown as it is."""
    ids: tuple[str, ...]
    """Samples that are drawn together: questions, or pictures where several questions share one."""
    terms: Ratio
    """Of each sample, see `paired.Ratio`; with a second axis, the metric is the mean over its columns."""
    headline: bool = False
    """The benchmark's one number, which stands in the table of the paper."""
    group: str = ""
    """What it breaks down by: `capability`, `category`, `split`, `turn`; empty for the whole."""
    official: float | None = None
    """The number as the official script prints it, in its unit and with its rounding; None where it has none."""
    runs: tuple[float, ...] = ()
    """The same number for each run of the judge, where there were several; `official` is then their mean."""

    @property
    def value(self) -> float:
        """The unrounded number; NaN where it is undefined."""
        return ratio_value(self.terms)

    @property
    def std(self) -> float | None:
        """Standard deviation over the judge's runs, not corrected for their number; None for one run."""
        return float(np.std(_columns(self.terms))) if self.runs[1:] else None

    @property
    def num_samples(self) -> int:
        """Of the metric."""
        return len(self.ids)


class Item(NamedTuple):
    """One question, its answer and what it was given, for people to look at."""

    id: str
    question: str
    answer: str
    score: float | None
    """Higher is better, on the benchmark's scale for one answer; None: not scored, or not in every run of the judge."""
    category: str = ""
    expected: str = ""
    """The right answer, where there is one."""
    note: str = ""
    """What the judge said."""
    pictures: Sequence[str] = ()
    """Paths of the pictures, as far as they are files."""
    drawn_with: str = ""
    """Its id in `Metric.ids`, such as that of a picture; empty: its own."""


@dataclass(frozen=True, kw_only=True)
class Scored:
    """A benchmark under one model."""

    benchmark: str
    title: str
    protocol: str
    model: str = ""
    judge: str = ""
    """Who graded; empty where a rule did."""
    compat: str = "strict"
    num_questions: int
    num_scored: int
    failures: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Ids of what is in no mean, by reason."""
    metrics: tuple[Metric, ...]
    items: tuple[Item, ...] = ()
    lineage: Mapping[str, str] = field(default_factory=dict)
    """Files and settings that the numbers came from."""

    def __getitem__(self, name: str) -> Metric:
        """The metric of that name."""
        return next(metric for metric in self.metrics if metric.name == name)

    @property
    def headline(self) -> Metric:
        """The benchmark's one number."""
        return next(metric for metric in self.metrics if metric.headline)

    def write(self, folder: Path) -> Path:
        """Write `scores.jsonl` and `score.json` into `folder`, each whole or not at all."""
        lines = [json.dumps(item._asdict(), ensure_ascii=False, allow_nan=False) + "\n" for item in self.items]
        write_whole(folder / ITEMS_FILE, "".join(lines))
        record = {name: getattr(self, name) for name in self.__dataclass_fields__ if name != "items"}
        record["metrics"] = [_metric_record(metric) for metric in self.metrics]
        path = folder / SCORE_FILE
        write_whole(path, json.dumps(record, indent=1, ensure_ascii=False, allow_nan=False, default=dict) + "\n")
        return path


def read_scored(path: Path) -> Scored:
    """Read a `score.json`, or that of a folder.

    Raises:
        FileNotFoundError: There is none.
        ValueError: It is no such file.
    """
    path = path / SCORE_FILE if path.is_dir() else path
    if not path.is_file():
        raise FileNotFoundError(f"No {path}. Write it with `mmalign evaluate score`.")
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        record["metrics"] = tuple(_parse_metric(each) for each in record["metrics"])
        lines = (path.parent / ITEMS_FILE).read_bytes().split(b"\n")[:-1]
        return Scored(**record, items=tuple(Item(**json.loads(line)) for line in lines))
    except (OSError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path} is not a whole score file ({type(error).__name__}: {error}). Delete it and score again."
        ) from error


def ratio_value(terms: Ratio) -> float:
    """Sum over sum, or the mean of these over the columns; NaN where a sum is zero."""
    return float(np.mean(_columns(terms)))


def _columns(terms: Ratio) -> NDArray[np.float64]:
    numerators, denominators = (np.asarray(part.sum(0), float) for part in terms)
    undefined = np.full_like(numerators, np.nan)
    values: NDArray[np.float64] = np.divide(numerators, denominators, out=undefined, where=denominators != 0)
    return values


def _metric_record(metric: Metric) -> dict[str, Any]:
    record = {name: value for name, value in asdict(metric).items() if name != "terms"}
    value = metric.value
    record["value"] = None if math.isnan(value) else value
    if not all(map(math.isfinite, (metric.official or 0.0, *metric.runs))):
        record |= {"official": None, "runs": ()}
    return record | {
        "numerators": metric.terms.numerators.tolist(),
        "denominators": metric.terms.denominators.tolist(),
    }


def _parse_metric(record: dict[str, Any]) -> Metric:
    kept = {name: value for name, value in record.items() if name not in ("value", "numerators", "denominators")}
    kept |= {"direction": Direction(record["direction"]), "ids": tuple(record["ids"]), "runs": tuple(record["runs"])}
    numerators, denominators = (np.asarray(record[name], float) for name in ("numerators", "denominators"))
    return Metric(**kept, terms=Ratio(numerators, denominators))
