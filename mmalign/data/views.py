"""Views: which rows a sample makes. A pure function, chosen in the config and applied while streaming.

    data:
      view: {class_path: mmalign.data.views.Pairs, init_args: {margin: 2}}

A view decides on the manifest's entry alone, so the rows of a run, and why samples make none, are known at its start.
Responses that nobody rated are nothing to a view that goes by ratings; one that lacks a rating which the view asks for
makes its sample unusable, by that name.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from typing import ClassVar, Literal, NamedTuple

from mmalign.batch import Role
from mmalign.data.manifest import Entry
from mmalign.data.rows import Answer, Group, Row
from mmalign.data.sample import Sample, SampleError
from mmalign.data.variants import Variant
from mmalign.steering import ATTRIBUTES, Form, check_attributes, steer

QUALITY = ("helpfulness", "correctness", "coherence")
"""Ratings whose sum, 0-12, the paper goes by."""


class Choice(NamedTuple):
    """A response of the sample that stands in a row."""

    response: int
    role: Role


Choices = tuple[tuple[Choice, ...], ...]
"""For each row, the responses that stand in it."""


class Unusable(NamedTuple):
    """Why a sample makes no row."""

    reason: str


class View(ABC):
    """Sample -> rows."""

    roles: ClassVar[tuple[Role, ...]]
    """What the responses of its rows are."""

    @abstractmethod
    def choose(self, entry: Entry) -> Choices | Unusable:
        """The responses of each row, from what the manifest knows, or why there is none."""

    def groups(self, sample: Sample, *, shard: str = "") -> tuple[Group, ...]:
        """The rows of a sample, each with its further rows: none where `choose` finds the sample unusable.

        Args:
            sample: With its pictures.
            shard: Its shard's name, for the rows' keys.

        Raises:
            SampleError: The prompt cannot carry what the view puts into it.
        """
        choices = self.choose(Entry.of(replace(sample, images=())))  # no view looks at them, and hashing takes time
        if isinstance(choices, Unusable):
            return ()
        key = f"{shard}/{sample.key}" if shard else sample.key
        return tuple(self.group(key, sample, chosen) for chosen in choices)

    def group(self, key: str, sample: Sample, chosen: Sequence[Choice]) -> Group:
        """What one choice becomes: one row behind the sample's own prompt, unless a view says otherwise.

        Args:
            key: Of its rows.
            sample: With its pictures.
            chosen: The responses that stand in the row.
        """
        answers = tuple(Answer(sample.responses[response].text, role) for response, role in chosen)
        return (Row(key, sample.messages, sample.images, answers),)


@dataclass(frozen=True, kw_only=True)
class Pairs(View):
    """A chosen and a rejected response, for DPO and its family; the paper's rule by default.

    Chosen is the response with the best score; rejected is one at least `margin` below it. Where the sample has a
    direct `preference`, by a person or a published set, that is the pair. The same pairs in every epoch.

        scores 12, 9, 11, 10, margin 2  ->  chosen 0, rejected 1 or 3

    Zephyr's rule (Tunstall et al., 2023), the best against a random one of the others, is `margin: 0, strict: true`.
    """

    roles: ClassVar[tuple[Role, ...]] = (Role.CHOSEN, Role.REJECTED)

    score: list[str] = field(default_factory=lambda: list(QUALITY))
    """Ratings that are summed."""
    rejected: Literal["random", "worst"] = "random"
    """Which of the responses below the margin: any, or the one with the lowest score."""
    margin: float = 2.0
    """How far below the best the rejected one is, at least; more than 0, or 0 where it is `strict`."""
    strict: bool = False
    """The rejected one must be further below than the margin."""
    pairs_per_sample: int = 1
    """Rows that one sample makes, at most: its best response against as many others, of different texts."""
    seed: int = 0
    """Of the draws, which also depend on the sample's key."""

    def __post_init__(self) -> None:
        """Raise where the rule could make no sense."""
        _require_score(self, self.score)
        if self.margin < 0 or (self.margin == 0 and not self.strict):
            raise ValueError(
                f"Pairs needs a margin above 0, got {self.margin}: at 0 a pair has no better response. "
                "Set `data.view.init_args.margin`, 2 in the paper, or `strict: true` for any that is worse."
            )
        if self.pairs_per_sample < 1:
            raise ValueError(
                f"Pairs makes at least one row of a sample, got pairs_per_sample {self.pairs_per_sample}. "
                "Set `data.view.init_args.pairs_per_sample`, usually 1."
            )

    def choose(self, entry: Entry) -> Choices | Unusable:
        if entry.preference is not None:
            return _direct(entry, entry.preference.chosen, entry.preference.rejected)
        if len(entry.lengths) < 2:
            return Unusable("fewer than two responses")
        scores = _scores(entry, self.score, fewest=2)
        if isinstance(scores, Unusable):
            return scores
        best = max(scores.values())
        if min(scores.values()) == best:
            return Unusable("all ratings are equal")
        chosen = _draw([i for i, s in scores.items() if s == best], self.seed, entry.key, Role.CHOSEN.name)
        below = [i for i, s in scores.items() if self._suffices(best - s)]
        if not below:
            how = "more than" if self.strict else "at least"
            return Unusable(f"no response {how} {self.margin:g} below the best")
        below = [i for i in below if entry.answers[i] != entry.answers[chosen]]
        if not below:
            return Unusable("the responses below the margin repeat the best one's text")
        return tuple(_pair(chosen, rejected) for rejected in self._rejected(entry, scores, below))

    def _suffices(self, gap: float) -> bool:
        return gap > self.margin if self.strict else gap >= self.margin

    def _rejected(self, entry: Entry, scores: Mapping[int, float], below: Sequence[int]) -> list[int]:
        """Up to `pairs_per_sample` responses below the margin, no text twice."""
        drawn = list[int]()
        while below and len(drawn) < self.pairs_per_sample:
            worst = min(scores[i] for i in below)
            candidates = [i for i in below if self.rejected == "random" or scores[i] == worst]
            purpose = f"{Role.REJECTED.name}{len(drawn) or ''}"
            drawn.append(_draw(candidates, self.seed, entry.key, purpose))
            below = [i for i in below if entry.answers[i] != entry.answers[drawn[-1]]]
        return drawn


