"""What AlpacaEval's library writes and reads: instructions, answers to them, preferences between two answers.

    model_outputs.json    {"instruction": "Name three ...", "output": "...", "generator": "alpaca-7b"}
    annotations.json      {"instruction": "Name three ...", "output_1": "...", "output_2": "...", "preference": 2, ...}

Instructions have no ids there; ours are made of their words, `name-three-famous-actors-1f0c22ab`.

Tests   tests/evaluation/benchmarks/test_alpaca_eval.py
"""

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

ID_WORDS = 4
ID_DIGITS = 8
WORD = re.compile(r"[a-z0-9]+")
DRAW = 1.5


class Instruction(NamedTuple):
    """One question, and what the baseline says."""

    text: str
    output: str
    generator: str = ""
    dataset: str = ""

    @property
    def id(self) -> str:
        """See `instruction_id`."""
        return instruction_id(self.text)


class Annotation(NamedTuple):
    """One comparison of two answers."""

    preference: float | None
    """1 the baseline's, 2 the model's, between: how sure the judge is; None where it gave none."""
    instruction: str = ""
    baseline_output: str = ""
    output: str | None = None
    """The model's; None where a file has preferences alone."""
    length: int | None = None
    """Of that, in characters."""
    generator: str = ""
    baseline: str = ""
    """Who gave the baseline's answer."""
    dataset: str = ""
    said: str = ""
    """The judge's words; `model_1` in them may be either, since the order was drawn."""


def instruction_id(text: str) -> str:
    """The id of an instruction: its first words, and a hash.

    Args:
        text: The instruction.
    """
    words = WORD.findall(text.lower())[:ID_WORDS]
    return "-".join([*words, hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()[:ID_DIGITS]])


def parse_instruction(row: Mapping[str, Any]) -> Instruction:
    """A row of model_outputs.json.

    Raises:
        KeyError: It has no instruction or no output.
    """
    return Instruction(
        str(row["instruction"]), str(row["output"]), row.get("generator") or "", row.get("dataset") or ""
    )


def parse_annotation(text: str) -> Annotation:
    """A row of annotations.json, as text; one without a preference where it is none.

    Args:
        text: JSON.
    """
    try:
        row = json.loads(text)
    except ValueError:
        row = None
    if not isinstance(row, dict):
        return Annotation(None)
    output, length = row.get("output_2"), row.get("len_2")
    output = None if output is None else str(output)
    return Annotation(
        preference=parse_preference(row.get("preference")),
        instruction=str(row.get("instruction") or ""),
        baseline_output=str(row.get("output_1") or ""),
        output=output,
        length=len(output) if output is not None else length if isinstance(length, int) else None,
        generator=str(row.get("generator_2") or ""),
        baseline=str(row.get("generator_1") or ""),
        dataset=str(row.get("dataset") or ""),
        said=_said(row.get("preference_raw_completion")),
    )


def parse_preference(value: object) -> float | None:
    """As the library takes it: 0 is an old way to say draw, and what lies outside 1 to 2 is none.

    Args:
        value: As it stands in a file.
    """
    if not isinstance(value, int | float):
        return None
    if value == 0:
        return DRAW
    return float(value) if 1 <= value <= 2 else None  # false for NaN


def _said(completion: object) -> str:
    """The words of a completion, which is a text or a choice of the API."""
    match completion:
        case {"text": str(text)} | str(text):
            return text
        case _:
            return ""
