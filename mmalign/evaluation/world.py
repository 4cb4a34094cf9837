"""The held-out tasks of the embedded world, and every measure of the answers to them; free of torch.

Tests   tests/evaluation/test_world.py
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from mmalign.evaluation.answers import Answer
from mmalign.evaluation.paired import Direction, Measure, Ratio, Values
from mmalign.evaluation.pope import parse_yes_no
from mmalign.world.judge import WorldJudge, is_right
from mmalign.world.measures import DescribeCounts, describe_counts
from mmalign.world.tasks import Task, task, tasks
from mmalign.world.text_tasks import TEXT_KINDS

OTHER_KINDS = ("how_many", "where", "compare", "multi_turn", "two_images")
HALLUCINATION, YES_NO, JUDGE, REST = (
    "Descriptions",
    "Yes/no questions (POPE)",
    "Exact judge, 0 to 4",
    "What alignment may cost",
)


@dataclass(frozen=True, kw_only=True)
class WorldSizes:
    """How many held-out tasks of each sort both models answer."""

    describe: int = 300
    """Descriptions: hallucination and recall."""
    yes_no: int = 300
    """Is-there questions, a third each random, popular and adversarial, half of them about things that are there."""
    text: int = 200
    """Text-only instructions: sort, reverse, copy, add, follow a constraint."""
    other: int = 100
    """Counting, places, comparisons, second turns, two pictures; evenly."""


def held_out_ids(sizes: WorldSizes) -> list[str]:
    """Ids of the tasks, the same for everybody."""
    ids = tasks("heldout", "describe", sizes.describe)
    ids += tasks("heldout", "is_there", sizes.yes_no)
    ids += tasks("heldout", "text", sizes.text) if sizes.text else []
    for i, kind in enumerate(OTHER_KINDS):
        ids += tasks("heldout", kind, len(range(i, sizes.other, len(OTHER_KINDS))))
    return ids


def measures(answers: Sequence[Answer]) -> list[Measure]:
    """Every measure that the answers allow, hallucination first."""
    asked = [task(answer.id) for answer in answers]
    describe = _of_kinds(asked, answers, ("describe",))
    yes_no = _of_kinds(asked, answers, ("is_there",))
    text = _of_kinds(asked, answers, TEXT_KINDS)
    other = _of_kinds(asked, answers, OTHER_KINDS)
    found: list[Measure] = []
    found += _description_measures(describe) if describe else []
    found += _yes_no_measures(yes_no) if yes_no else []
    found += _rating_measures(list(zip(asked, answers, strict=True)))
    found += [_open_quality(describe)] if describe else []
    found += [_text_accuracy(text)] if text else []
    found += [_other_accuracy(other)] if other else []
    found += [_length(describe)] if describe else []
    return found


Terms = tuple[float | int, float | int]
"""One sample's share of the numerator and of the denominator."""
Asked = list[tuple[Task, Answer]]


def _of_kinds(asked: Sequence[Task], answers: Sequence[Answer], kinds: Sequence[str]) -> Asked:
    return [(each, answer) for each, answer in zip(asked, answers, strict=True) if each.kind in kinds]


def _description_measures(asked: Asked) -> list[Measure]:
    base = [describe_counts(each, answer.base) for each, answer in asked]
    aligned = [describe_counts(each, answer.aligned) for each, answer in asked]

    def terms(name: str, label: str, direction: Direction, text: str, of: Callable[[DescribeCounts], Terms]) -> Measure:
        return Measure(
            name=name,
            label=label,
            group=HALLUCINATION,
            description=text,
            direction=direction,
            base=Ratio.of(*zip(*map(of, base), strict=True)),
            aligned=Ratio.of(*zip(*map(of, aligned), strict=True)),
        )

    lower, higher = Direction.LOWER, Direction.HIGHER
    return [
        terms("chair_i", "Objects made up (CHAIR_i)", lower,
              "Of all objects named, the share that is not in the picture.",
              lambda c: (c.num_false, c.num_claimed)),
        terms("chair_s", "Answers with one (CHAIR_s)", lower,
              "The share of descriptions that name at least one object that is not there.",
              lambda c: (c.num_false > 0, 1)),
        terms("chair_i_unplanted", "Objects seen wrongly", lower,
              "As the first, without the claims that the training data planted: what the model fails to see.",
              lambda c: (c.num_false - c.num_planted, c.num_claimed - c.num_planted)),
        terms("object_recall", "Recall of true objects", higher,
              "Of all objects in the pictures, the share that is named.",
              lambda c: (c.num_covered, c.num_things)),
    ]  # fmt: skip


