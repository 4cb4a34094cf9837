"""The exact world as a judge, plain or with the noise of a judge that only reads pictures.

    ExactWorldJudge()            -> "mmalign-world-exact": what the picture really shows
    ExactWorldJudge(noise=0.3)   -> "world-noise-0.3": three ratings in ten are drawn anew, uniformly from 0-4

A rating is drawn anew by chance `noise`, by seed, sample, answer and aspect alone: in any order, the same ratings. So
what `mmalign agree` must find against the exact judge follows by formula. With p(v) the exact judge's share of the
rating v, and S = sum p(v)^2:

    exact agreement = (1 - noise) + noise / 5
    Cohen's kappa   = (1 - noise) (1 - S) / ((1 - noise) (1 - S) + noise * 4 / 5)

Tests   tests/judges/test_exact.py
"""

import struct
from collections.abc import Iterable, Mapping
from hashlib import blake2b
from typing import Any

from mmalign.data.sample import Judgment, Sample
from mmalign.judges.judge import Done
from mmalign.messages import parse_messages
from mmalign.steering import ATTRIBUTES, SCALE
from mmalign.world.judge import Ratings, WorldJudge
from mmalign.world.tasks import Task, task

_LOW, _HIGH = SCALE
_PARTS = struct.Struct(">QI")


class ExactWorldJudge:
    """Rates the answers to samples of the embedded world, which it knows by their id; all others are invalid."""

    def __init__(self, *, noise: float = 0.0, seed: int = 0) -> None:
        """Choose how often it errs.

        Args:
            noise: Chance that a rating is drawn anew, in [0, 1].
            seed: Of the noise: judges of different seeds err independently.
        """
        if not 0 <= noise <= 1:
            raise ValueError(
                f"noise is the chance that a rating is drawn anew, in [0, 1], got {noise}. For none use 0."
            )
        if seed and not noise:
            raise ValueError(f"seed {seed} is of the noise, and there is none: leave `--seed` out, or give `--noise`.")
        self.noise, self.seed = noise, seed
        of_seed = f"-seed-{seed}" if seed else ""
        self.name = f"world-noise-{noise:g}{of_seed}" if noise else WorldJudge.name
        self._judge = WorldJudge()

    def settings(self) -> Mapping[str, Any]:
        """What its ratings depend on."""
        return {"judge": self.name, "noise": self.noise, "seed": self.seed} if self.noise else {"judge": self.name}

    def rate(self, samples: Iterable[Sample], done: Done) -> None:
        """Judge sample after sample.

        Args:
            samples: Any number; one is held at a time.
            done: Called with each sample and the judgment of each of its responses.
        """
        for sample in samples:
            done(sample, self.judgments(sample))

    def judgments(self, sample: Sample) -> tuple[Judgment, ...]:
        """One judgment for each response, in order."""
        asked = _task_of(sample)
        if isinstance(asked, str):
            return tuple(Judgment(judge=self.name, invalid=asked) for _ in sample.responses)
        exact = {text: self._judge.rate(asked, text) for text in dict.fromkeys(each.text for each in sample.responses)}
        return tuple(self._judgment(sample.id, i, exact[each.text]) for i, each in enumerate(sample.responses))

    def _judgment(self, sample_id: str, response: int, exact: Ratings) -> Judgment:
        scores, rationale = exact.scores(), exact.rationale
        if self.noise:
            redrawn = self._redrawn(f"{self.seed}/{sample_id}/{response}")
            scores |= redrawn
            rationale += f" Noise, drawn anew: {', '.join(redrawn)}." if redrawn else ""
        return Judgment(judge=self.name, ratings=scores, rationale=rationale)

    def _redrawn(self, answer: str) -> dict[str, int]:
        """The ratings that replace the exact ones."""
        digest = blake2b(answer.encode()).digest()
        found = {}
        for place, aspect in enumerate(ATTRIBUTES):  # twelve bytes each: eight for the chance, four for the rating
            chance, value = _PARTS.unpack_from(digest, place * _PARTS.size)
            if chance < self.noise * 2**64:
                found[aspect] = _LOW + value % (_HIGH - _LOW + 1)
        return found


def _task_of(sample: Sample) -> Task | str:
    """The task that the sample asks, or why there is none."""
    try:
        found = task(sample.id)
    except ValueError:
        return f"not of the embedded world: {sample.id!r} is none of its ids"
    if parse_messages(found.messages) != sample.messages:
        return f"not of the embedded world: its prompt is not that of {sample.id}"
    return found
