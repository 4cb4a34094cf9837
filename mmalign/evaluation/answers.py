"""`answers.jsonl`: both models' answers, one task a line.

{"id": "world/heldout/describe/000003", "kind": "describe", "prompt": "What do you see?",
 "base": "A red circle and a yellow moon.", "aligned": "A red circle."}

`base_answers.jsonl`: the base's alone, in a folder of its own, for the evaluations of several adapters to share.

{"id": "world/heldout/describe/000003", "base": "A red circle and a yellow moon."}
"""

from pathlib import Path
from typing import NamedTuple

from mmalign.data.records import read_records

ANSWERS_FILE = "answers.jsonl"
BASE_ANSWERS_FILE = "base_answers.jsonl"


class Answer(NamedTuple):
    """What both models said to one task."""

    id: str
    kind: str
    prompt: str
    """The last user turn's text."""
    base: str
    aligned: str


class BaseAnswer(NamedTuple):
    """What the base said to one task."""

    id: str
    base: str


def read_answers(folder: Path) -> list[Answer]:
    """The answers of an evaluation folder, in the order in which they were given.

    Args:
        folder: `--out` of `mmalign evaluate`.

    Raises:
        FileNotFoundError: There are none.
        ValueError: A line is damaged.
    """
    return read_records(folder / ANSWERS_FILE, Answer)
