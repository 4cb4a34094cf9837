"""What every judge is: it takes samples and gives one judgment for each of their responses.

    def keep(sample: Sample, judgments: Sequence[Judgment]) -> None: ...
    judge.rate(samples, keep)

Tests   tests/tools/test_judge.py, tests/judges/test_reward.py, tests/judges/test_exact.py
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from mmalign.data.sample import Judgment, Preference, Sample

Done = Callable[[Sample, Sequence[Judgment]], None]
UNANSWERED = "no reply"
"""How `invalid` begins where nothing was said: asked again, the judge may."""
MAX_RATIONALE = 8000
"""Characters of a judge's reasons that a sample keeps."""


@runtime_checkable
class Judge(Protocol):
    """Rates all responses of a sample."""

    @property
    def name(self) -> str:
        """As its judgments say; another name for other settings, or they would replace one another."""

    def settings(self) -> Mapping[str, Any]:
        """All that its ratings depend on, in JSON's types; no secret."""

    def rate(self, samples: Iterable[Sample], done: Done) -> None:
        """Rate samples.

        Args:
            samples: Taken as they are needed.
            done: Called with a sample and the judgment of each of its responses, in their order; samples come in any
                order.
        """


@runtime_checkable
class Metered(Protocol):
    """A judge that is paid for."""

    def note(self) -> str:
        """What it has used so far, in a few words."""

    def used_for(self, key: str) -> Mapping[str, int | float]:
        """Replies, tokens and cost of one sample, by name, whenever they were paid for; forgotten with the call."""


def is_final(judgments: Sequence[Judgment]) -> bool:
    """Whether the judge has said what it has to say, be it nothing usable."""
    return not any(each.invalid.startswith(UNANSWERED) for each in judgments)


def shortened(text: str) -> str:
    """A rationale of sane length; where it is cut it says so."""
    return text if len(text) <= MAX_RATIONALE else f"{text[:MAX_RATIONALE]} [cut here, {len(text)} characters in all]"


def preference_of(judgments: Sequence[Judgment], rating: str) -> Preference | None:
    """Of two responses the one that won in both orders, by a rating that is 1 for it and 0 for the other."""
    found = [each.ratings.get(rating) for each in judgments]
    if found == [1, 0]:
        return Preference(chosen=0, rejected=1)
    return Preference(chosen=1, rejected=0) if found == [0, 1] else None