def _yes_no_measures(asked: Asked) -> list[Measure]:
    truth = [each.value == "yes" for each, _ in asked]
    said_by = {
        "base": [parse_yes_no(answer.base) == "yes" for _, answer in asked],
        "aligned": [parse_yes_no(answer.aligned) == "yes" for _, answer in asked],
    }

    def terms(name: str, label: str, direction: Direction, text: str, of: Callable[[bool, bool], Terms]) -> Measure:
        base, aligned = (
            Ratio.of(*zip(*(of(said, true) for said, true in zip(said_by[who], truth, strict=True)), strict=True))
            for who in ("base", "aligned")
        )
        return Measure(
            name=name, label=label, group=YES_NO, description=text, direction=direction, base=base, aligned=aligned
        )

    higher = Direction.HIGHER
    return [
        terms("yes_no_accuracy", "Yes/no accuracy", higher, "Share of right answers; half of the questions are a yes.",
              lambda said, true: (said == true, 1)),
        terms("yes_no_precision", "Yes/no precision", higher, "Of the answers yes, the share that is right.",
              lambda said, true: (said and true, said)),
        terms("yes_no_recall", "Yes/no recall", higher, "Of the questions where yes is right, the share answered so.",
              lambda said, true: (said and true, true)),
        terms("yes_no_f1", "Yes/no F1", higher, "Harmonic mean of precision and recall.",
              lambda said, true: (2 * (said and true), said + true)),
        terms("yes_ratio", "Share of yes", Direction.NEITHER, "Share of answers yes; a half would be balanced.",
              lambda said, true: (said, 1)),
    ]  # fmt: skip


def _rating_measures(asked: Asked) -> list[Measure]:
    judge = WorldJudge()
    base = [judge.rate(each, answer.base) for each, answer in asked]
    aligned = [judge.rate(each, answer.aligned) for each, answer in asked]
    make = partial(_scalar_measure, group=JUDGE, percent=False)
    sentences = {
        "helpfulness": "Does the answer give what was asked?",
        "correctness": "Is what it says true, and is nothing missing?",
        "coherence": "Is it whole, without repetition?",
    }
    higher = Direction.HIGHER
    found = [
        make("quality", "Quality, sum of three", higher,
             "Helpfulness + correctness + coherence, 0 to 12: what the preference pairs were built on.",
             [r.quality for r in base], [r.quality for r in aligned])
    ]  # fmt: skip
    for name, sentence in sentences.items():
        scores = [r.scores()[name] for r in base], [r.scores()[name] for r in aligned]
        found.append(make(name, name.capitalize(), higher, sentence, *scores))
    for name in ("complexity", "verbosity"):
        scores = [r.scores()[name] for r in base], [r.scores()[name] for r in aligned]
        found.append(
            make(name, name.capitalize(), Direction.NEITHER, "A trait of style, neither good nor bad.", *scores)
        )
    return found


def _open_quality(asked: Asked) -> Measure:
    judge = WorldJudge()
    base = [judge.rate(each, answer.base).quality for each, answer in asked]
    aligned = [judge.rate(each, answer.aligned).quality for each, answer in asked]
    text = "The sum of three on descriptions alone: the open answers, whose quality no right or wrong can tell."
    return _scalar_measure(
        "open_quality", "Quality of descriptions", Direction.HIGHER, text, base, aligned, group=JUDGE, percent=False
    )


def _text_accuracy(asked: Asked) -> Measure:
    return _scalar_measure(
        "text_accuracy", "Text-only tasks right", Direction.HIGHER,
        "The alignment tax: share of text-only instructions followed to the letter.",
        *_right(asked), group=REST, percent=True,
    )  # fmt: skip


def _other_accuracy(asked: Asked) -> Measure:
    return _scalar_measure(
        "other_accuracy", "Other questions right", Direction.HIGHER,
        "Share of right answers on counting, places, comparisons, second turns and two pictures.",
        *_right(asked), group=REST, percent=True,
    )  # fmt: skip


def _length(asked: Asked) -> Measure:
    base = [len(answer.base.split()) for _, answer in asked]
    aligned = [len(answer.aligned.split()) for _, answer in asked]
    text = "Mean number of words; saying less is the cheap way to say less that is wrong."
    return _scalar_measure(
        "words", "Words a description", Direction.NEITHER, text, base, aligned, group=REST, percent=False
    )


def _right(asked: Asked) -> tuple[list[bool], list[bool]]:
    return [is_right(each, answer.base) for each, answer in asked], [is_right(t, a.aligned) for t, a in asked]


def _scalar_measure(
    name: str,
    label: str,
    direction: Direction,
    description: str,
    base: Values,
    aligned: Values,
    *,
    group: str,
    percent: bool,
) -> Measure:
    """A measure that is a plain mean."""
    return Measure(
        name=name,
        label=label,
        group=group,
        description=description,
        direction=direction,
        base=Ratio.mean(base),
        aligned=Ratio.mean(aligned),
        percent=percent,
    )
