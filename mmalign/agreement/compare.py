"""Which raters are compared on what, and what was found.

    compare(collected) -> [Finding("choices", ("preference", "gpt-4o"), "", {"pairs": 200, "invalid": 3, ...},
                                   {"accuracy": Estimate(0.62, 0.55, 0.69), ...}), ...]

`pairs.py` says what a rater's choice is. One that has no score makes none, but each of its ratings is compared.

Tests   tests/agreement/test_compare.py
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from itertools import combinations

import numpy as np

from mmalign.agreement import statistics
from mmalign.agreement.pairs import AnswerPairs, Differences
from mmalign.agreement.raters import NO_PLACE, PREFERENCE, Collected
from mmalign.agreement.statistics import RESAMPLES, Cases, Numbers, Terms
from mmalign.evaluation.paired import Estimate

LENGTH = "length"
"""The column of the heatmap that no rater gives: which answer is longer, and by how much."""
CHOICE = ""
"""In the place of an aspect: the rater's choice, or its score."""


class Section(StrEnum):
    """What a finding is about."""

    CHOICES = "choices"
    """Two raters' choices within pairs of answers."""
    ASPECTS = "aspects"
    """The direct preference against one rating of a judge: does it rate the preferred answer higher?"""
    RATINGS = "ratings"
    """Two raters' ratings of the same answers."""
    LENGTH = "length"
    """Whether a rater likes long answers."""
    POSITION = "position"
    """Whether a rater likes the answer that it is shown first."""
    CORRELATION = "correlation"
    """A cell of the heatmap: differences within pairs."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What was found of one or two raters."""

    section: Section
    raters: tuple[str, ...]
    aspects: tuple[str, ...]
    """Of each rater, or the one of both; `CHOICE` is the rater's choice."""
    counts: Mapping[str, int]
    """What the values stand on, and what was left out: `invalid` where a judge had failed."""
    values: Mapping[str, Estimate]


@dataclass(frozen=True, kw_only=True)
class _Question:
    """A finding before it is estimated."""

    section: Section
    raters: tuple[str, ...]
    aspects: tuple[str, ...]
    counts: Mapping[str, int]
    terms: Sequence[Terms]


def compare(
    collected: Collected, *, score: Sequence[str] = (), resamples: int = RESAMPLES, seed: int = 0
) -> list[Finding]:
    """Everything that can be said of the raters collected.

    Args:
        collected: What they said.
        score: Ratings whose sum a judge chooses by, such as `helpfulness` or `-hallucinations`; see above if empty.
        resamples: Bootstrap draws.
        seed: Of the bootstrap.
    """
    asked = list(_Comparison(collected, score).questions())
    flat = [terms for each in asked for terms in each.terms]
    estimates = iter(statistics.estimate(flat, resamples=resamples, seed=seed))
    findings = []
    for each in asked:
        values = {name: value for _ in each.terms for name, value in next(estimates).items()}
        findings.append(
            Finding(section=each.section, raters=each.raters, aspects=each.aspects, counts=each.counts, values=values)
        )
    return findings


