"""The folder of a suite: every benchmark's score under base and aligned, and all their comparisons.

    OUT/suite.json                     {"suite": "paper", "benchmarks": ["pope", ...], "failed": {...}, ...}
    OUT/base/pope/score.json           or in the `base_folder` of suite.json, which several aligned models share
    OUT/aligned/pope/score.json
    OUT/comparisons.json               made here; found again as long as the scores stay the same

    read_suite(OUT)["pope"].headline   -> Comparison("mean_f1", ..., verdict=UNCLEAR)

Tests   tests/evaluation/suite/test_results.py
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import isnan
from pathlib import Path
from typing import Any, NamedTuple

from mmalign.evaluation.paired import LEVEL, RESAMPLES, Comparison, Direction
from mmalign.evaluation.steps.comparing import check_comparable, compare_scored
from mmalign.evaluation.steps.records import SCORE_FILE
from mmalign.evaluation.steps.scored import Scored, read_scored
from mmalign.evaluation.suite.cache import Cache, digest
from mmalign.evaluation.suite.paper import place

SUITE_FILE = "suite.json"
SIDES = ("base", "aligned")
KINDS: Mapping[str, type] = {
    "benchmarks": list, "failed": dict, "base": dict, "aligned": dict, "lineage": dict, "base_folder": str,
}  # fmt: skip
"""Of what `suite.json` may hold."""


class Side(NamedTuple):
    """A benchmark under one model."""

    scored: Scored
    path: Path
    sha256: str
    """Of the file."""


@dataclass(frozen=True, kw_only=True)
class Bench:
    """A benchmark under both models."""

    name: str
    title: str
    base: Side | None
    """None: it has no score."""
    aligned: Side | None
    comparisons: tuple[Comparison, ...] = ()
    """Of every metric that both have; empty where they cannot be compared."""
    problem: str = ""
    """Why they cannot be compared."""

    def get(self, name: str) -> Comparison | None:
        """The comparison of that metric, if there is one."""
        return next((each for each in self.comparisons if each.name == name), None)

    @property
    def headline(self) -> Comparison | None:
        """Of the benchmark's one number."""
        return self.get(self.base.scored.headline.name) if self.base and self.comparisons else None


@dataclass(frozen=True, kw_only=True)
class SuiteResults:
    """All that the report and the terminal show."""

    suite: str
    folder: Path
    base: Mapping[str, str]
    """Who the base is."""
    aligned: Mapping[str, str]
    lineage: Mapping[str, str] = field(default_factory=dict)
    benches: tuple[Bench, ...]
    """The paper's first, in its order."""
    resamples: int
    level: float
    seed: int

    def __getitem__(self, name: str) -> Bench:
        """The benchmark of that name."""
        return next(bench for bench in self.benches if bench.name == name)

    @property
    def compared(self) -> list[tuple[Bench, Comparison]]:
        """Benchmarks whose headlines could be compared, with these."""
        return [(bench, headline) for bench in self.benches if (headline := bench.headline) is not None]

    @property
    def judged(self) -> list[tuple[Bench, Comparison]]:
        """Those of them whose headline has a better side."""
        return [(bench, each) for bench, each in self.compared if each.direction is not Direction.NEITHER]


def read_suite(out: Path, *, resamples: int = RESAMPLES, seed: int = 0) -> SuiteResults:
    """Read both models' scores, and compare them.

    Args:
        out: Folder of `mmalign evaluate --suite`.
        resamples: Bootstrap draws.
        seed: Of the draws.

    Raises:
        FileNotFoundError: No suite there.
        ValueError: A file is damaged.
    """
    record = _suite_record(out)
    failed = record.get("failed", {})
    folders = (out / record.get("base_folder", "base"), out / "aligned")
    found = {path.parent.name for folder in folders for path in folder.glob(f"*/{SCORE_FILE}")}
    names = sorted({*record.get("benchmarks", found), *failed}, key=place)
    if not names:
        raise FileNotFoundError(
            f"No benchmark in {out}. Run `mmalign evaluate --suite paper --out {out}`, or name its `--out` here."
        )
    cache = Cache(out)
    return SuiteResults(
        suite=str(record.get("suite", "")),
        folder=out,
        base=_texts(record.get("base", {})),
        aligned=_texts(record.get("aligned", {})),
        lineage=_texts(record.get("lineage", {})),
        benches=tuple(_bench(name, folders, failed.get(name, ""), cache, resamples, seed) for name in names),
        resamples=resamples,
        level=LEVEL,
        seed=seed,
    )


