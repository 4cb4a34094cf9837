"""COCO's pictures: questions about them, and the objects that are in them.

    read_scenes("questions.jsonl", images="val2014", prompt="Describe this image.")
        -> [Scene("40468", "Describe this image.", Picture("COCO_val2014_000000040468.jpg", ...)), ...]
    ground_truth("annotations", vocabulary, {"40468"})                  -> {"40468": {"person", "surfboard"}}

Tests   tests/evaluation/benchmarks/test_chair.py
"""

import base64
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Set
from pathlib import Path
from typing import Any, NamedTuple

from mmalign.evaluation.benchmarks.nouns import Vocabulary
from mmalign.evaluation.steps.benchmark import Picture
from mmalign.evaluation.steps.sources import load, records

PICTURE_NAME = re.compile(r"COCO_(?:train|val)2014_\d{12}\.jpg")
FILE_NAME = re.compile(r".*?(\d+)\.(?:jpe?g|png|webp)", re.IGNORECASE)
SPLITS = ("train2014", "val2014")
QUESTION_KEYS = ("question", "text", "prompt")
TEXT_KEYS = ("text", "answer", "caption", "response")
NO_TRUTH = "pictures without ground truth"


class Scene(NamedTuple):
    """A picture to describe."""

    id: str
    """COCO's number of it."""
    prompt: str
    picture: Picture


def read_scenes(questions: str, *, images: str | None, prompt: str) -> list[Scene]:
    """The pictures to describe.

    Args:
        questions: Rows with `image_id`, or `image`, a file name that ends with COCO's number; perhaps with their own
            question, perhaps with the picture itself (`image`, base64). Empty: all COCO pictures of the folder.
        images: Folder of the pictures.
        prompt: Where a row has no question.

    Raises:
        ValueError: Neither questions nor pictures, a row without a picture's number, or a picture twice.
    """
    if questions:
        rows = enumerate(records(questions))
        scenes = [_scene(row, images, prompt, f"{questions}, row {place}") for place, row in rows]
        double = [number for number, times in Counter(scene.id for scene in scenes).items() if times > 1]
        if double:
            raise ValueError(
                f"{questions} asks {len(double)} pictures more than once ({', '.join(double[:3])} ...), but each is "
                "described once. Give a file of descriptions; POPE's yes/no questions are another benchmark."
            )
        return scenes
    if not images:
        raise ValueError("Which pictures to describe? Give rows with `image_id` as `--questions`, or `--images`.")
    names = sorted(path.name for path in Path(images).glob("COCO_*2014_*.jpg") if PICTURE_NAME.fullmatch(path.name))
    if not names:
        raise ValueError(f"{images} holds no COCO_val2014_*.jpg. Give the folder of COCO's pictures as `--images`.")
    return [Scene(picture_number({"image": name}), prompt, Picture(name, Path(images) / name)) for name in names]


def picture_number(row: Mapping[str, Any]) -> str:
    """COCO's number of a row's picture.

    Raises:
        ValueError: It has none.
    """
    if str(row.get("image_id", "")).isdecimal():
        return str(int(row["image_id"]))
    for key in ("image_id", "image", "image_path"):
        name = row.get(key)
        found = FILE_NAME.fullmatch(name[-200:]) if isinstance(name, str) else None
        if found:
            return str(int(found[1]))
    raise ValueError("a row has neither `image_id` nor `image`, a name that ends with COCO's number of the picture")


def captions(rows: Any) -> Iterator[tuple[str, str, str]]:
    """Picture, text and model of each caption of a published file.

    Args:
        rows: Rows with `image_id` and `text` (or `answer`, `caption`, `response`), CHAIR's own `imgToEval`, or the
            `sentences` that a review of CHAIR or Object HalBench holds.
    """
    found = rows
    if isinstance(rows, dict):
        found = rows["sentences"] if "sentences" in rows else list(rows["imgToEval"].values())
    for row in found:
        text = next((row[key] for key in TEXT_KEYS if key in row), None)
        if not isinstance(text, str):
            raise ValueError(f"a row has none of {', '.join(TEXT_KEYS)}")
        yield picture_number(row), text, str(row.get("model_id") or row.get("model") or "")