class _Comparison:
    """The questions that a set of ratings can answer."""

    def __init__(self, collected: Collected, score: Sequence[str]) -> None:
        self.set = collected
        self.num_samples = collected.num_samples
        self.answers = np.arange(len(collected.lengths))
        self.sample_of = np.repeat(np.arange(self.num_samples), np.diff(collected.starts))
        self.pairs = AnswerPairs.of(collected.starts)
        chosen = {name: self.pairs.choice(name, collected, score) for name in collected.raters}
        self.choices = {name: choice for name, choice in chosen.items() if choice is not None}

    def questions(self) -> Iterator[_Question]:
        """Section by section."""
        names = list(self.set.raters)
        both = list(combinations(names, 2))
        for a, b in both:
            if a in self.choices and b in self.choices:
                yield self._choices(a, b)
        for a, b in both:
            yield from self._aspects(a, b)
        for a, b in both:
            yield from self._ratings(a, b)
        for name in names:
            yield from self._length(name)
        for name in names:
            yield from self._position(name)
        yield from self._correlations()

    def _choices(self, a: str, b: str) -> _Question:
        x, y = self.choices[a], self.choices[b]
        return self._agreement(Section.CHOICES, (a, b), (CHOICE, CHOICE), x, y)

    def _aspects(self, a: str, b: str) -> Iterator[_Question]:
        """The preference against every rating of a judge."""
        if PREFERENCE not in (a, b) or PREFERENCE not in self.choices:
            return
        judge = b if a == PREFERENCE else a
        preferred = self.choices[PREFERENCE]
        for aspect, values in self.set.raters[judge].values.items():
            differences = self.pairs.differences(values)
            found = self._agreement(
                Section.ASPECTS, (PREFERENCE, judge), (CHOICE, aspect), preferred, np.sign(differences)
            )
            correlation = statistics.through_zero(*self._cases(preferred, differences), self.num_samples)
            yield replace(found, terms=(*found.terms, correlation))

    def _ratings(self, a: str, b: str) -> Iterator[_Question]:
        """Ratings of the same name."""
        one, other = self.set.raters[a], self.set.raters[b]
        for aspect in (name for name in one.values if name in other.values):
            x, y = one.values[aspect], other.values[aspect]
            rated = ~np.isnan(x) & ~np.isnan(y)
            counts = {"answers": int(rated.sum()), "invalid": int((one.invalid | other.invalid).sum())}
            if rated.any():
                terms = statistics.same_scale(self.sample_of[rated], x[rated], y[rated], self.num_samples)
                yield _Question(
                    section=Section.RATINGS, raters=(a, b), aspects=(aspect, aspect), counts=counts, terms=terms
                )

    def _length(self, name: str) -> Iterator[_Question]:
        """Choices of the longer answer; ratings against length."""
        lengths, rated = self.set.lengths.astype(np.float64), self.set.raters[name]
        longer = np.sign(self.pairs.differences(lengths))
        if name in self.choices:
            yield self._wins(Section.LENGTH, name, CHOICE, longer, "longer_wins")
        for aspect, values in rated.values.items():
            wins = self._wins(Section.LENGTH, name, aspect, longer, "longer_wins")
            there = ~np.isnan(values)
            terms = statistics.correlations(self.sample_of[there], lengths[there], values[there], self.num_samples)
            yield replace(wins, terms=(*wins.terms, *terms))

    def _position(self, name: str) -> Iterator[_Question]:
        """Choices of the answer shown first; mean ratings by place."""
        rated = self.set.raters[name]
        shown = rated.places != NO_PLACE
        if not shown.any():
            return
        first = self.pairs.differences(np.where(shown, rated.places == 0, np.nan))
        if name in self.choices:
            yield self._wins(Section.POSITION, name, CHOICE, first, "first_wins")
        for aspect, values in rated.values.items():
            wins = self._wins(Section.POSITION, name, aspect, first, "first_wins")
            there = shown & ~np.isnan(values)
            terms = [
                statistics.share(self.sample_of[at], values[at], self.num_samples, f"place_{place}")
                for place in np.unique(rated.places[there]).tolist()
                if len(at := self.answers[there & (rated.places == place)])
            ]
            yield replace(wins, terms=(*wins.terms, *terms))

    def _correlations(self) -> Iterator[_Question]:
        """Every column against every other; one against itself is 1, which is not asked."""
        columns = {(PREFERENCE, CHOICE): self.choices[PREFERENCE]} if PREFERENCE in self.choices else {}
        for name, rated in self.set.raters.items():
            columns |= {(name, aspect): self.pairs.differences(values) for aspect, values in rated.values.items()}
        columns[LENGTH, CHOICE] = self.pairs.differences(self.set.lengths.astype(np.float64))
        for one, other in combinations(columns, 2):
            samples, x, y = self._cases(columns[one], columns[other])
            yield _Question(
                section=Section.CORRELATION,
                raters=(one[0], other[0]),
                aspects=(one[1], other[1]),
                counts={"pairs": len(x), "invalid": self._num_invalid(one[0], other[0])},
                terms=[statistics.through_zero(samples, x, y, self.num_samples)],
            )

    def _agreement(
        self, section: Section, raters: tuple[str, str], aspects: tuple[str, str], x: Differences, y: Differences
    ) -> _Question:
        """Of two columns of choices: 1, -1, 0, or NaN."""
        samples, a, b = self._cases(x, y)
        counts = {
            "pairs": len(a),
            "decided": int(((a != 0) & (b != 0)).sum()),
            "ties": int(((a == 0) | (b == 0)).sum()),
            "invalid": self._num_invalid(*raters),
        }
        terms = [statistics.choices(samples, a, b, self.num_samples)]
        return _Question(section=section, raters=raters, aspects=aspects, counts=counts, terms=terms)

    def _wins(self, section: Section, name: str, aspect: str, side: Differences, what: str) -> _Question:
        """How often the answer on one side is chosen, or rated higher: 1 where the first is on it, -1 the second."""
        rated = self.set.raters[name].values
        choices = self.choices[name] if aspect == CHOICE else np.sign(self.pairs.differences(rated[aspect]))
        samples, choice, on = self._cases(choices, side)
        decided = (choice != 0) & (on != 0)
        counts = {"pairs": int((on != 0).sum()), "decided": int(decided.sum()), "invalid": self._num_invalid(name)}
        terms = [statistics.share(samples[decided], (choice == on)[decided], self.num_samples, what)]
        return _Question(section=section, raters=(name,), aspects=(aspect,), counts=counts, terms=terms)

    def _cases(self, x: Differences, y: Differences) -> tuple[Cases, Numbers, Numbers]:
        """Sample and values of the pairs in which neither is NaN."""
        both = ~np.isnan(x) & ~np.isnan(y)
        return self.pairs.samples[both], x[both], y[both]

    def _num_invalid(self, *names: str) -> int:
        """Pairs in which one of the raters had failed with an answer."""
        failed = np.zeros(len(self.answers), np.bool_)
        for name in names:
            if name in self.set.raters:
                failed |= self.set.raters[name].invalid
        return int((failed[self.pairs.first] | failed[self.pairs.second]).sum())
