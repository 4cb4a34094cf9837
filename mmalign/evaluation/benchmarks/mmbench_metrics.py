"""MMBench's metrics: circular accuracy with its breakdowns, and accuracy by row.

    mmbench_metrics([pick(question, "B"), ...], {"241": 4, ...}, is_printed=True)
        -> [Metric "accuracy" (headline), "vanilla", "unresolved", "l2_category/logic_reasoning", ...]

The rotations of a question are drawn together.

Tests   tests/evaluation/benchmarks/test_mmbench.py
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from mmalign.evaluation.benchmarks.mmbench_extraction import NO_OPTION, picked_option
from mmalign.evaluation.benchmarks.mmbench_questions import MMBenchQuestion
from mmalign.evaluation.paired import Direction, Ratio
from mmalign.evaluation.steps.scored import Metric


class Pick(NamedTuple):
    """An answer to one rotation, and the option that it picks."""

    question: MMBenchQuestion
    text: str
    letter: str | None
    """None where the rule cannot tell."""

    @property
    def is_right(self) -> bool:
        """Whether it is the right option."""
        return self.letter == self.question.answer

    @property
    def is_resolved(self) -> bool:
        """Whether it is an option at all."""
        return self.letter not in (None, NO_OPTION)


Group = list[Pick]


def pick(question: MMBenchQuestion, text: str) -> Pick:
    """An answer's option.

    Args:
        question: In the rotation that was asked.
        text: The answer.
    """
    return Pick(question, text, picked_option(text, question.options))


def mmbench_metrics(picks: Sequence[Pick], sizes: Mapping[str, int], *, is_printed: bool) -> list[Metric]:
    """Circular accuracy (whole questions only), accuracy by row, share of unresolved answers, and the breakdowns.

    Args:
        picks: Of the rows that were answered.
        sizes: Number of rotations that each question has, by group.
        is_printed: Whether the official script, given these answers, would print these numbers.
    """
    groups: dict[str, Group] = {}
    for each in picks:
        groups.setdefault(str(each.question.group), []).append(each)
    whole = {group: members for group, members in groups.items() if len(members) == sizes[group]}
    metrics = [
        _circular(whole, "accuracy", "Accuracy (circular)", is_printed=is_printed),
        _by_row(
            groups,
            "vanilla",
            "Accuracy by row",
            "Share of right answers, each rotation of a question counting by itself.",
            lambda each: each.is_right,
        ),
        _by_row(
            groups,
            "unresolved",
            "Answers without an option",
            "Share of answers of which the rule can read no option; they are misses in every other number.",
            lambda each: not each.is_resolved,
            Direction.LOWER,
        ),
    ]
    return [
        *metrics,
        *_broken_down(whole, "l2_category", lambda each: each.l2_category, is_printed=is_printed),
        *_broken_down(whole, "category", lambda each: each.category, is_printed=is_printed),
    ]


def _broken_down(
    groups: Mapping[str, Group], name: str, of: Callable[[MMBenchQuestion], str], *, is_printed: bool
) -> list[Metric]:
    parts: dict[str, dict[str, Group]] = {}
    for group, members in groups.items():
        parts.setdefault(of(members[0].question), {})[group] = members
    return [
        _circular(parts[part], f"{name}/{part}", part.replace("_", " "), group=name, is_printed=is_printed)
        for part in sorted(parts)
        if part
    ]


def _circular(groups: Mapping[str, Group], name: str, label: str, *, group: str = "", is_printed: bool) -> Metric:
    hits = [all(each.is_right for each in members) for members in groups.values()]
    return Metric(
        name=name,
        label=label,
        description="Share of questions that are answered right in every rotation of their options.",
        ids=tuple(groups),
        terms=Ratio.mean(hits),
        headline=not group,
        group=group,
        official=sum(hits) / len(hits) if is_printed and hits else None,
    )


def _by_row(
    groups: Mapping[str, Group],
    name: str,
    label: str,
    description: str,
    counts: Callable[[Pick], bool],
    direction: Direction = Direction.HIGHER,
) -> Metric:
    return Metric(
        name=name,
        label=label,
        description=description,
        direction=direction,
        ids=tuple(groups),
        terms=Ratio.of(
            [sum(counts(each) for each in members) for members in groups.values()], list(map(len, groups.values()))
        ),
    )
