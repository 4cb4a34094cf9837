"""Where the files of a benchmark lie, when its authors' folder, one file of it, or a dataset of the hub is given.

    file_in("data/mm-vet", "mm-vet.json")                           -> data/mm-vet/mm-vet.json
    beside("llava_bench/questions.jsonl", "context.jsonl")          -> llava_bench/context.jsonl
    beside("owner/llava-bench:questions.jsonl", "context.jsonl")    -> owner/llava-bench:context.jsonl

Tests   tests/evaluation/steps/test_places.py
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from mmalign.evaluation.steps.benchmark import Picture

PROMPTS = Path(__file__).parents[1] / "benchmarks/prompts"
RELEASE_DIGITS = 8
PICTURES = "images"
"""Folder of the pictures, beside the questions, as most authors pack them."""

T = TypeVar("T")


def file_in(place: str, *names: str) -> str:
    """The first of these files that a folder has, or the place itself where it is no folder.

    Args:
        place: A file, a folder, or a name on the hub.
        names: As the authors name the file; several where they changed it.

    Raises:
        FileNotFoundError: A folder without any of them.
    """
    folder = Path(place)
    if not folder.is_dir():
        return place
    found = next((folder / name for name in names if (folder / name).is_file()), None)
    if found is None:
        raise FileNotFoundError(f"The folder {place} has no {' or '.join(names)}. Give the file itself.")
    return str(found)


def beside(place: str, name: str) -> str:
    """The file or folder of that name in the same folder or dataset.

    Args:
        place: A file, a folder, or a name on the hub.
        name: Of the neighbour.
    """
    path = Path(place)
    dataset, colon, _ = place.partition(":")
    if colon and not path.exists():
        return f"{dataset}:{name}"
    return str((path if path.is_dir() else path.parent) / name)


def picture(row: Mapping[str, Any], name: str, images: str | None, place: str, folder: str = PICTURES) -> Picture:
    """A question's picture: the bytes that came with its row, or a file.

    Args:
        row: With `image` where it has the bytes, as the hub has them.
        name: Of the file in the folder.
        images: The folder; None: the one beside the questions.
        place: Of the questions.
        folder: What that is called.
    """
    held = row.get("image")
    if isinstance(held, dict) and held.get("bytes"):
        return Picture(name or str(held.get("path") or ""), data=held["bytes"])
    return Picture(name, Path(beside(place, folder) if images is None else images) / name)


def paths(pictures: tuple[Picture, ...]) -> list[str]:
    """Of those that are files here."""
    return [str(each.path) for each in pictures if each.path is not None and each.path.is_file()]


@cache
def shipped(name: str) -> str:
    """A judge's prompt that comes with this project; its source and licence stand beside it."""
    return (PROMPTS / name).read_bytes().decode("utf-8")


def by_id(questions: Iterable[tuple[str, T]], place: str) -> dict[str, T]:
    """Questions by their id.

    Args:
        questions: Each with its id.
        place: Where they come from, for messages.

    Raises:
        ValueError: An id stands twice; which.
    """
    found: dict[str, T] = {}
    for name, question in questions:
        if name in found:
            raise ValueError(f"{place} has question {name} twice. Answers are joined on it: take one of them out.")
        found[name] = question
    return found


def release(questions: Iterable[object]) -> str:
    """Eight digits that tell releases of a benchmark's questions apart; results on different ones are never compared.

    Args:
        questions: All that the answers or their grades depend on, as plain values.
    """
    return hashlib.sha256(json.dumps(list(questions)).encode()).hexdigest()[:RELEASE_DIGITS]