@dataclass(frozen=True, kw_only=True)
class ImagePairs(Pairs):
    """Pairs, and behind each a further row: the chosen answer once more, with changed pictures (mDPO, POVID).

    Where the prompt has no picture, the further row counts nothing.
    """

    roles: ClassVar[tuple[Role, ...]] = (Role.CHOSEN, Role.REJECTED, Role.OTHER_IMAGE)

    variant: Variant
    """What is done to the pictures of the further row, for instance `mmalign.data.variants.RandomCrop`."""

    def group(self, key: str, sample: Sample, chosen: Sequence[Choice]) -> Group:
        (pair,) = super().group(key, sample, chosen)
        again = tuple(answer._replace(role=Role.OTHER_IMAGE) for answer in pair.answers if answer.role == Role.CHOSEN)
        return pair, pair._replace(answers=again, variant=self.variant, weight=float(bool(pair.images)))


@dataclass(frozen=True, kw_only=True)
class BestOfN(View):
    """The response with the best score, for rejection sampling: SFT on the best of the model's own answers.

    Among several best ones the seed draws. The best of bad answers is still bad: `min_score` is a floor.

        scores 9, 12, 12, 10  ->  1 or 2
    """

    roles: ClassVar[tuple[Role, ...]] = (Role.ANSWER,)

    score: list[str] = field(default_factory=lambda: list(QUALITY))
    """Ratings that are summed."""
    min_score: float | None = None
    """Samples whose best response has a lower score are left out; null keeps all."""
    seed: int = 0
    """Of the draws among equals, which also depend on the sample's key."""

    def __post_init__(self) -> None:
        """Raise where the rule could make no sense."""
        _require_score(self, self.score)

    def choose(self, entry: Entry) -> Choices | Unusable:
        scores = _scores(entry, self.score)
        if isinstance(scores, Unusable):
            return scores
        best = max(scores.values())
        if self.min_score is not None and best < self.min_score:
            return Unusable(f"no response with a score of at least {self.min_score:g}")
        drawn = _draw([i for i, s in scores.items() if s == best], self.seed, entry.key, Role.ANSWER.name)
        return ((Choice(drawn, Role.ANSWER),),)


@dataclass(frozen=True, kw_only=True)
class Gold(View):
    """The answers of one named model or author, for SFT: a row with all of them behind the prompt.

    Importers name the answers of a data set `gold`; in the shards that come with mmalign, `teacher` is the foreign one.
    """

    roles: ClassVar[tuple[Role, ...]] = (Role.ANSWER,)

    model: str = "gold"
    """The `model` of the responses to train on."""

    def choose(self, entry: Entry) -> Choices | Unusable:
        named = [i for i, model in enumerate(entry.models) if model == self.model]
        if not named:
            return Unusable(f"no response by {self.model!r}")
        answers = tuple(Choice(i, Role.ANSWER) for i in named if entry.lengths[i])
        return (answers,) if answers else Unusable(f"the response by {self.model!r} is empty")


