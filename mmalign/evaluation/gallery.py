"""Pictures with both answers: what alignment mended, what it left, what it made worse, chosen by a rule.

The rule: held-out descriptions are sorted by their false objects under base and aligned into four cases, and the first
of each case are shown, in the order of the held-out tasks. Nobody picked them.

Tests   tests/evaluation/test_gallery.py
"""

import base64
import io
import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from markupsafe import Markup, escape
from PIL import Image

from mmalign.evaluation.answers import Answer
from mmalign.world.language import Mention, false_claims, mentions
from mmalign.world.measures import describe_counts
from mmalign.world.scene import Scene
from mmalign.world.tasks import Task, task

CASES = (
    ("mended", "Mended", "fewer false objects after alignment", 4),
    ("worse", "Got worse", "more false objects after alignment", 4),
    ("left", "Not mended", "as many false objects as before", 2),
    ("lost", "True objects lost", "nothing false, but fewer true objects named than before", 2),
)
"""Key, heading, meaning, and how many are shown; together a dozen."""
NEVER_FALSE = "never"


class Card(NamedTuple):
    """One picture with its question and answers."""

    id: str
    pictures: list[str]
    """PNG as data URLs, at their own size; the page enlarges them."""
    question: str
    base: Markup
    """The answer, false objects inside `<mark>`."""
    aligned: Markup
    true: str
    """What is in the picture, as the world's gold answer puts it."""


class Case(NamedTuple):
    """A heading of the gallery."""

    key: str
    title: str
    meaning: str
    num_found: int
    cards: list[Card]


def gallery(answers: Sequence[Answer]) -> tuple[list[Case], int]:
    """The cases with their first cards, and the number of descriptions sorted.

    Args:
        answers: Of the world's tasks, in any order; all but descriptions are passed over.
    """
    described = sorted((answer for answer in answers if answer.kind == "describe"), key=lambda answer: answer.id)
    found: dict[str, list[Answer]] = {key: [] for key in (*(key for key, *_ in CASES), NEVER_FALSE)}
    for answer in described:
        found[case_of(answer)].append(answer)
    cases = [
        Case(key, title, meaning, len(found[key]), [_card(answer) for answer in found[key][:shown]])
        for key, title, meaning, shown in CASES
    ]
    return cases, len(described)


def case_of(answer: Answer) -> str:
    """Which case a description belongs to."""
    base, aligned = (describe_counts(task(answer.id), text) for text in (answer.base, answer.aligned))
    if base.num_false != aligned.num_false:
        return "mended" if aligned.num_false < base.num_false else "worse"
    if base.num_false:
        return "left"
    return "lost" if aligned.num_covered < base.num_covered else NEVER_FALSE


def mark_false(text: str, scenes: Iterable[Scene]) -> Markup:
    """The text as HTML, with every claim of an object that is not there inside `<mark>`."""
    pieces: list[Markup] = []
    end = 0
    for start, stop in _false_spans(text, list(scenes)):
        pieces.append(escape(text[end:start]))
        pieces.append(Markup('<mark title="not in the picture">{}</mark>').format(text[start:stop]))
        end = stop
    return Markup("").join([*pieces, escape(text[end:])])


def _false_spans(text: str, scenes: list[Scene]) -> list[tuple[int, int]]:
    """Where the false claims stand, in the text's order."""
    kinds = {(claim.colour, claim.shape) for claim in false_claims(text, scenes)}
    spans = []
    for colour, shape in kinds:
        pattern = rf"\b(?:{colour}\s+)(?:\w+\s+)?{shape}(?:e?s)?\b" if colour else rf"\b{shape}(?:e?s)?\b"
        for match in re.finditer(pattern, text, flags=re.IGNORECASE):
            if _is_claim(mentions(text[: match.end()]), colour, shape):
                spans.append(match.span())
    return sorted(spans)


def _is_claim(said: list[Mention], colour: str | None, shape: str) -> bool:
    """Whether the last mention is that claim; the same words may be a denial elsewhere in the text."""
    return bool(said) and (said[-1].colour, said[-1].shape) == (colour, shape) and not said[-1].negated


def _card(answer: Answer) -> Card:
    asked: Task = task(answer.id)
    return Card(
        id=answer.id,
        pictures=[data_url(image) for image in asked.images],
        question=asked.question.text,
        base=mark_false(answer.base, asked.scenes),
        aligned=mark_false(answer.aligned, asked.scenes),
        true=asked.gold,
    )


def data_url(image: Image.Image) -> str:
    """A picture as a PNG inside a URL, for pages and for the OpenAI API."""
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