def read_side(folder: Path) -> Side | None:
    """A score, or None where there is none.

    Args:
        folder: That `score.json` stands in.

    Raises:
        ValueError: It is damaged.
    """
    path = folder / SCORE_FILE
    return Side(read_scored(path), path, digest(path)) if path.is_file() else None


def compare_headlines(base: Side, other: Side, cache: Cache, *, resamples: int, seed: int) -> Comparison | None:
    """Only the benchmark's one number; None where the two have no sample of it in common.

    Args:
        base: The starting model.
        other: Another model.
        cache: Of the suite.
        resamples: Bootstrap draws.
        seed: Of the draws.

    Raises:
        ValueError: They cannot be compared.
    """
    check_comparable(base.scored, other.scored)
    ours, theirs = (replace(side.scored, metrics=(side.scored.headline,)) for side in (base, other))
    parts = ["headline", base.sha256, other.sha256, str(resamples), str(seed)]
    found = cache.get(parts, lambda: compare_scored(ours, theirs, resamples=resamples, seed=seed))
    return found[0] if found else None


def _bench(name: str, folders: tuple[Path, Path], failure: str, cache: Cache, resamples: int, seed: int) -> Bench:
    base, aligned = (read_side(folder / name) for folder in folders)
    known = base or aligned
    title = known.scored.title if known else name
    if failure:  # scores that are there are of an earlier start
        return Bench(name=name, title=title, base=None, aligned=None, problem=failure)
    if base is None or aligned is None:
        lacking = " and ".join(side for side, found in zip(SIDES, (base, aligned), strict=True) if found is None)
        problem = f"There is no score of {lacking}: {SCORE_FILE} is missing."
        return Bench(name=name, title=title, base=base, aligned=aligned, problem=problem)
    ours, theirs = base.scored, aligned.scored
    parts = [base.sha256, aligned.sha256, str(resamples), str(seed)]
    comparisons: Sequence[Comparison] = ()
    problem = ""
    try:
        check_comparable(ours, theirs)
        comparisons = cache.get(parts, lambda: compare_scored(ours, theirs, resamples=resamples, seed=seed))
    except ValueError as error:
        problem = str(error)
    if not problem and ours.headline.name not in [each.name for each in comparisons]:
        problem = "Base and aligned have no sample of the headline in common."
    if undefined := [side for side, found in zip(SIDES, (ours, theirs), strict=True) if isnan(found.headline.value)]:
        problem = f"The headline of {' and '.join(undefined)} is undefined: there is nothing to divide by."
    kept = () if problem else tuple(comparisons)
    return Bench(name=name, title=title, base=base, aligned=aligned, comparisons=kept, problem=problem)


def _suite_record(out: Path) -> dict[str, Any]:
    """What `suite.json` holds; nothing where there is none, as the scores stand for themselves."""
    path = out / SUITE_FILE
    if not path.is_file():
        return {}
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(record, dict):
            raise TypeError("no object")
        if wrong := [name for name, kind in KINDS.items() if not isinstance(record.get(name, kind()), kind)]:
            raise TypeError(f"{', '.join(wrong)} of a wrong type")
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{path} is not a whole suite file ({error}). Run `mmalign evaluate --suite` again; its answers are kept."
        ) from error
    return record


def _texts(record: Mapping[str, Any]) -> dict[str, str]:
    return {name: value if isinstance(value, str) else json.dumps(value) for name, value in record.items()}
