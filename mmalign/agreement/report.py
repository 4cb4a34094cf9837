"""What `mmalign agree` leaves behind: `agree.json`, `agree.md`, `heatmap.png` and `heatmap.svg`.

Tests   tests/agreement/test_report.py
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np

from mmalign.agreement.compare import Finding, Section
from mmalign.agreement.heatmap import Heatmap, Kind, draw
from mmalign.agreement.pairs import score_names
from mmalign.agreement.raters import NO_ANSWER, PREFERENCE, Collected
from mmalign.agreement.table import escape, markdown, tables
from mmalign.data.manifest import write_whole

JSON_NAME, MARKDOWN_NAME = "agree.json", "agree.md"
PICTURE_KINDS: tuple[Kind, ...] = get_args(Kind)


@dataclass(frozen=True, kw_only=True)
class Spread:
    """Of one rating."""

    answers: int
    lowest: float
    mean: float
    highest: float


@dataclass(frozen=True, kw_only=True)
class Rater:
    """What a rater gave, before anything is compared."""

    name: str
    judged: int
    """Answers with ratings; for the preference, samples with a choice."""
    invalid: int
    """Answers with which it failed: they are in no number."""
    score: tuple[str, ...]
    """Ratings whose sum is its choice; empty where nothing says which."""
    ratings: Mapping[str, Spread]

    def line(self) -> str:
        """One sentence about it."""
        if self.name == PREFERENCE:
            return f"{self.name}: {self.judged:,} samples with a direct choice"
        ratings = ", ".join(f"{name} {each.lowest:g}-{each.highest:g}" for name, each in self.ratings.items())
        score = f"chooses by {' + '.join(self.score).replace('+ -', '- ')}" if self.score else "makes no choice"
        return (
            f"{self.name}: {self.judged:,} answers rated, {self.invalid:,} invalid; {ratings or 'no ratings'}; {score}"
        )


@dataclass(frozen=True, kw_only=True)
class Report:
    """Everything that was found, and of what."""

    shards: str
    samples: int
    raters: tuple[Rater, ...]
    findings: tuple[Finding, ...]
    lineage: Mapping[str, Any]
    """Hash of the manifest, settings and versions: all that the numbers depend on."""

    def write(self, out: Path) -> list[Path]:
        """Write the files, each whole or not at all, and return them."""
        out.mkdir(parents=True, exist_ok=True)
        heatmap = Heatmap.of(self.findings)
        files = {JSON_NAME: self.to_json().encode()}
        if len(heatmap.columns) > 1:
            title, note = "Correlation within pairs of answers", self._heatmap_note()
            for kind in PICTURE_KINDS:
                files[f"heatmap.{kind}"] = draw(heatmap, title=title, note=note, kind=kind)
        files[MARKDOWN_NAME] = self.to_markdown(picture="heatmap.svg" in files).encode()
        for name, data in files.items():
            write_whole(out / name, data)
        return [out / name for name in files]

    def to_json(self) -> str:
        """All numbers; one that is undefined is null."""
        return f"{json.dumps(_plain(asdict(self)), indent=1, ensure_ascii=False)}\n"

    def to_markdown(self, *, picture: bool) -> str:
        """Sentences and tables, with the picture where there is one."""
        heading = (
            f"# Agreement of raters\n\n{escape(self.shards)}: {self.samples:,} samples. 95 % intervals over samples.\n"
        )
        raters = "\n".join(f"- {escape(each.line())}" for each in self.raters)
        parts = "\n".join(markdown(each) for each in tables(self.findings))
        shown = "\n![Correlation of differences within pairs](heatmap.svg)\n" if picture else ""
        return f"{heading}\n{raters}\n\n{parts}{shown}"

    def _heatmap_note(self) -> str:
        counts = [each.counts["pairs"] for each in self.findings if each.section == Section.CORRELATION]
        invalid = max(each.counts["invalid"] for each in self.findings if each.section == Section.CORRELATION)
        low, high = min(counts), max(counts)
        pairs = f"{low:,} pairs" if low == high else f"{low:,} to {high:,} pairs a cell"
        left_out = f", up to {invalid:,} left out as invalid" if invalid else ""
        return f"Pearson, {pairs} of {self.samples:,} samples{left_out}.\nBold: the 95 % interval excludes zero."


def raters_of(collected: Collected, score: Sequence[str] = ()) -> tuple[Rater, ...]:
    """What each rater gave."""
    found = []
    for name, rated in collected.raters.items():
        spreads = {}
        for aspect, values in rated.values.items():
            there = values[~np.isnan(values)]
            lowest, mean, highest = (float(f(there)) for f in (np.min, np.mean, np.max))
            spreads[aspect] = Spread(answers=len(there), lowest=lowest, mean=mean, highest=highest)
        direct = name == PREFERENCE
        judged = (collected.chosen != NO_ANSWER).sum() if direct else rated.judged.sum()
        found.append(
            Rater(
                name=name,
                judged=int(judged),
                invalid=int(rated.invalid.sum()),
                score=() if direct else score_names(rated, score),
                ratings=spreads,
            )
        )
    return tuple(found)


def _plain(value: Any) -> Any:
    """As JSON has it: NaN is null, an estimate is named."""
    match value:
        case float():
            return None if math.isnan(value) else value
        case dict():
            return {key: _plain(each) for key, each in value.items()}
        case tuple() if hasattr(value, "_asdict"):
            return _plain(value._asdict())
        case tuple() | list():
            return [_plain(each) for each in value]
    return value
