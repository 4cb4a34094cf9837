"""The exact judge: HelpSteer's five ratings, 0-4, from what the picture really shows.

The rules were fixed before any alignment result was seen and follow the rubric of HelpSteer2 (App. G.3.1):

*Descriptions.* Let F be the claimed kinds that are not there, M the things not named, W the true things with a wrong
size or place.

    correctness   4 - (F: 0 -> 0, 1 -> 2, 2 -> 3, 3+ -> 4) - min(2, M) - min(2, W); 0 if nothing true is named
    helpfulness   4 - min(2, F) - min(2, M) - min(1, W);                            0 if nothing true is named

*Questions with one right answer.* Right: 4 and 4; right, with F further false claims: as a description with these F.
Wrong: 0 and 1. Nothing that can be read as an answer: 0 and 0.

*Text-only tasks.* Right to the letter (outer spaces and a last full stop aside): 4 and 4. Else, if at least half of the
items stand where they belong: 2 and 2. Else 0 and 1; an empty answer 0 and 0.

*All answers.* Coherence is 4, less 1 if a sentence is left open, less 1 for each repeated claim, at most 2; 0 if the
answer is empty. Complexity: 0 up to three words, 1 up to 25, 2 above. Verbosity is the number of words against the gold
answer's: up to 3 words 0, below 0.75 times 1, up to 1.25 times 2, up to twice 3, above 4.

Tests   tests/world/test_judge.py
"""

import re
from typing import NamedTuple

from mmalign.world.language import (
    claims,
    false_claims,
    listing,
    name,
    read_number,
    read_place,
    read_word,
    read_yes_no,
)
from mmalign.world.scene import COLOURS, Scene
from mmalign.world.tasks import Task

_WRONG, _UNREAD = (0, 1), (0, 0)


class Ratings(NamedTuple):
    """HelpSteer's ratings, integers 0-4, with the reason in words."""

    helpfulness: int
    correctness: int
    coherence: int
    complexity: int
    verbosity: int
    rationale: str

    def scores(self) -> dict[str, int]:
        """The five numbers by name, as a sample record holds them."""
        return {key: value for key, value in self._asdict().items() if isinstance(value, int)}

    @property
    def quality(self) -> int:
        """Helpfulness + correctness + coherence, 0-12: what the paper builds its pairs on."""
        return self.helpfulness + self.correctness + self.coherence


class WorldJudge:
    """Rates any answer to a task of the embedded world; equal input, equal ratings."""

    name = "mmalign-world-exact"

    def rate(self, task: Task, answer: str) -> Ratings:
        """Ratings of one answer.

        Args:
            task: What was asked, and what the pictures show.
            answer: Any text.
        """
        if not answer.strip():
            return Ratings(0, 0, 0, 0, 0, "The answer is empty.")
        match task.form:
            case "describe":
                correctness, helpfulness, reason = _rate_description(task.scenes, answer)
            case "text":
                correctness, helpfulness, reason = _rate_text(task.value, answer)
            case _:
                correctness, helpfulness, reason = _rate_reply(task, answer)
        coherence, style = _rate_coherence(task, answer)
        return Ratings(
            helpfulness=helpfulness,
            correctness=correctness,
            coherence=coherence,
            complexity=_complexity(answer),
            verbosity=_verbosity(answer, task.gold),
            rationale=f"{reason}{style}",
        )


def is_right(task: Task, answer: str) -> bool:
    """Whether an answer to a question with one right answer, or to a text-only task, is right.

    Raises:
        ValueError: The task is a description; use `measures.describe_counts`.
    """
    if task.form == "describe":
        raise ValueError(f"{task.id} asks for a description; measure it with `measures.describe_counts`.")
    if task.form == "text":
        return _normal(answer) == _normal(task.value)
    return read_answer(task, answer) == task.value


