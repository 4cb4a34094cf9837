"""What cannot be scored: counted by reason, named by id, and an error unless the user says otherwise.

    faults = Faults("MM-Vet")
    kept = faults.join(asked_ids, answers)        -> {"v1_0": Answer(...), ...}; missing, double, unknown ones are noted
    faults.add(UNREADABLE, "v1_7")
    failures = faults.settle(handling)            raises, or -> {"judge text without a score": ("v1_7",)}

Tests   tests/evaluation/steps/test_faults.py
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, TypeVar, runtime_checkable

MISSING = "no answer"
DOUBLE = "answered more than once"
UNKNOWN = "answers to questions that are not asked here (a question file of another release?)"
FAILED = "no answer, for a reason that the answers name"
UNJUDGED = "no judgment"
DOUBLY_JUDGED = "judged more than once"
UNREADABLE = "judge text without a score"
OFF_SCALE = "a grade that the judge's scale does not have"
DIFFERS = "the score stored with the judgment is not the one in its text"
NO_REPLY = "no reply of the judge"
OTHER_PROMPT = "judged by another prompt (other answers, or another release of the questions?)"
NAMED = 5
"""Ids that a message names of each sort."""


@dataclass(frozen=True, kw_only=True)
class Handling:
    """What is done about what cannot be scored."""

    compat: Literal["strict", "official"] = "strict"
    """`official` does as the benchmark's own script does, its faults included."""
    on_bad: Literal["error", "count"] = "error"
    """`error`: say how many and which, and stop. `count`: leave them out of every mean, and count them beside it."""


@runtime_checkable
class HasId(Protocol):
    """A record with an id."""

    @property
    def id(self) -> str:
        """Of the question or call."""


R = TypeVar("R", bound=HasId)


class Faults:
    """Collects what cannot be scored."""

    def __init__(self, title: str) -> None:
        """None so far.

        Args:
            title: Of the benchmark, for messages.
        """
        self.title = title
        self._ids: dict[str, list[str]] = {}

    def add(self, reason: str, name: str) -> None:
        """Note one."""
        self._ids.setdefault(reason, []).append(name)

    def join(
        self, asked: Iterable[str], found: Sequence[R], *, missing: str = MISSING, double: str = DOUBLE
    ) -> dict[str, R]:
        """The records by id, in the order of what was asked; what is missing, double or unknown is noted, and left out.

        Args:
            asked: Ids of questions or calls.
            found: Records.
            missing: What to call those that lack.
            double: What to call those that are there twice.
        """
        ids = list(asked)
        times = Counter(record.id for record in found)
        by_id = {record.id: record for record in found if times[record.id] == 1}
        known = set(ids)
        for name in ids:
            if not times[name]:
                self.add(missing, name)
            elif times[name] > 1:
                self.add(double, name)
        for name in times:
            if name not in known:
                self.add(UNKNOWN, name)
        return {name: by_id[name] for name in ids if name in by_id}

    def settle(self, handling: Handling) -> Mapping[str, tuple[str, ...]]:
        """All that was noted, by reason.

        Args:
            handling: Whether it is an error.

        Raises:
            ValueError: It is; how many, which, and what can be done.
        """
        if self._ids and handling == Handling():
            raise ValueError(
                f"{self.title}: not everything can be scored.\n{self.text()}\nMend the files, or leave these out of "
                "every mean and count them beside it with `--on_bad count`, or do as the official script does with "
                "`--compat official`."
            )
        return {reason: tuple(ids) for reason, ids in self._ids.items()}

    def text(self) -> str:
        """A line for each reason."""
        lines = []
        for reason, ids in self._ids.items():
            more = f", and {len(ids) - NAMED} more" if len(ids) > NAMED else ""
            lines.append(f"  {len(ids)}: {reason}: {', '.join(ids[:NAMED])}{more}")
        return "\n".join(lines)


def one_judge(title: str, judges: Iterable[str]) -> str:
    """The judge of all replies; grades of different judges are never mixed.

    Args:
        title: Of the benchmark, for messages.
        judges: Of each reply.

    Raises:
        ValueError: There are several; how many replies each gave.
    """
    counts = Counter(judges)
    if len(counts) > 1:
        named = ", ".join(f"{number} by {judge or 'an unnamed one'}" for judge, number in counts.most_common())
        raise ValueError(
            f"{title}: judgments of {len(counts)} judges are mixed ({named}). Scores of different judges cannot be "
            "averaged: judge all answers by one, or score each judge's file by itself."
        )
    return next(iter(counts), "")
