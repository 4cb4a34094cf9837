"""From a judge's reply to ratings: the last JSON object of the text, checked, never mended.

    read_ratings('I looked. {"reasons": [...], "ratings": [{"response": 1, "helpfulness": 4, ...}, ...]}', aspects, 4)
    -> (Rated({"helpfulness": 4, ...}, "The circle is red, as it says."), ...)      # in the order that was shown

What does not fit is a `ReplyError` with the reason, which the judge is told when it is asked again.

Tests   tests/judges/test_parse.py
"""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from mmalign.judges.aspects import AspectSet

MAX_SHOWN = 60
"""Characters of a reply that a reason quotes."""


MAX_BROKEN = 1000
"""Objects that begin and do not end, at most: each costs a look at the rest of the text."""
_START = re.compile(r'\{\s*["}]')


class ReplyError(ValueError):
    """A reply without usable ratings."""


class Rated(NamedTuple):
    """What a reply says of one response."""

    ratings: Mapping[str, int]
    reason: str


class Verdict(NamedTuple):
    """What a reply says of two responses."""

    better: int
    """1 or 2, as they were shown."""
    reason: str


class _TwiceError(ReplyError):
    """A key stands twice in an object, so nobody knows which value counts."""


def read_ratings(text: str, aspects: AspectSet, n: int) -> tuple[Rated, ...]:
    """Ratings of the responses, in the order in which they were shown.

    Args:
        text: Of the reply.
        aspects: Names and scale.
        n: How many responses were shown.

    Raises:
        ReplyError: No JSON object; not one entry for each response; a rating that is missing, no whole number, or off
            the scale.
    """
    reply = last_object(text)
    entries = reply.get("ratings")
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise ReplyError(f"the last JSON object has no list `ratings`: {_shown(reply)}")
    numbers = [_whole(entry.get("response")) for entry in entries]
    if sorted(number or 0 for number in numbers) != list(range(1, n + 1)):
        raise ReplyError(f"`ratings` must rate responses 1 to {n}, each once, not {_shown(numbers)}")
    reasons = _reasons(reply)
    by_number = {number or 0: entry for number, entry in zip(numbers, entries, strict=True)}
    return tuple(Rated(_ratings(by_number[i], aspects, i), _reason(by_number[i], reasons, i)) for i in range(1, n + 1))


def read_verdict(text: str) -> Verdict:
    """Which of two responses is better.

    Raises:
        ReplyError: The reply does not say.
    """
    reply = last_object(text)
    better = _whole(reply.get("better"))
    if better not in (1, 2):
        raise ReplyError(f"`better` must be 1 or 2: {_shown(reply)}")
    return Verdict(better, _text(reply.get("reason")))


def last_object(text: str) -> dict[str, Any]:
    """The last JSON object that stands in a text by itself, not inside of another.

    One behind which another begins and breaks off is not the last: a judge may quote whole ratings from a response, and
    be cut before it comes to its own. Nor does one stand by itself where a broken one before it ends behind it.

    Raises:
        ReplyError: There is none, or a key of it stands twice.
    """
    decoder = json.JSONDecoder(object_pairs_hook=_without_twins, parse_constant=_refuse)
    found, end, failed, start = None, 0, 0, _START.search(text)
    while start is not None and failed < MAX_BROKEN:
        try:
            found, end = decoder.raw_decode(text, start.start())
        except _TwiceError:
            raise
        except RecursionError:
            raise ReplyError("nested too deeply to be a rating") from None
        except ValueError:
            found, end, failed = None, start.start() + 1, failed + 1
        start = _START.search(text, end)
    if start is not None:
        raise ReplyError(f"{MAX_BROKEN} broken JSON objects")
    if not text.strip():
        raise ReplyError("the reply is empty")
    if not isinstance(found, dict) or (failed and "}" in text[end:]):
        raise ReplyError(f"no whole JSON object at the end: {_shown(text[-MAX_SHOWN:])}")
    return found


def _without_twins(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise _TwiceError("a key stands twice in one JSON object")
    return found


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")


def _ratings(entry: Mapping[str, Any], aspects: AspectSet, number: int) -> dict[str, int]:
    low, high = aspects.scale
    found = dict[str, int]()
    for name in aspects.ratings:
        value = _whole(entry.get(name))
        if value is None or not low <= value <= high:
            given = _shown(entry.get(name)) if name in entry else "missing"
            raise ReplyError(f"response {number}: `{name}` must be a whole number from {low} to {high}, is {given}")
        found[name] = value
    return found


def _whole(value: object) -> int | None:
    """A whole number, also where it is written 4.0: JSON has one kind of number. Text is none."""
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value // 1:
        return None
    return int(value)


def _reasons(reply: Mapping[str, Any]) -> dict[int, str]:
    """Reasons by the number of the response, as far as there are any: ratings count without."""
    entries = reply.get("reasons")
    found = [each for each in entries if isinstance(each, dict)] if isinstance(entries, list) else []
    return {number: _text(each.get("reason")) for each in found if (number := _whole(each.get("response")))}


def _reason(entry: Mapping[str, Any], reasons: Mapping[int, str], number: int) -> str:
    return reasons.get(number) or _text(entry.get("reason"))


def _text(value: object) -> str:
    return value.strip() if isinstance(value, str) else ""


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]} ..."
