"""POPE's questions and labels, of any release and layout, as one list of records.

    read_questions("llava_pope_test.jsonl")   LLaVA's: ids 1.. adversarial, 10000001.. random, 20000001.. popular
    read_questions("coco")                    the authors' folder of coco_pope_{split}.json, which are JSON lines
    read_questions("lmms-lab/POPE")           rows of the hub, which hold their pictures

Two releases differ in the split `random`: 2,910 questions in 2023 (e3e3926; LLaVA 1.5 and most papers), 3,000 since
(3df3ba1). Rows are joined by split and number, never by text: LLaVA's file and the releases differ in wording.

Tests   tests/evaluation/benchmarks/test_pope.py
"""

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mmalign.evaluation.pope import YesNo
from mmalign.evaluation.steps.sources import records

SPLITS = ("adversarial", "random", "popular")
"""In the order of LLaVA's ids."""
IDS_A_SPLIT = 10_000_000
SUFFIX = "\nAnswer the question using a single word or phrase."
FILE = re.compile(rf"(?:.+_)?pope_(?:.+_)?({'|'.join(SPLITS)})\.jsonl?(?:\.gz)?")
OBJECT = re.compile(r"Is there an? (.+?) in the ")
RELEASES = {"0adf3ce": "e3e3926", "300dda4": "3df3ba1"}
"""Fingerprint -> commit of the authors' repository."""


class PopeQuestion(NamedTuple):
    """One question, and its label where the file has it."""

    id: str
    """As LLaVA numbers them; unique over the splits."""
    split: str
    number: int
    """Within its split, from 1."""
    text: str
    """With LLaVA's request for a short answer."""
    picture: str
    """Its file's name."""
    data: bytes | None = None
    """The picture, encoded, where the rows hold it."""
    label: YesNo | None = None

    @property
    def about(self) -> tuple[str, str]:
        """Picture and object, by which rows of two files are the same question however they are worded."""
        return self.picture.partition(".")[0], asked_object(self.text) or self.text


def read_questions(place: str) -> list[PopeQuestion]:
    """Questions, or labels, in the order of their file.

    Args:
        place: A file or folder, or a name on the hub.

    Raises:
        FileNotFoundError: Nothing there.
        ValueError: Another layout, or a question that is there twice.
    """
    questions = [question for file in _files(place) for question in _parse(file)]
    double = [name for name, times in Counter(question.id for question in questions).items() if times > 1]
    if double:
        raise ValueError(f"{place}: {len(double)} questions are there twice: {', '.join(double[:5])}. Mend the file.")
    return questions


def labelled(questions: Sequence[PopeQuestion], labels: Sequence[PopeQuestion]) -> list[PopeQuestion]:
    """The questions with their labels.

    Args:
        questions: As they are asked.
        labels: Of the same questions.

    Raises:
        ValueError: Labels of other questions, so of another release; or of splits that are not asked.
    """
    known = {(label.split, label.number): label for label in labels}
    strange = Counter(
        question.split
        for question in questions
        if (label := known.get((question.split, question.number))) is None or label.about != question.about
    )
    if strange:
        asked, there = (Counter(each.split for each in rows) for rows in (questions, labels))
        faults = "; ".join(
            f"{split}: {number:,} of {asked[split]:,} questions have no label, or that of another picture or object "
            f"({there[split]:,} labels)"
            for split, number in strange.items()
        )
        raise ValueError(
            f"POPE: the questions are of release {release(questions)}, the labels of release {release(labels)}. "
            f"{faults}. Give questions and labels of one release: LLaVA's question file goes with e3e3926, whose split "
            "random has 2,910 questions; the present one, 3df3ba1, has 3,000."
        )
    return [question._replace(label=known[question.split, question.number].label) for question in questions]


def release(questions: Iterable[PopeQuestion]) -> str:
    """Commit of the authors' repository that holds these questions; a hash of them where none is known to."""
    lines = sorted(f"{each.split}/{each.number}: {' '.join(each.about)}" for each in questions)
    fingerprint = hashlib.sha256("\n".join(lines).encode()).hexdigest()[:7]
    return RELEASES.get(fingerprint, fingerprint)


def asked_object(question: str) -> str | None:
    """The object that a question asks for; None where it is worded in another way."""
    found = OBJECT.search(question)
    return found[1] if found else None


def _files(place: str) -> list[str]:
    """A folder's files, or the place itself."""
    if not Path(place).is_dir():
        return [place]
    files = sorted(str(path) for path in Path(place).iterdir() if FILE.fullmatch(path.name))
    if not files:
        raise FileNotFoundError(f"{place} holds no coco_pope_random.json, coco_pope_popular.json or the third.")
    return files


def _parse(place: str) -> list[PopeQuestion]:
    named = FILE.fullmatch(Path(place).name)
    try:
        return [_question(row, named[1] if named else row["category"]) for row in records(place)]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{place} holds no questions of POPE ({type(error).__name__}: {error}). LLaVA's llava_pope_test.jsonl, the "
            "authors' coco_pope_{split}.json and the rows of lmms-lab/POPE are read."
        ) from error


def _question(row: Mapping[str, Any], split: str) -> PopeQuestion:
    number = int(row["question_id"]) % IDS_A_SPLIT
    is_of_llava = "text" in row and "category" in row
    picture = row["image"]
    return PopeQuestion(
        id=str(row["question_id"]) if is_of_llava else str(SPLITS.index(split) * IDS_A_SPLIT + number),
        split=SPLITS[SPLITS.index(split)],
        number=number,
        text=row["text"] if is_of_llava else row.get("text", row.get("question")) + SUFFIX,
        picture=picture if isinstance(picture, str) else row["image_source"],
        data=None if isinstance(picture, str) else picture["bytes"],
        label=_label(row.get("label", row.get("answer"))),
    )


def _label(label: object) -> YesNo | None:
    if label is None or label == "yes" or label == "no":
        return label
    raise ValueError(f"label {label!r} is neither yes nor no")
