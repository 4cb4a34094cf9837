"""Who judged, as far as samples were read: a manifest knows ratings, not whose.

    Judges().add(sample)  ->  {"gemini-pro": Judged(ratings=4, reasons=4, invalid=0), "gpt-4o": Judged(3, 3, 1)}

Tests   tests/tools/inspection/test_judges.py
"""

from typing import NamedTuple

from mmalign.data.sample import Sample

UNNAMED = "unnamed"


class Judged(NamedTuple):
    """What one judge said."""

    ratings: int = 0
    """Answers rated."""
    reasons: int = 0
    """Of these, with a rationale."""
    invalid: int = 0
    """Answers that the judge was asked about in vain."""


class Judges:
    """Counts over the samples that are read."""

    def __init__(self) -> None:
        self.samples = 0
        self.found: dict[str, Judged] = {}

    def add(self, sample: Sample) -> None:
        """Count the judgments of one sample."""
        self.samples += 1
        for judgment in (each for response in sample.responses for each in response.all_judgments()):
            ratings, reasons, invalid = self.found.get(judgment.judge or UNNAMED, Judged())
            if judgment.invalid:
                invalid += 1
            else:
                ratings, reasons = ratings + 1, reasons + bool(judgment.rationale)
            self.found[judgment.judge or UNNAMED] = Judged(ratings, reasons, invalid)
