"""Questions about pictures, without answers: prompts to sample from.

    {"image_path": "imgs/harbour.jpg", "question": "Describe the key features of the image in great detail."}

becomes

    Sample(key="0000000", id="imgs/harbour.jpg", messages=(Message("user", (ImageSlot(), Text("Describe ..."))),),
           images=(jpeg,), responses=())

`image_path` may be missing or empty (a text-only question).

Data    https://github.com/RLHF-V/RLAIF-V/tree/main/examples, for instance
Tests   tests/data/importers/test_questions.py
"""

from collections.abc import Iterable, Iterator

from mmalign.data.importers import Skipped, UnreadableError
from mmalign.data.importers.conversations import (
    Identity,
    PictureSource,
    Record,
    Row,
    as_list,
    convert,
    illustrate,
    take,
)
from mmalign.data.sample import Sample
from mmalign.messages import ImageSlot, Message, Text


def read_questions(
    rows: Iterable[Row | Skipped], pictures: PictureSource | None, *, source: str
) -> Iterator[Sample | Skipped]:
    """Samples without responses, one for each question.

    Args:
        rows: With `question` and `image_path`.
        pictures: Where they lie; None leaves them out.
        source: Name of the data set.
    """

    def build(record: Record, identity: Identity) -> Sample:
        question = take(record, "question", str).strip()
        if not question:
            raise UnreadableError("its `question` is empty")
        names = as_list(record.get("image_path"))
        prompt = Message("user", (*(ImageSlot() for _ in names), Text(question)))
        messages, images = illustrate([prompt], names, pictures)
        return Sample(messages=messages, images=images, **identity._asdict())

    return convert(rows, build, source=source, name_field="image_path")
