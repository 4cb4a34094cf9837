"""Where the numbers of a suite come from, and what is in none of them.

Tests   tests/evaluation/suite/test_origins.py
"""

import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import mmalign
from mmalign.evaluation.suite.results import SIDES, Side, SuiteResults

NAMED = 5
"""Ids that are named of each sort of failure."""
HASH_DIGITS = 12


class Failed(NamedTuple):
    """Questions that are in no mean, for one reason."""

    title: str
    side: str
    reason: str
    number: int
    ids: str
    """The first of them."""


class Origin(NamedTuple):
    """Where one benchmark's number under one model comes from."""

    title: str
    side: str
    model: str
    judge: str
    protocol: str
    compat: str
    score: str
    """File and its hash."""
    settings: Mapping[str, str]
    """Files and settings of the score."""


def failures_of(results: SuiteResults) -> list[Failed]:
    """All failures, by benchmark, model and reason."""
    found = []
    for title, name, side in _sides(results):
        for reason, ids in side.scored.failures.items():
            more = f" and {len(ids) - NAMED:,} more" if len(ids) > NAMED else ""
            found.append(Failed(title, name, reason, len(ids), ", ".join(ids[:NAMED]) + more))
    return found


def origins_of(results: SuiteResults) -> list[Origin]:
    """Of every score."""
    return [
        Origin(
            title=title,
            side=name,
            model=side.scored.model,
            judge=side.scored.judge or "by rule",
            protocol=side.scored.protocol,
            compat=side.scored.compat,
            score=f"{_within(side.path, results.folder)}, sha256 {side.sha256[:HASH_DIGITS]}",
            settings=side.scored.lineage,
        )
        for title, name, side in _sides(results)
    ]


def lineage_of(results: SuiteResults) -> dict[str, str]:
    """Of the whole suite: models, shards, versions, draws."""
    named = {f"{side}: {key}": text for side in SIDES for key, text in getattr(results, side).items()}
    draws = f"{results.resamples:,} paired resamples of the questions, seed {results.seed}"
    made = {"suite": results.suite or "not named", "bootstrap": draws, "mmalign": mmalign.__version__}
    return {**named, **results.lineage, **made}


def command(out: Path, run: Path | None, to: Path, scaling: Mapping[str, Path], *, paper_values: bool) -> str:
    """What makes the page again."""
    parts = ["mmalign", "report", "--evaluation", str(out)]
    parts += ["--run", str(run)] if run is not None else []
    parts += ["--out", str(to)] if to != out else []
    parts += ["--scaling", json.dumps({label: str(folder) for label, folder in scaling.items()})] if scaling else []
    parts += ["--paper_values", "true"] if paper_values else []
    return shlex.join(parts)


def _within(path: Path, folder: Path) -> Path:
    return path.relative_to(folder) if path.is_relative_to(folder) else path


def _sides(results: SuiteResults) -> list[tuple[str, str, Side]]:
    return [
        (bench.title, name, side)
        for bench in results.benches
        for name, side in zip(SIDES, (bench.base, bench.aligned), strict=True)
        if side is not None
    ]