@dataclass(frozen=True, kw_only=True)
class Steer(View):
    """Every rated answer, behind a prompt that asks for the very ratings it has, for SteerLM.

    Answers with equal ratings share a prompt, and so a row.
    """

    roles: ClassVar[tuple[Role, ...]] = (Role.ANSWER,)

    form: Form = "likert"
    """Where the attributes stand: the paper's suffix of the question, or NeMo-Aligner's line before the answer."""
    attributes: dict[str, int] = field(default_factory=dict)
    """What to ask for at inference, 4 where nothing is said. Training takes the ratings; an export remembers these."""

    def __post_init__(self) -> None:
        """Raise where no prompt could ask for the attributes."""
        check_attributes(self.wanted)

    @property
    def wanted(self) -> dict[str, int]:
        """All five attributes to ask for at inference."""
        return dict.fromkeys(ATTRIBUTES, 4) | self.attributes

    def choose(self, entry: Entry) -> Choices | Unusable:
        scores = _scores(entry, ATTRIBUTES)
        if isinstance(scores, Unusable):
            return scores
        alike = dict[tuple[float, ...], list[Choice]]()
        for i in scores:
            rated = tuple(entry.ratings[i][name] for name in ATTRIBUTES)
            alike.setdefault(rated, []).append(Choice(i, Role.ANSWER))
        return tuple(map(tuple, alike.values()))

    def group(self, key: str, sample: Sample, chosen: Sequence[Choice]) -> Group:
        (row,) = super().group(key, sample, chosen)
        ratings = sample.responses[chosen[0].response].ratings
        try:
            steered = steer(sample.messages, {name: int(ratings[name]) for name in ATTRIBUTES}, self.form)
        except ValueError as error:
            raise SampleError(f"{key}: {error}") from error
        return (row._replace(messages=steered),)


@dataclass(frozen=True, kw_only=True)
class Unpaired(View):
    """Good and bad answers in any number, all behind one prompt, for KTO.

    Good are the responses with a score of at least `good_min`, bad those with at most `bad_max`; what lies between is
    left out. Where the sample has a direct `preference`, its chosen response is good and its rejected one bad.

        scores 12, 9, 11, 10  ->  good 0 and 2, bad 1
    """

    roles: ClassVar[tuple[Role, ...]] = (Role.CHOSEN, Role.REJECTED, Role.MISMATCHED)

    score: list[str] = field(default_factory=lambda: list(QUALITY))
    """Ratings that are summed."""
    good_min: float = 11.0
    """Lowest score of a good answer."""
    bad_max: float = 9.0
    """Highest score of a bad answer, below `good_min`."""

    def __post_init__(self) -> None:
        """Raise where the rule could make no sense."""
        _require_score(self, self.score)
        if self.bad_max >= self.good_min:
            raise ValueError(
                f"Unpaired would call scores from {self.good_min:g} to {self.bad_max:g} both good and bad. "
                "Set `data.view.init_args.good_min` above `bad_max`."
            )

    def choose(self, entry: Entry) -> Choices | Unusable:
        if entry.preference is not None:
            return _direct(entry, entry.preference.chosen, entry.preference.rejected)
        scores = _scores(entry, self.score)
        if isinstance(scores, Unusable):
            return scores
        good = [i for i, s in scores.items() if s >= self.good_min]
        bad = [i for i, s in scores.items() if s <= self.bad_max]
        if not good and not bad:
            return Unusable(f"no response with a score from {self.good_min:g} or up to {self.bad_max:g}")
        if {entry.answers[i] for i in good} & {entry.answers[i] for i in bad}:
            return Unusable("a text is both good and bad")
        return ((*(Choice(i, Role.CHOSEN) for i in good), *(Choice(i, Role.REJECTED) for i in bad)),)


@dataclass(frozen=True, kw_only=True)
class Prompts(View):
    """The prompt alone, for sampling and online methods."""

    roles: ClassVar[tuple[Role, ...]] = ()

    def choose(self, entry: Entry) -> Choices | Unusable:
        del entry  # every prompt is usable
        return ((),)


def _require_score(view: View, score: Sequence[str]) -> None:
    if not score:
        raise ValueError(
            f"{type(view).__name__} needs ratings to sum, `data.view.init_args.score` is empty. Name at least one."
        )


def _scores(entry: Entry, names: Sequence[str], *, fewest: int = 1) -> dict[int, float] | Unusable:
    """Score of each response that is rated and not empty, by its number, or why there are too few."""
    few = {1: "no rated response", 2: "fewer than two rated responses"}[fewest]
    rated = [i for i, ratings in enumerate(entry.ratings) if ratings]
    if len(rated) < fewest:
        return Unusable(few)
    missing = [name for name in names if any(name not in entry.ratings[i] for i in rated)]
    if missing:
        return Unusable(f"a rating is missing: {', '.join(missing)}")
    scores = {i: sum(entry.ratings[i][name] for name in names) for i in rated if entry.lengths[i]}
    return scores if len(scores) >= fewest else Unusable(f"{few} that {'is' if fewest == 1 else 'are'} not empty")


def _draw(candidates: Sequence[int], seed: int, key: str, purpose: str) -> int:
    """One of the candidates, by seed, sample and purpose: the same on every machine and in every epoch."""
    digest = sha256(f"{seed}/{key}/{purpose}".encode()).digest()
    return candidates[int.from_bytes(digest[:8], "big") % len(candidates)]


def _direct(entry: Entry, chosen: int, rejected: int) -> Choices | Unusable:
    if entry.answers[chosen] == entry.answers[rejected]:
        return Unusable("chosen and rejected are the same text")
    if not entry.lengths[chosen] or not entry.lengths[rejected]:
        return Unusable("the chosen or the rejected response is empty")
    return (_pair(chosen, rejected),)


def _pair(chosen: int, rejected: int) -> tuple[Choice, Choice]:
    return Choice(chosen, Role.CHOSEN), Choice(rejected, Role.REJECTED)
