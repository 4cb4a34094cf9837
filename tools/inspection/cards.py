"""One sample as the page shows it: every text of its prompt, answers and judges escaped, hidden characters labelled.

    CardMaker(reader, validator, scales, budget=60_000).card(7)
    ->  Card(number=7, key="scene7", pictures=[...], turns=[...], answers=[AnswerCard(role="chosen", ...), ...], ...)

Tests   tests/tools/inspection/test_cards.py
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from markupsafe import Markup

from mmalign.batch import Role
from mmalign.data.manifest import Entry
from mmalign.data.sample import Judgment, Place, Response, Sample, SampleError
from mmalign.data.views import Choices, Unusable
from mmalign.messages import ImageSlot, Message

from .differences import differences
from .judges import UNNAMED
from .pairs import pair_of, score_names
from .rows import RowReader, ShownRow
from .seen import seen_html
from .thumbnails import Thumbnail, thumbnail
from .validation import Problem, Validator

Scales = Mapping[str, tuple[float, float]]
"""Lowest and highest value of each rating."""
ORDER = {"chosen": 0, "rejected": 1, "": 2}
"""Chosen and rejected stand side by side, in front."""


class ShownRating(NamedTuple):
    """A bar."""

    name: str
    value: str
    percent: float
    """Of the bar's length, 0 to 100."""


class ShownJudgment(NamedTuple):
    """What a judge said of an answer."""

    judge: str
    ratings: list[ShownRating]
    rationale: Markup
    invalid: str
    place: int | None


class AnswerCard(NamedTuple):
    """An answer, the words marked that its counterpart lacks."""

    number: int
    role: str
    text: Markup
    characters: int
    model: str
    sampling: str
    score: float | None
    judgments: list[ShownJudgment]


class Turn(NamedTuple):
    """A message."""

    role: str
    text: Markup


class Card(NamedTuple):
    """A sample."""

    number: int
    place: Place
    source: str = ""
    id: str = ""
    pictures: Sequence[Thumbnail] = ()
    turns: Sequence[Turn] = ()
    answers: Sequence[AnswerCard] = ()
    direct: bool = False
    """Whether a person or a published set chose."""
    gap: float | None = None
    """Score of the chosen answer less that of the rejected one; without a pair, of the best less the worst."""
    reason: str = ""
    """Why no row is made of it."""
    rows: Sequence[ShownRow] = ()
    problems: Sequence[Problem] = ()

    @property
    def models(self) -> set[str]:
        """Who answered."""
        return {answer.model for answer in self.answers}

    @property
    def judges(self) -> set[str]:
        """Who judged."""
        return {judgment.judge for answer in self.answers for judgment in answer.judgments}

    @property
    def invalid(self) -> bool:
        """Whether a judge failed."""
        return any(judgment.invalid for answer in self.answers for judgment in answer.judgments)

    @property
    def trained(self) -> int:
        """Tokens that are learned from."""
        return sum(a.num_tokens for row in self.rows for a in row.answers if a.role != Role.MISMATCHED)


class CardMaker:
    """Makes the cards of a shard set."""

    def __init__(self, reader: RowReader, validator: Validator, scales: Scales, *, budget: int) -> None:
        """Remember how.

        Args:
            reader: Makes the rows.
            validator: Finds what is wrong.
            scales: Of the ratings, over the whole set.
            budget: Characters of one picture, about.
        """
        self.reader = reader
        self.validator = validator
        self.scales = scales
        self.budget = budget

    def card(self, number: int) -> Card:
        """The card of a sample, also of one that cannot be read."""
        place, sample, problems = self.validator.checked(self.reader.shard_set, number)
        if sample is None:
            return Card(number, place, problems=problems)
        entry = Entry.of(sample)
        choices = self.reader.view.choose(entry)
        reason = choices.reason if isinstance(choices, Unusable) else ""
        rows, fault = self._rows(number, sample)
        if fault:
            reason = "it cannot be made"
            problems = problems or [Problem("error", reason, fault)]
        found: Choices = () if isinstance(choices, Unusable) else choices
        pair = pair_of(found[0]) if len(found) == 1 else None
        scores = [entry.score(i, score_names(self.reader.view)) for i in range(len(entry.ratings))]
        return Card(
            number,
            place,
            source=sample.source,
            id=sample.id,
            pictures=[thumbnail(image, budget=self.budget) for image in sample.images],
            turns=_turns(sample.messages),
            answers=self._answers(sample.responses, found, pair, scores),
            direct=sample.preference is not None,
            gap=_gap(scores, pair),
            reason=reason,
            rows=rows,
            problems=problems,
        )

    def _rows(self, number: int, sample: Sample) -> tuple[list[ShownRow], str]:
        """The rows, or why they cannot be made."""
        try:
            return [row for group in self.reader.groups(number, sample) for row in group], ""
        except SampleError as error:
            return [], str(error)

    def _answers(
        self,
        responses: Sequence[Response],
        choices: Choices,
        pair: tuple[int, int] | None,
        scores: Sequence[float | None],
    ) -> list[AnswerCard]:
        roles = {c.response: c.role for row in choices for c in row if c.role in (Role.CHOSEN, Role.REJECTED)}
        marked = dict[int, Markup]()
        if pair is not None:
            both = differences(*(responses[number].text for number in pair))
            marked = {n: _marked(stretches) for n, stretches in zip(pair, both, strict=True)}
        cards = [
            AnswerCard(
                number=number,
                role=roles[number].name.lower() if number in roles else "",
                text=marked.get(number) or seen_html(response.text),
                characters=len(response.text),
                model=response.model,
                sampling=", ".join(f"{name} {value}" for name, value in response.sampling.items()),
                score=scores[number],
                judgments=[self._judgment(judgment) for judgment in response.all_judgments()],
            )
            for number, response in enumerate(responses)
        ]
        return sorted(cards, key=lambda card: ORDER[card.role])

    def _judgment(self, judgment: Judgment) -> ShownJudgment:
        return ShownJudgment(
            judge=judgment.judge or UNNAMED,
            ratings=[self._rating(name, float(value)) for name, value in judgment.ratings.items()],
            rationale=seen_html(judgment.rationale),
            invalid=judgment.invalid,
            place=judgment.place,
        )

    def _rating(self, name: str, value: float) -> ShownRating:
        low, high = self.scales.get(name, (value, value))
        low, high = min(low, value, 0.0), max(high, value)  # an earlier judge's may lie beyond
        percent = 100 * (value - low) / (high - low) if high > low else 0.0
        return ShownRating(name, f"{value:.3g}", percent)


def _marked(stretches: Sequence[tuple[str, bool]]) -> Markup:
    pieces = [Markup("<mark>{}</mark>" if own else "{}").format(seen_html(text)) for text, own in stretches]
    return Markup("").join(pieces)


def _turns(messages: Sequence[Message]) -> list[Turn]:
    """Messages; a small label where a picture stands."""
    turns, pictures = list[Turn](), 0
    for message in messages:
        pieces = list[Markup]()
        for part in message.content:
            if isinstance(part, ImageSlot):
                pictures += 1
                pieces.append(Markup('<span class="slot">picture {}</span> ').format(pictures))
            else:
                pieces.append(seen_html(part.text))
        turns.append(Turn(message.role, Markup("").join(pieces)))
    return turns


def _gap(scores: Sequence[float | None], pair: tuple[int, int] | None) -> float | None:
    if pair is not None:
        chosen, rejected = (scores[number] for number in pair)
        return None if chosen is None or rejected is None else chosen - rejected
    known = [score for score in scores if score is not None]
    return max(known) - min(known) if len(known) > 1 else None
