"""AMBER's rule: which nouns of a description are false, and what of a picture they cover.

    assess("1", ["sky", "boat"], Annotation(truth=("sky", "lake"), likely=("boat",)), relation, same)
        -> Assessed("1", nouns=("sky", "boat"), false=("boat",), covered=1, truth=2, expected=1, likely=1)

Rule    `inference.py` of junyangwang0410/AMBER at 534babf
Tests   tests/evaluation/benchmarks/test_amber.py
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

from mmalign.evaluation.benchmarks.nouns import known_singulars, tokens

SAFE_WORDS = frozenset({"orange", "snack", "line", "camera", "light", "shoe", "sign", "range", "individual"})
"""Never false; the authors' `safe_words.txt`."""
RARELY_NOUNS = frozenset({"can", "hot", "leave", "sound", "support", "note"})
"""Words of the lists that descriptions use otherwise: `can be seen`, `leaves` (whose lemma is `leaf`)."""

Relation = Mapping[str, Sequence[str]]
"""Noun -> other nouns that may stand for it."""
Similar = Callable[[str, str], bool]


class Annotation(NamedTuple):
    """What the authors say of a picture."""

    truth: Sequence[str]
    """What is there."""
    likely: Sequence[str]
    """What is not there, but people would expect it."""


class Assessed(NamedTuple):
    """A description, assessed."""

    id: str
    nouns: Sequence[str]
    """That are in the authors' lists at all, repeats included."""
    false: Sequence[str]
    covered: int
    """How many of what is there."""
    truth: int
    expected: int
    """How many of what people would expect, but is not there."""
    likely: int


class Language(NamedTuple):
    """How nouns are found and compared."""

    nouns: Callable[[str], list[str]]
    similar: Similar


def assess(name: str, nouns: Sequence[str], annotation: Annotation, relation: Relation, similar: Similar) -> Assessed:
    """Assess a description.

    Args:
        name: Of the question.
        nouns: Of the description, as far as they count at all.
        annotation: Of the picture.
        relation: Other nouns for each.
        similar: Whether a noun may stand for another.
    """
    truth, likely = list(_names(annotation.truth, relation)), list(_names(annotation.likely, relation))
    covered: set[int | None] = set()
    expected: set[int | None] = set()
    false = []
    for noun in nouns:
        if noun in SAFE_WORDS:
            continue
        if any(noun == other for other, _ in truth):
            covered.add(_first(noun, truth, str.__eq__))
            continue
        expected |= {_first(noun, likely, str.__eq__), _first(noun, likely, similar)}
        alike = _first(noun, truth, similar)
        covered.add(alike)
        if alike is None:
            false.append(noun)
    return Assessed(
        name,
        tuple(nouns),
        tuple(false),
        len(covered - {None}),
        len(annotation.truth),
        len(expected - {None}),
        len(annotation.likely),
    )


def vocabulary(relation: Relation) -> frozenset[str]:
    """All nouns that count."""
    return frozenset(relation).union(*relation.values())


def offline(relation: Relation) -> Language:
    """Nouns by the authors' lists alone, similar only where equal; needs no data of other libraries."""
    listed = vocabulary(relation)
    singular = known_singulars(listed)

    def nouns(text: str) -> list[str]:
        return [word for word in map(singular, tokens(text)) if word in listed and word not in RARELY_NOUNS]

    return Language(nouns, str.__eq__)


def _names(objects: Sequence[str], relation: Relation) -> Iterator[tuple[str, int]]:
    """What each object may be called, and its place; related nouns of all objects come first."""
    yield from ((other, place) for place, name in enumerate(objects) for other in relation[name])
    yield from ((name, place) for place, name in enumerate(objects))


def _first(noun: str, names: Sequence[tuple[str, int]], alike: Similar) -> int | None:
    return next((place for name, place in names if alike(noun, name)), None)