def read_answer(task: Task, answer: str) -> str | None:
    """What an answer says, in the form of `Question.value`; None if it does not say it."""
    match task.form:
        case "yes_no":
            return read_yes_no(answer)
        case "number":
            number = read_number(answer)
            return None if number is None else str(number)
        case "place":
            return read_place(answer)
        case "thing":
            named = [name(each.kind) for scene in task.scenes for each in scene.things]
            said = [f"{claim.colour} {claim.shape}" for claim in claims(answer)]
            return next((thing for thing in said if thing in named), said[0] if said else None)
        case "colour":
            return read_word(answer, COLOURS)
        case "size":
            return read_word(answer, ("small", "large"))
        case "ordinal":
            return read_word(answer, ("first", "second"))
        case "no_picture":
            return "" if re.search(r"\b(?:no|not|cannot|can't)\b", answer.lower()) and not claims(answer) else None
        case _:
            return None


def _rate_description(scenes: tuple[Scene, ...], answer: str) -> tuple[int, int, str]:
    """Correctness, helpfulness and the reason, for a description."""
    said = claims(answer)
    things = [thing for scene in scenes for thing in scene.things]
    false = false_claims(answer, scenes)
    missing = [thing for thing in things if not any(claim.fits(thing) for claim in said)]
    wrong = [c for c in said if any(map(c.fits, things)) and not any(map(c.is_exact, things))]
    reasons = []
    if false:
        reasons.append(f"Not there: {listing(str(claim) for claim in false)}.")
    if missing:
        reasons.append(f"Missing: {listing(name(thing.kind) for thing in missing)}.")
    if wrong:
        reasons.append(f"Wrong size or place: {listing(str(claim) for claim in wrong)}.")
    if len(missing) == len(things):
        return (*_UNREAD, " ".join(["Names nothing that is there.", *reasons]))
    correctness = 4 - _falsehood(len(false)) - min(2, len(missing)) - min(2, len(wrong))
    helpfulness = 4 - min(2, len(false)) - min(2, len(missing)) - min(1, len(wrong))
    return max(0, correctness), max(0, helpfulness), " ".join(reasons) or "Everything there is named, nothing else."


def _rate_reply(task: Task, answer: str) -> tuple[int, int, str]:
    """Correctness, helpfulness and the reason, for a question with one right answer."""
    read = read_answer(task, answer)
    if read is None:
        return (*_UNREAD, f"Does not answer; right is {task.gold!r}.")
    if read != task.value:
        return (*_WRONG, f"Says {read!r}; right is {task.value!r}.")
    false = false_claims(answer, task.scenes)
    if false:
        rest = f"Right, but not there: {listing(str(claim) for claim in false)}."
        return 4 - _falsehood(len(false)), 4 - min(2, len(false)), rest
    return 4, 4, "Right."


def _rate_text(value: str, answer: str) -> tuple[int, int, str]:
    """Correctness, helpfulness and the reason, for a text-only task."""
    if _normal(answer) == _normal(value):
        return 4, 4, "Right."
    wanted, got = value.split(), answer.split()
    in_place = sum(a == b for a, b in zip(wanted, got, strict=False))
    if 2 * in_place >= max(len(wanted), len(got)):
        return 2, 2, f"Partly right; right is {value!r}."
    return (*_WRONG, f"Wrong; right is {value!r}.")


def _rate_coherence(task: Task, answer: str) -> tuple[int, str]:
    """Coherence, and what is to be said against it."""
    said = [(claim.colour, claim.shape, claim.size, claim.place) for claim in claims(answer)]
    repeats = len(said) - len(set(said)) if task.form == "describe" else 0
    is_open = task.form != "text" and len(answer.split()) > 3 and answer.strip()[-1] not in ".!?"
    remarks = (" Repeats itself." if repeats else "") + (" Ends in the middle of a sentence." if is_open else "")
    return 4 - min(2, repeats) - int(is_open), remarks


def _falsehood(num_false: int) -> int:
    """What false claims cost in correctness: one is a minor hallucination (2), several leave little (1, 0)."""
    return 0 if num_false == 0 else min(4, num_false + 1)


def _complexity(answer: str) -> int:
    num_words = len(answer.split())
    return 0 if num_words <= 3 else 1 if num_words <= 25 else 2


def _verbosity(answer: str, gold: str) -> int:
    num_words = len(answer.split())
    if num_words <= 3:
        return 0
    ratio = num_words / len(gold.split())
    return 1 if ratio < 0.75 else 2 if ratio <= 1.25 else 3 if ratio <= 2 else 4


def _normal(text: str) -> str:
    return text.strip().removesuffix(".")