def ground_truth(place: str, vocabulary: Vocabulary, wanted: Set[str]) -> dict[str, frozenset[str]]:
    """The objects of each picture.

    Args:
        place: COCO's folder of annotations, whose instances and captions (of train2014 and val2014, as far as they are
            there) are united as CHAIR does; or a file `{"40468": ["person", "surfboard"]}`, or a review of CHAIR or
            Object HalBench (`sentences` with `mscoco_gt_words`).
        vocabulary: Finds the objects in captions.
        wanted: Numbers of the pictures.

    Raises:
        FileNotFoundError, ValueError: Nothing there, or another file.
    """
    if not place:
        raise ValueError("What is in the pictures? Give COCO's folder of annotations as `--ground_truth`.")
    if Path(place).is_dir():
        return _from_annotations(Path(place), vocabulary, wanted)
    held = load(place)
    if isinstance(held, dict) and "sentences" in held:
        held = {picture_number(row): row["mscoco_gt_words"] for row in held["sentences"]}
    if not isinstance(held, dict) or not all(isinstance(each, list) for each in held.values()):
        raise ValueError(f'{place} is no ground truth: {{"40468": ["person", "surfboard"]}} is read, see `--help`.')
    known = set(vocabulary.objects.values())
    if strange := [each for objects in held.values() for each in objects if each not in known]:
        raise ValueError(f"{place}: {strange[0]!r} is no object of the synonyms file. Give the two that go together.")
    return {number: frozenset(objects) for number, objects in held.items() if number in wanted}


def _from_annotations(folder: Path, vocabulary: Vocabulary, wanted: Set[str]) -> dict[str, frozenset[str]]:
    folder = folder / "annotations" if (folder / "annotations").is_dir() else folder
    splits = [split for split in SPLITS if (folder / f"instances_{split}.json").is_file()]
    if not splits:
        raise FileNotFoundError(
            f"{folder} has neither instances_train2014.json nor instances_val2014.json. Unpack COCO's "
            "annotations_trainval2014.zip and give its folder as `--ground_truth`."
        )
    found: dict[str, set[str]] = {}
    for split in splits:
        instances, described = load(folder / f"instances_{split}.json"), load(folder / f"captions_{split}.json")
        for image in (*instances["images"], *described["images"]):
            found.setdefault(str(image["id"]), set())
        categories = {each["id"]: vocabulary.objects[each["name"]] for each in instances["categories"]}
        for each in _of(instances, wanted):
            found[str(each["image_id"])].add(categories[each["category_id"]])
        for each in _of(described, wanted):
            words = vocabulary.words(each["caption"])
            found[str(each["image_id"])].update(vocabulary.objects[word] for word in words)
    return {number: frozenset(objects) for number, objects in found.items() if number in wanted}


def _of(annotations: Mapping[str, Any], wanted: Set[str]) -> Iterable[Mapping[str, Any]]:
    return (each for each in annotations["annotations"] if str(each["image_id"]) in wanted)


def _scene(row: Mapping[str, Any], images: str | None, prompt: str, place: str) -> Scene:
    try:
        number = picture_number(row)
    except ValueError as error:
        raise ValueError(f"{place}: {error}.") from error
    text = next((str(row[key]) for key in QUESTION_KEYS if row.get(key)), prompt)
    return Scene(number, text, _picture(row, number, images))


def _picture(row: Mapping[str, Any], number: str, images: str | None) -> Picture:
    held = row.get("image")
    named = isinstance(held, str) and FILE_NAME.fullmatch(held[-200:])
    name = Path(held).name if named and isinstance(held, str) else f"COCO_val2014_{int(number):012d}.jpg"
    if isinstance(held, dict) and held.get("bytes"):
        return Picture(name, data=held["bytes"])
    if isinstance(held, str) and not named:
        return Picture(name, data=base64.b64decode(held))
    return Picture(name, Path(images) / name if images else None)
