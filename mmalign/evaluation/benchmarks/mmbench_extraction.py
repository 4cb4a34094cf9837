"""Which option an answer to a multiple-choice question picks, by VLMEvalKit's rule without a judge.

    picked_option("The answer is (B).", {"A": "a cat", "B": "a dog"})     -> "B"
    picked_option("I see a dog.", {"A": "a cat", "B": "a dog"})           -> "B"
    picked_option("Both of them.", {"A": "a cat", "B": "a dog"})          -> None

Rule    `can_infer` of VLMEvalKit's vlmeval/utils/matching_util.py at e8e78f0
Tests   tests/evaluation/benchmarks/test_mmbench.py
"""

import re
from collections.abc import Mapping

NO_OPTION = "Z"
"""The answer says that it picks none."""
TO_SPACES = str.maketrans(dict.fromkeys(".()[],:;!*#{}", " "))
TOO_EARLY = 5
"""Words from the end, from which on backwards a letter does not count: it may be an article."""
STATED = re.compile(r"(?i)(?:correct\s+)?answer\s+is\s+\**([ABCD])\**")
REFUSALS = (
    "Sorry, I can't help with images of people yet.",
    "I can't process this file.",
    "I'm sorry, but without the image provided",
    "Cannot determine the answer",
)
NOT_ANSWERED = "Failed to obtain answer via API"


def picked_option(answer: str, options: Mapping[str, str]) -> str | None:
    """The letter of the option that an answer picks, `NO_OPTION`, or None where the rule cannot tell.

    Args:
        answer: The model's text.
        options: Letter -> text.
    """
    return _by_letter(answer, options) or _by_text(answer, options)


def _by_letter(answer: str, options: Mapping[str, str]) -> str | None:
    if NOT_ANSWERED in answer:
        return None
    if any(refusal in answer for refusal in REFUSALS):
        return NO_OPTION
    words = answer.translate(TO_SPACES).split()
    letters = [letter for letter in options if letter in words]
    if len(letters) == 1 and words.index(letters[0]) > len(words) - TOO_EARLY:
        return letters[0]
    if not letters and NO_OPTION in words:
        return NO_OPTION
    stated = STATED.search(answer)
    return stated[1].upper() if stated and stated[1].upper() in options else None


def _by_text(answer: str, options: Mapping[str, str]) -> str | None:
    """The only option whose text stands in an answer that is not much longer than the options."""
    said = answer.lower()
    if len(said) > 2 * sum(map(len, options.values())):
        return None
    named = [letter for letter, text in options.items() if text.lower() in said]
    return named[0] if len(named) == 1 else None
