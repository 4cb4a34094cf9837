"""MMBench's questions, from the authors' TSV or rows of the hub, as one list of records.

    read_questions("mmbench_dev_20230712.tsv")
        -> [MMBenchQuestion(241, "Which one is the correct caption?", "", {"A": ..., "B": ...}, "B", ...), ...]

A question stands there once for each rotation of its options; rotation k has its index + k * 1,000,000.

Tests   tests/evaluation/benchmarks/test_mmbench.py
"""

import base64
import hashlib
import string
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from mmalign.evaluation.steps.sources import records

INDICES_A_ROTATION = 1_000_000
MAX_INDEX_CHARACTERS = 64
"""A picture's cell no longer than this is the index of the row that has the picture."""
EMPTY_CELLS = frozenset((
    "", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "<NA>", "N/A", "NA",
    "NULL", "NaN", "None", "n/a", "nan", "null",
))  # fmt: skip
"""What pandas, with which the official scripts read the file, takes for an empty cell."""


class MMBenchQuestion(NamedTuple):
    """One rotation of a question."""

    row_id: int
    """`index` of the file."""
    question: str
    hint: str
    options: Mapping[str, str]
    """Letter -> text."""
    answer: str
    """Its letter; empty where it is not published."""
    category: str
    l2_category: str
    picture: str | bytes
    """Base64, or encoded."""

    @property
    def group(self) -> int:
        """Index of the question in its first rotation."""
        return self.row_id % INDICES_A_ROTATION

    @property
    def texts(self) -> tuple[str, ...]:
        """Of the options."""
        return tuple(self.options.values())

    @property
    def image(self) -> bytes:
        """The picture, encoded."""
        return base64.b64decode(self.picture) if isinstance(self.picture, str) else self.picture


def read_questions(place: str) -> list[MMBenchQuestion]:
    """Questions in the order of their file.

    Args:
        place: A TSV or parquet file, or a name on the hub.

    Raises:
        FileNotFoundError: Nothing there.
        ValueError: Another layout, an index that is there twice, or a picture that is in no row.
    """
    try:
        questions = [_question(_lowered(row)) for row in records(place)]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{place} holds no questions of MMBench ({type(error).__name__}: {error}). The authors' TSV and the rows "
            "of lmms-lab/MMBench are read: index, question, hint, A, B, ..., answer, category, l2-category, image."
        ) from error
    pictures = {str(each.row_id): each.picture for each in questions}
    if len(pictures) < len(questions):
        raise ValueError(f"{place}: {len(questions) - len(pictures)} indices are there twice. Mend the file.")
    lost = [each.row_id for each in questions if _is_index(each.picture) and each.picture not in pictures]
    if lost:
        raise ValueError(
            f"{place}: the pictures of {len(lost)} questions are in rows that are not there (the first of them: "
            f"{lost[0]}). Give the whole file."
        )
    return [
        each._replace(picture=pictures[str(each.picture)]) if _is_index(each.picture) else each for each in questions
    ]


def rotated(questions: Sequence[MMBenchQuestion]) -> list[MMBenchQuestion]:
    """Every rotation of questions that stand there once, each shifting the options by one, as LLaVA's `--all-rounds`.

    Raises:
        ValueError: The file has rotations already.
    """
    if any(each.row_id >= INDICES_A_ROTATION for each in questions):
        raise ValueError("MMBench: the file has the rotations of its questions already. Leave out `--rotations`.")
    return [_rotation(each, number) for each in questions for number in range(len(each.options))]


def fingerprint(questions: Sequence[MMBenchQuestion]) -> str:
    """Hash of questions, options and answers, whatever their order."""
    lines = sorted(f"{each.row_id}: {each.hint} {each.question} {each.texts} {each.answer}" for each in questions)
    return hashlib.sha256("\n".join(lines).encode("utf-8", "replace")).hexdigest()[:7]


def option_texts(row: Mapping[str, Any]) -> dict[str, str]:
    """The options of a row by letter, up to the first empty cell."""
    options: dict[str, str] = {}
    for letter in string.ascii_uppercase:
        text = _cell(row.get(letter))
        if not text:
            return options
        options[letter] = text
    return options


def _lowered(row: Mapping[str, Any]) -> dict[str, Any]:
    """Names of columns in lower case, but for the options' letters."""
    return {name if name in string.ascii_uppercase else name.lower(): value for name, value in row.items()}


def _question(row: Mapping[str, Any]) -> MMBenchQuestion:
    picture = row["image"]
    return MMBenchQuestion(
        row_id=int(row["index"]),
        question=row["question"],
        hint=_cell(row.get("hint")),
        options=option_texts(row),
        answer=_cell(row.get("answer")),
        category=_cell(row.get("category")),
        l2_category=_cell(row.get("l2-category")),
        picture=picture["bytes"] if isinstance(picture, Mapping) else picture,
    )


def _cell(value: object) -> str:
    text = "" if value is None else str(value)
    return "" if text in EMPTY_CELLS or text.lower() in ("nan", "none") else text


def _is_index(picture: str | bytes) -> bool:
    return isinstance(picture, str) and len(picture) <= MAX_INDEX_CHARACTERS


def _rotation(question: MMBenchQuestion, number: int) -> MMBenchQuestion:
    letters, texts = list(question.options), [*question.texts[number:], *question.texts[:number]]
    return question._replace(
        row_id=question.row_id + number * INDICES_A_ROTATION,
        options=dict(zip(letters, texts, strict=True)),
        answer=letters[letters.index(question.answer) - number] if question.answer else "",
    )
