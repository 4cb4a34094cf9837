"""Questions about pictures, without answers: prompts to sample from.

    {"image_path": "imgs/harbour.jpg", "question": "Describe the key features of the image in great detail."}

`image_path` may be missing or empty (a text-only question).
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mmalign.data.importers import Skipped, UnreadableError, read_picture
from mmalign.data.sample import Sample
from mmalign.messages import ImageSlot, Message, Text


def read_questions(records: Sequence[Mapping[str, Any]], images: Path, *, source: str) -> Iterator[Sample | Skipped]:
    """Samples without responses, one for each question.

    Args:
        records: With `question` and `image_path`.
        images: Folder of the pictures.
        source: Name of the data set.
    """
    for number, record in enumerate(records):
        picture = str(record.get("image_path") or "")
        name = picture or f"question {number}"
        question = str(record.get("question") or "").strip()
        if not question:
            yield Skipped(name, "the record has no `question`")
            continue
        try:
            pictures = (read_picture(picture, images),) if picture else ()
        except UnreadableError as error:
            yield Skipped(name, str(error))
            continue
        content: tuple[Text | ImageSlot, ...] = (*(ImageSlot() for _ in pictures), Text(question))
        yield Sample(key=f"{number:07d}", messages=(Message("user", content),), images=pictures, source=source, id=name)
