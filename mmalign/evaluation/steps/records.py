"""What the three steps write, one a line, ids joining them.

    answers.jsonl     {"id": "81", "turns": ["Aloha! ...", "A tropical ..."], "model": "embedded+dpo", ...}
    judgments.jsonl   {"id": "81/1", "text": "... Rating: [[9]]", "judge": "gpt-4-0613", "prompt_hash": "9f2c...", ...}

Tests   tests/evaluation/steps/test_records.py
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import NamedTuple

ANSWERS_FILE = "answers.jsonl"
JUDGMENTS_FILE = "judgments.jsonl"
SCORE_FILE = "score.json"
ITEMS_FILE = "scores.jsonl"
HASH_DIGITS = 32


class Answer(NamedTuple):
    """What a model said to one question."""

    id: str
    turns: Sequence[str]
    """One text for each turn of the question."""
    model: str = ""
    """Who said it."""
    pictures: Sequence[Sequence[str]] = ()
    """Names of the pictures that it was shown, turn by turn; empty where nobody wrote them down."""
    finish_reasons: Sequence[str] = ()
    """Of each turn: `stop`, or `length` where it was cut."""
    failure: str = ""
    """Why there is no answer: a picture that cannot be read, a server that refused."""

    @property
    def text(self) -> str:
        """Of the last turn; most benchmarks have only one."""
        return self.turns[-1] if self.turns else ""


class JudgeReply(NamedTuple):
    """What a judge said to one call, raw; scores are read from it again and again."""

    id: str
    """Of the call."""
    text: str
    """Of the last try."""
    judge: str = ""
    """As the server names it, often more exactly than it was asked for."""
    prompt_hash: str = ""
    """See `prompt_hash`; of the call as it was first asked. Empty where a published file has no prompts."""
    temperature: float = 0.0
    """Of the last try."""
    tries: Sequence[str] = ()
    """Texts of the tries before the last that could not be used."""
    failure: str = ""
    """Why there is no reply."""
    score: float | Sequence[float] | None = None
    """What a published file says that it read; ours is read from `text` and never from here."""


def prompt_hash(messages: Sequence[Mapping[str, str]]) -> str:
    """Hash of what a judge is asked, by which a stored reply is found again.

    Args:
        messages: In OpenAI's form, text only.
    """
    plain = json.dumps([[each["role"], each["content"]] for each in messages], ensure_ascii=False)
    return hashlib.sha256(plain.encode("utf-8", "replace")).hexdigest()[:HASH_DIGITS]
