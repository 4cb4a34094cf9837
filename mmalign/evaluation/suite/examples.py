"""Where the two models differ most, question by question, chosen by a rule.

The rule: questions that both models have a score for, by how much the score changed. The largest gains, the largest
losses, and ties whose answers differ; equal ones in an order that is drawn from their ids. Nobody picked them.

Tests   tests/evaluation/suite/test_examples.py
"""

import base64
import hashlib
import io
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from PIL import Image, ImageOps

from mmalign.evaluation.steps.scored import Item
from mmalign.evaluation.suite.results import Bench, SuiteResults

SHOWN = {"gained": 3, "lost": 3, "tied": 2}
TITLES = {"gained": "Gained most", "lost": "Lost most", "tied": "As good as before"}
THUMBNAIL = 320
"""Pixels of a picture's longer side."""
QUALITY = 80
OPENING, WHOLE = 420, 6_000
"""Characters of a text that are shown at once, and at all."""


class Text(NamedTuple):
    """What somebody wrote; a long one is folded."""

    opening: str
    rest: str = ""
    cut: int = 0
    """Characters that the page leaves out."""


class Shown(NamedTuple):
    """A picture, or why there is none."""

    name: str
    url: str
    problem: str = ""


class Given(NamedTuple):
    """One model's answer, what it was given, and what the judge said."""

    answer: Text
    score: str
    note: Text


class Example(NamedTuple):
    """One question with both answers."""

    id: str
    category: str
    question: Text
    expected: Text
    pictures: Sequence[Shown]
    base: Given
    aligned: Given


class Case(NamedTuple):
    """A heading."""

    key: str
    title: str
    num_found: int
    examples: Sequence[Example]


class BenchExamples(NamedTuple):
    """The cases of one benchmark."""

    name: str
    title: str
    num_common: int
    """Questions that both models have a score for."""
    cases: Sequence[Case]


def examples_of(results: SuiteResults) -> list[BenchExamples]:
    """Of every benchmark that can be compared and has questions to look at."""
    found = [_of_bench(bench) for bench in results.benches if not bench.problem]
    return [each for each in found if each.num_common]


def sort_out(base: Sequence[Item], aligned: Sequence[Item]) -> tuple[int, dict[str, list[tuple[Item, Item]]]]:
    """How many questions both have a score for, and these by case, in the order of the rule.

    Args:
        base: Questions under the base.
        aligned: Under the aligned model, in any order.
    """
    by_id = {item.id: item for item in aligned}
    pairs = [(item, by_id[item.id]) for item in base if item.id in by_id]
    scored = [(one, other) for one, other in pairs if one.score is not None and other.score is not None]
    drawn = sorted(scored, key=lambda pair: hashlib.sha256(pair[0].id.encode("utf-8", "replace")).digest())
    cases = {
        "gained": sorted((pair for pair in drawn if _change(pair) > 0), key=_change, reverse=True),
        "lost": sorted((pair for pair in drawn if _change(pair) < 0), key=_change),
        "tied": [pair for pair in drawn if _change(pair) == 0 and pair[0].answer != pair[1].answer],
    }
    return len(scored), cases


def text_of(text: str) -> Text:
    """A text as the page shows it: a long one opens with whole words, and has an end."""
    text = text.strip()
    if len(text) <= OPENING:
        return Text(text)
    opening = text[:OPENING].rsplit(maxsplit=1)[0]
    return Text(opening, text[len(opening) : WHOLE], max(0, len(text) - WHOLE))


@lru_cache(maxsize=512)
def thumbnail(path: str) -> Shown:
    """A picture as a small JPEG inside a URL, or why it cannot be shown."""
    name = Path(path).name
    try:
        with Image.open(path) as image:
            image.draft("RGB", (THUMBNAIL, THUMBNAIL))
            small = ImageOps.exif_transpose(image).convert("RGB")
            small.thumbnail((THUMBNAIL, THUMBNAIL))
    except FileNotFoundError:
        return Shown(name, "", f"{name} is not there any more")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        return Shown(name, "", f"{name} cannot be read: {type(error).__name__}")
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=QUALITY, optimize=True)
    return Shown(name, f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}")


def _of_bench(bench: Bench) -> BenchExamples:
    if bench.base is None or bench.aligned is None:
        return BenchExamples(bench.name, bench.title, 0, ())
    num_common, pairs = sort_out(bench.base.scored.items, bench.aligned.scored.items)
    cases = [
        Case(key, title, len(pairs[key]), [_example(*pair) for pair in pairs[key][: SHOWN[key]]])
        for key, title in TITLES.items()
    ]
    return BenchExamples(bench.name, bench.title, num_common, cases)


def _example(base: Item, aligned: Item) -> Example:
    return Example(
        id=base.id,
        category=base.category,
        question=text_of(base.question),
        expected=text_of(base.expected),
        pictures=[thumbnail(path) for path in base.pictures or aligned.pictures],
        base=_given(base),
        aligned=_given(aligned),
    )


def _given(item: Item) -> Given:
    return Given(
        text_of(item.answer) if item.answer.strip() else Text("(nothing)"), f"{item.score:g}", text_of(item.note)
    )


def _change(pair: tuple[Item, Item]) -> float:
    base, aligned = pair
    return float((aligned.score or 0.0) - (base.score or 0.0))
