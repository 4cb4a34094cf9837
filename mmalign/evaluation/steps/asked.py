"""What a model is to be asked, looked through before the first token: which pictures are missing, and a hash of it all.

    asked = look_through(bench)
    asked.unaskable      -> {"v1_7": Fault("a picture is not there", "No picture v1_7.png at images/v1_7.png. ...")}
    asked.identity(())   -> {"questions": "sha256 5c1f...", "pictures": "sha256 02ab..."}

Every picture is decoded once: a broken one is found here, and not after hours.

Tests   tests/evaluation/steps/test_generating.py
"""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

from PIL import UnidentifiedImageError

from mmalign.evaluation.steps.benchmark import Ask, Benchmark, Picture, Turn
from mmalign.evaluation.steps.faults import NAMED, Faults
from mmalign.pictures import DECODER_ERRORS, read_header, upright_rgb

NO_PICTURE = "a picture is not there"
BROKEN_PICTURE = "a picture cannot be decoded"
HASH_DIGITS = 16


class Fault(NamedTuple):
    """Why a question cannot be asked."""

    reason: str
    """The sort, by which such questions are counted."""
    detail: str
    """Which picture, and what is wrong with it."""


class Look(NamedTuple):
    """A picture that was looked at."""

    hash: str
    """Of its bytes."""
    fault: Fault | None = None


class Asked(NamedTuple):
    """The questions of a benchmark, looked through."""

    title: str
    """Of the benchmark."""
    asks: Sequence[Ask]
    unaskable: Mapping[str, Fault]
    """By id of the question."""
    pictures: Mapping[str, Sequence[str]]
    """Hashes of each question's, by its id."""

    def identity(self, without: Iterable[str]) -> dict[str, str]:
        """Hashes of all that an answer depends on besides the model.

        Args:
            without: Ids of questions that were not asked; their pictures may come later.
        """
        left_out = set(without)
        pictures = [self.pictures[ask.id] for ask in self.asks if ask.id not in left_out]
        named = {"without": ", ".join(sorted(left_out))} if left_out else {}
        return {"questions": _hash([_plain(ask) for ask in self.asks]), "pictures": _hash(pictures), **named}

    def error(self) -> ValueError:
        """One for all questions that cannot be asked."""
        faults = Faults(self.title)
        for name, fault in self.unaskable.items():
            faults.add(fault.reason, f"{name} ({fault.detail})")
        return ValueError(
            f"{self.title}: {len(self.unaskable)} of {len(self.asks)} questions cannot be asked.\n{faults.text()}\n"
            "Give the folder of the pictures with `--images`, fetch what is missing or broken, or go without these "
            "questions with `--on_bad count`: they are then counted as failures."
        )


def look_through(bench: Benchmark) -> Asked:
    """The questions of a benchmark, with what is wrong with them.

    Raises:
        FileNotFoundError, ValueError: There are none, or some share an id.
    """
    asks = list(bench.asks())
    if not asks:
        raise ValueError(f"{bench.title} has no questions that a model answers by itself; see its options (`--help`).")
    if doubles := [name for name, times in Counter(ask.id for ask in asks).items() if times > 1]:
        raise ValueError(
            f"{bench.title}: {len(doubles)} ids stand for several questions, among them {', '.join(doubles[:NAMED])}. "
            "Answers are joined on them: mend the question file."
        )
    looks = _looks(picture for ask in asks for turn in all_turns(ask) for picture in turn.pictures)
    faults = {ask.id: fault for ask in asks if (fault := _fault(ask, looks)) is not None}
    hashes = {ask.id: [looks[each].hash for turn in all_turns(ask) for each in turn.pictures] for ask in asks}
    return Asked(bench.title, asks, faults, hashes)


def all_turns(ask: Ask) -> list[Turn]:
    """Those of its history, and those to be answered."""
    return [*(turn for turn, _ in ask.history), *ask.turns]


def _fault(ask: Ask, looks: Mapping[Picture, Look]) -> Fault | None:
    found = (looks[picture].fault for turn in all_turns(ask) for picture in turn.pictures)
    return next((fault for fault in found if fault is not None), None)


def _looks(pictures: Iterable[Picture]) -> dict[Picture, Look]:
    """Every picture once."""
    distinct = list(dict.fromkeys(pictures))
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return dict(zip(distinct, pool.map(_look, distinct), strict=True))


def _look(picture: Picture) -> Look:
    try:
        data = picture.read()
    except OSError as error:
        return Look(
            "", Fault(NO_PICTURE, str(error) if isinstance(error, FileNotFoundError) else f"{picture.path}: {error}")
        )
    name = str(picture.path or picture.name)
    digest = hashlib.sha256(data).hexdigest()
    try:
        upright_rgb(read_header(data))
    except DECODER_ERRORS as error:
        # Pillow names an unknown header by the address of its buffer, another one in every run.
        reason = "neither PNG, JPEG nor WEBP, or cut short" if isinstance(error, UnidentifiedImageError) else error
        return Look(digest, Fault(BROKEN_PICTURE, f"{name}: {reason}"))
    return Look(digest)


def _plain(ask: Ask) -> list[Any]:
    """A question in JSON's types, its pictures by name."""
    turns = [[turn.text, [picture.name for picture in turn.pictures]] for turn in all_turns(ask)]
    return [ask.id, turns, [said for _, said in ask.history], ask.temperature, ask.max_new_tokens]


def _hash(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return f"sha256 {hashlib.sha256(text.encode('utf-8', 'replace')).hexdigest()[:HASH_DIGITS]}"
