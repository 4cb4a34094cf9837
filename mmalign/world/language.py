"""The world's language: how things are named in answers, and how any text is read back.

    phrase(thing, detailed=True)                       -> "a small red circle in the top left"
    mentions("No star, but a big red circle on top.")  -> [Mention("star", negated=True), Mention("circle", "red", ...)]

The reader works on any text, not only on the world's own; what it can't read is no mention.

Tests   tests/world/test_language.py
"""

import re
from collections.abc import Iterable
from typing import NamedTuple

from mmalign.world.scene import COLOURS, SHAPES, Kind, Scene, Thing

NUMBER_WORDS = ("zero", "one", "two", "three", "four", "five", "six")
PLACES = ("top left", "top right", "bottom left", "bottom right", "top", "bottom", "left", "right", "centre")
_PREPOSITIONS = {"top": "at the", "bottom": "at the", "left": "on the", "right": "on the"}
_PLURALS = {shape: shape + ("es" if shape == "cross" else "s") for shape in SHAPES}
_SINGULARS = {plural: shape for shape, plural in _PLURALS.items()} | {shape: shape for shape in SHAPES}
_SIZE_WORDS = {"small": "small", "little": "small", "tiny": "small", "large": "large", "big": "large", "huge": "large"}

_SIZE = "|".join(_SIZE_WORDS)
_PLACE = r"(?:top|upper|bottom|lower)[ -](?:left|right)|top|bottom|left|right|cent(?:re|er)|middle"
_MENTION = re.compile(
    rf"\b(?:(?P<size>{_SIZE})\s+)?(?:(?P<colour>{'|'.join(COLOURS)})\s+)?(?:(?P<late_size>{_SIZE})\s+)?"
    rf"(?P<shape>{'|'.join(sorted(_SINGULARS, key=len, reverse=True))})\b"
    rf"(?:\s+(?:that\s+)?(?:is\s+|are\s+)?(?:in|at|on|near|to)\s+(?:the\s+)?(?P<place>{_PLACE})\b)?"
)
_PLACE_WORD = re.compile(rf"\b(?:{_PLACE})\b")
_CLAUSE_END = re.compile(r"[.,;:!?\n]|\bbut\b")
_NEGATION = re.compile(r"\b(?:no|not|without|neither|nor|never|cannot)\b|n't\b")
_NUMBER = re.compile(rf"\b(?:\d+|{'|'.join(NUMBER_WORDS)}|no|none)\b")


class Mention(NamedTuple):
    """A shape named in a text, with what the text says of it; None where it says nothing."""

    shape: str
    colour: str | None = None
    size: str | None = None
    place: str | None = None
    negated: bool = False

    def fits(self, thing: Thing) -> bool:
        """Whether the mention can mean this thing, by colour and shape; size and place may still be wrong."""
        return thing.shape == self.shape and self.colour in (None, thing.colour)

    def is_exact(self, thing: Thing) -> bool:
        """Whether all that the mention says holds for this thing."""
        return self.fits(thing) and self.size in (None, thing.size) and self.place in (None, thing.place)

    def __str__(self) -> str:
        """What was said, in words."""
        named = " ".join(word for word in (self.size, self.colour, self.shape) if word)
        return f"{named} {place_phrase(self.place)}" if self.place else named


def with_article(words: str) -> str:
    """Put an article in front: "a red circle", "an orange star"."""
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def plural(shape: str) -> str:
    """The shape's plural."""
    return _PLURALS[shape]


def name(kind: Kind) -> str:
    """Colour and shape in words: "red circle"."""
    return f"{kind.colour} {kind.shape}"


def place_phrase(place: str) -> str:
    """Where, in words: "in the top left", "at the top", "on the left", "in the centre"."""
    return f"{_PREPOSITIONS.get(place, 'in the')} {place}"


def phrase(thing: Thing, detailed: bool) -> str:
    """A thing in a description: "a red circle", or with its size and place."""
    if not detailed:
        return with_article(name(thing.kind))
    return f"{with_article(f'{thing.size} {name(thing.kind)}')} {place_phrase(thing.place)}"


def listing(phrases: Iterable[str]) -> str:
    """Join phrases: "a", "a and b", "a, b and c"."""
    *head, last = phrases
    return f"{', '.join(head)} and {last}" if head else last


def mentions(text: str) -> list[Mention]:
    """Every shape that a text names, in the text's order.

    A mention is negated if a word of negation stands before it in the same clause; commas, full stops and "but" end
    a clause.
    """
    lowered = text.lower()
    found = []
    for match in _MENTION.finditer(lowered):
        ends = [end.end() for end in _CLAUSE_END.finditer(lowered, 0, match.start())]
        clause = lowered[ends[-1] if ends else 0 : match.start()]
        size, place = match["size"] or match["late_size"], match["place"]
        found.append(
            Mention(
                shape=_SINGULARS[match["shape"]],
                colour=match["colour"],
                size=_SIZE_WORDS[size] if size else None,
                place=_standard_place(place) if place else None,
                negated=_NEGATION.search(clause) is not None,
            )
        )
    return found


def claims(text: str) -> list[Mention]:
    """The things that a text says are there: its mentions without the negated ones."""
    return [mention for mention in mentions(text) if not mention.negated]


def false_claims(text: str, scenes: Iterable[Scene]) -> list[Mention]:
    """Claims that fit nothing in any of the scenes, each colour and shape once."""
    things = [thing for scene in scenes for thing in scene.things]
    false = [claim for claim in claims(text) if not any(claim.fits(thing) for thing in things)]
    return list({(claim.colour, claim.shape): claim for claim in false}.values())


def read_place(text: str) -> str | None:
    """The first place that a text names."""
    match = _PLACE_WORD.search(text.lower())
    return _standard_place(match[0]) if match else None


def read_number(text: str) -> int | None:
    """The first number that a text names; "no" and "none" are zero."""
    match = _NUMBER.search(text.lower())
    if match is None:
        return None
    word = match[0]
    if word in ("no", "none"):
        return 0
    return int(word) if word.isdigit() else NUMBER_WORDS.index(word)


def read_yes_no(text: str) -> str | None:
    """Read "yes" or "no" by the first such word; a plain claim means yes, a plain denial no; None if neither."""
    match = re.search(r"\b(?:yes|no|not)\b", text.lower())
    if match:
        return "yes" if match[0] == "yes" else "no"
    return "yes" if claims(text) else None


def read_word(text: str, choices: Iterable[str]) -> str | None:
    """The first of the choices that stands in a text as a word."""
    match = re.search(rf"\b(?:{'|'.join(choices)})\b", text.lower())
    return match[0] if match else None


def _standard_place(words: str) -> str:
    words = words.replace("-", " ").replace("upper", "top").replace("lower", "bottom")
    return "centre" if words in ("center", "middle", "centre") else words
