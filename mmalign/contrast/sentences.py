r"""An answer in sentences, and what is done to one before it is written anew.

    "Yes, it is. It has 2.5 wheels."  ->  ["Yes, it is.", " It has 2.5 wheels."]     white space leads, nothing is lost

A sentence ends behind `.`, `!` or `?` (and closing quotes or brackets) where white space follows, and before a line
break. Abbreviations end it, too: cutting there costs a short first part, no more. The paper (BDHS) does not say how it
splits; regular expressions are a choice of ours.

Tests   tests/contrast/test_sentences.py
"""

import re
from itertools import pairwise

END = r"[.!?]+[\"')\]]*(?=\s)|(?<=\S)(?=\n)"
"""Where a sentence ends; the white space behind it tells a full stop from a decimal point."""
_FINISHED = re.compile(r"[.!?][\"')\]]*\s*$")
_YES_NO = re.compile(r"(\s*)(Yes|yes|No|no)\b")
_OTHER = {"Yes": "No", "yes": "no", "No": "Yes", "no": "yes"}


def split(text: str) -> list[str]:
    """The sentences, each with the white space before it; joined they are the text."""
    ends = [0, *(match.end() for match in re.finditer(END, text)), len(text)]
    parts = [text[start:end] for start, end in pairwise(ends)]
    whole = list[str]()
    for part in parts:
        if part.strip() or not whole:
            whole.append(part)
        else:  # white space at the very end
            whole[-1] += part
    return [part for part in whole if part]


def num_words(text: str) -> int:
    """Words between white space."""
    return len(text.split())


def first_words(text: str, count: int) -> str:
    """The text up to the end of a word, with the white space before and between.

    Args:
        text: With at least so many words.
        count: Words to keep; 0 keeps nothing.
    """
    if count == 0:
        return ""
    return text[: [match.end() for match in re.finditer(r"\S+", text)][count - 1]]


def swap_yes_no(sentence: str) -> str | None:
    """The sentence with its first word turned round, in its own case; None where that is neither yes nor no.

    The paper's pattern would find `No` in `Not` and `Nobody`, too; here it must be a word.
    """
    match = _YES_NO.match(sentence)
    return f"{match[1]}{_OTHER[match[2]]}{sentence[match.end() :]}" if match else None


def is_finished(sentence: str) -> bool:
    """Whether it ends with a full stop or the like, so that nothing is left to complete."""
    return bool(_FINISHED.search(sentence))
