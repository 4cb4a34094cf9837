"""Views: which rows a sample makes. A pure function, chosen in the config and applied while streaming.

    data:
      view: {class_path: mmalign.data.views.Pairs, init_args: {margin: 2}}

A view decides on the manifest's entry alone, so the rows of a run, and why samples make none, are known at its start.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import ClassVar, Literal, NamedTuple

from mmalign.batch import Role
from mmalign.data.manifest import Entry
from mmalign.data.rows import Answer, Row
from mmalign.data.sample import Sample

Choices = tuple[tuple[int, ...], ...]
"""For each row, the responses that stand in it, in the order of the view's roles."""


class Unusable(NamedTuple):
    """Why a sample makes no row."""

    reason: str


class View(ABC):
    """Sample -> rows."""

    roles: ClassVar[tuple[Role, ...]]
    """What the responses of a row are, in order."""

    @abstractmethod
    def choose(self, entry: Entry) -> Choices | Unusable:
        """The responses of each row, from what the manifest knows, or why there is none."""

    def rows(self, sample: Sample, *, shard: str = "") -> tuple[Row, ...]:
        """The rows of a sample: none where `choose` finds it unusable.

        Args:
            sample: With its pictures.
            shard: Its shard's name, for the rows' keys.
        """
        choices = self.choose(Entry.of(sample))
        if isinstance(choices, Unusable):
            return ()
        key = f"{shard}/{sample.key}" if shard else sample.key
        return tuple(
            Row(
                key,
                sample.messages,
                sample.images,
                tuple(Answer(sample.responses[i].text, role) for i, role in zip(chosen, self.roles, strict=True)),
            )
            for chosen in choices
        )


@dataclass(frozen=True, kw_only=True)
class Pairs(View):
    """A chosen and a rejected response, for DPO and its family; the paper's rule by default.

    Chosen is the response with the best score; rejected is one at least `margin` below it. Where the sample has a
    direct `preference`, by a person or a published set, that is the pair. One row a sample, the same in every epoch.

        scores 12, 9, 11, 10, margin 2  ->  chosen 0, rejected 1 or 3
    """

    roles: ClassVar[tuple[Role, ...]] = (Role.CHOSEN, Role.REJECTED)

    score: list[str] = field(default_factory=lambda: ["helpfulness", "correctness", "coherence"])
    """Ratings that are summed."""
    rejected: Literal["random", "worst"] = "random"
    """Which of the responses below the margin: any, or the one with the lowest score."""
    margin: float = 2.0
    """How far below the best the rejected one is, at least; more than 0."""
    seed: int = 0
    """Of the draws, which also depend on the sample's key."""

    def __post_init__(self) -> None:
        """Raise where the rule could make no sense."""
        if not self.score:
            raise ValueError("Pairs needs ratings to sum, `data.view.init_args.score` is empty. Name at least one.")
        if self.margin <= 0:
            raise ValueError(
                f"Pairs needs a margin above 0, got {self.margin}: at 0 a pair has no better response. "
                "Set `data.view.init_args.margin`, 2 in the paper."
            )

    def choose(self, entry: Entry) -> Choices | Unusable:
        if entry.preference is not None:
            return _direct(entry, entry.preference.chosen, entry.preference.rejected)
        if len(entry.lengths) < 2:
            return Unusable("fewer than two responses")
        scores = {i: s for i in range(len(entry.lengths)) if (s := entry.score(i, self.score)) is not None}
        if len(scores) < 2:
            return Unusable("fewer than two rated responses")
        scores = {i: s for i, s in scores.items() if entry.lengths[i]}
        if len(scores) < 2:
            return Unusable("fewer than two rated responses that are not empty")
        best = max(scores.values())
        chosen = self._draw([i for i, s in scores.items() if s == best], entry.key, Role.CHOSEN)
        below = {i: s for i, s in scores.items() if s <= best - self.margin}
        if not below:
            return Unusable(f"no response at least {self.margin:g} below the best")
        below = {i: s for i, s in below.items() if entry.answers[i] != entry.answers[chosen]}
        if not below:
            return Unusable("the responses below the margin repeat the best one's text")
        worst = min(below.values()) if self.rejected == "worst" else best
        candidates = [i for i, s in below.items() if s <= worst]
        return ((chosen, self._draw(candidates, entry.key, Role.REJECTED)),)

    def _draw(self, candidates: Sequence[int], key: str, role: Role) -> int:
        """One of the candidates, by seed, sample and role: the same on every machine and in every epoch."""
        digest = sha256(f"{self.seed}/{key}/{role.name}".encode()).digest()
        return candidates[int.from_bytes(digest[:8], "big") % len(candidates)]


@dataclass(frozen=True, kw_only=True)
class Gold(View):
    """Every answer of one named model or author, for SFT: a row each.

    Importers name the answers of a data set `gold`.
    """

    roles: ClassVar[tuple[Role, ...]] = (Role.ANSWER,)

    model: str = "gold"
    """The `model` of the responses to train on."""

    def choose(self, entry: Entry) -> Choices | Unusable:
        named = [i for i, model in enumerate(entry.models) if model == self.model]
        if not named:
            return Unusable(f"no response by {self.model!r}")
        return tuple((i,) for i in named if entry.lengths[i]) or Unusable(f"the response by {self.model!r} is empty")


@dataclass(frozen=True, kw_only=True)
class Prompts(View):
    """The prompt alone, for sampling and online methods."""

    roles: ClassVar[tuple[Role, ...]] = ()

    def choose(self, entry: Entry) -> Choices | Unusable:
        del entry  # every prompt is usable
        return ((),)


def _direct(entry: Entry, chosen: int, rejected: int) -> Choices | Unusable:
    if entry.answers[chosen] == entry.answers[rejected]:
        return Unusable("chosen and rejected are the same text")
    if not entry.lengths[chosen] or not entry.lengths[rejected]:
        return Unusable("the chosen or the rejected response is empty")
    return ((chosen, rejected),)
