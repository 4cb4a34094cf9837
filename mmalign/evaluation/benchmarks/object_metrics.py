"""The objects that answers name, and rates of those that are not there: CHAIR, Object HalBench.

    answer = named("40468", ["man", "boat"], vocabulary.objects, frozenset({"person", "kite"}))
    answer.false                        -> ["boat"]
    rates([[answer]], RATES, digits=1, printed=())      -> 1 of 2 named objects false, 1 of 2 that are there named

Tests   tests/evaluation/benchmarks/test_chair.py, test_object_halbench.py
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mmalign.evaluation.benchmarks.coco import Scene
from mmalign.evaluation.paired import Direction, Ratio
from mmalign.evaluation.steps.places import paths
from mmalign.evaluation.steps.records import Answer
from mmalign.evaluation.steps.scored import Item, Metric, ratio_value


class Named(NamedTuple):
    """The objects that one answer names."""

    id: str
    words: Sequence[str]
    """As it names them."""
    objects: Sequence[str]
    """What each word stands for."""
    truth: frozenset[str]
    """What is there."""

    @property
    def false(self) -> list[str]:
        """Words for what is not there."""
        return [word for word, each in zip(self.words, self.objects, strict=True) if each not in self.truth]

    @property
    def covered(self) -> frozenset[str]:
        """What is there and is named."""
        return self.truth & frozenset(self.objects)


def named(name: str, words: Sequence[str], objects: Mapping[str, str], truth: frozenset[str]) -> Named:
    """What an answer names.

    Args:
        name: Of the question.
        words: Of the answer, each in `objects`.
        objects: What words stand for.
        truth: What is in the picture.
    """
    return Named(name, tuple(words), tuple(objects[word] for word in words), truth)


@dataclass(frozen=True, kw_only=True)
class Rate:
    """A count over all answers, divided by another."""

    name: str
    label: str
    description: str
    counted: Callable[[Named], float | int]
    among: Callable[[Named], float | int]
    direction: Direction = Direction.LOWER
    percent: bool = True
    headline: bool = False


RECALL = Rate(
    name="recall",
    label="Object recall",
    description="Share of the objects in the pictures that the answers name.",
    counted=lambda answer: len(answer.covered),
    among=lambda answer: len(answer.truth),
    direction=Direction.HIGHER,
)
MENTIONS = Rate(
    name="mentions",
    label="Objects an answer",
    description="Mean number of objects that an answer names, true or false; fewer make fewer false ones.",
    counted=lambda answer: len(answer.words),
    among=lambda answer: 1,
    direction=Direction.NEITHER,
    percent=False,
)


def rates(
    runs: Sequence[Sequence[Named]], kinds: Sequence[Rate], *, digits: int, printed: Collection[str]
) -> tuple[Metric, ...]:
    """The metrics.

    Args:
        runs: What each answer names, for each run of the judge; a run may lack some.
        kinds: Which.
        digits: Behind the point, of what the official script prints.
        printed: Names of those that are what it prints.
    """
    ids = tuple(dict.fromkeys(answer.id for run in runs for answer in run))
    return tuple(
        _metric(kind, ids, [_terms(kind, ids, run) for run in runs], digits if kind.name in printed else None)
        for kind in kinds
    )


def object_items(
    asked: Iterable[str], answers: Sequence[Answer], found: Sequence[Named], scenes: Sequence[Scene]
) -> tuple[Item, ...]:
    """One for each picture; its score is the share of the named objects that are there.

    Args:
        asked: Numbers of the pictures.
        answers: In any order.
        found: What those that are scored name.
        scenes: As far as they are known.
    """
    texts = {answer.id: answer.text for answer in answers if answer.turns}
    by_id = {answer.id: answer for answer in found}
    shown = {scene.id: scene for scene in scenes}
    return tuple(_item(name, texts.get(name, ""), by_id.get(name), shown.get(name)) for name in asked)


def _item(name: str, text: str, answer: Named | None, scene: Scene | None) -> Item:
    score = None if answer is None else 1 - len(answer.false) / max(1, len(answer.words))
    return Item(
        id=name,
        question=scene.prompt if scene else "",
        answer=text,
        score=score,
        expected=", ".join(sorted(answer.truth)) if answer else "",
        note=f"not there: {', '.join(answer.false)}" if answer and answer.false else "",
        pictures=paths((scene.picture,)) if scene else [],
    )


def _terms(kind: Rate, ids: Sequence[str], run: Sequence[Named]) -> Ratio:
    by_id = {answer.id: answer for answer in run}
    counts = [(kind.counted(by_id[name]), kind.among(by_id[name])) if name in by_id else (0, 0) for name in ids]
    return Ratio.of([counted for counted, _ in counts], [among for _, among in counts])


def _metric(kind: Rate, ids: tuple[str, ...], runs: Sequence[Ratio], digits: int | None) -> Metric:
    scale = 100 if kind.percent else 1
    values = [scale * ratio_value(run) for run in runs]
    numerators, denominators = (_columns(each) for each in zip(*runs, strict=True))
    return Metric(
        name=kind.name,
        label=kind.label,
        description=kind.description,
        direction=kind.direction,
        percent=kind.percent,
        ids=ids,
        terms=Ratio(numerators, denominators),
        headline=kind.headline,
        official=None if digits is None or np.isnan(values).any() else round(sum(values) / len(values), digits),
        runs=tuple(values) if len(values) > 1 else (),
    )


def _columns(runs: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    # (samples,) or (samples, runs)
    return runs[0] if len(runs) == 1 else np.stack(runs, axis=1)
