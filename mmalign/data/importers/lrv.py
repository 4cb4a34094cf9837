r"""LRV-Instruct: questions about Visual Genome's pictures, with answers; its evaluation set has none.

    {"image_id": "2356371", "question": "Which objects are on the wooden table?", "answer": "A lamp and a clock."}

becomes

    Sample(key="0000000", id="2356371", images=(jpeg,),
           messages=(Message("user", (ImageSlot(), Text("Which objects are on the wooden table?"))),),
           responses=(Response(text="A lamp and a clock.", model="gold"),))

The picture is `2356371.jpg`, in the folder itself or in Visual Genome's `VG_100K` and `VG_100K_2`. Without an answer it
is a prompt to sample from.

Data    https://github.com/FuxiaoLiu/LRV-Instruction
Tests   tests/data/importers/test_lrv.py
"""

from collections.abc import Iterable, Iterator

from mmalign.data.importers import Skipped, UnreadableError
from mmalign.data.importers.conversations import (
    GOLD,
    Identity,
    PictureSource,
    Record,
    Row,
    convert,
    illustrate,
    take,
)
from mmalign.data.sample import Response, Sample
from mmalign.messages import ImageSlot, Message, Text

FOLDERS = ("VG_100K", "VG_100K_2")
"""Of Visual Genome; `Pictures` looks without them, too."""


class VisualGenome(PictureSource):
    """Finds pictures by their number."""

    def __init__(self, pictures: PictureSource) -> None:
        """Look among these."""
        self.pictures = pictures

    def read(self, name: str) -> bytes:
        """The picture of that number, in one of Visual Genome's folders."""
        reasons = list[str]()
        for folder in FOLDERS:
            try:
                return self.pictures.read(f"{folder}/{name}.jpg")
            except UnreadableError as error:
                reasons.append(str(error))
        raise UnreadableError("; ".join(reasons))


def read_lrv(
    rows: Iterable[Row | Skipped], pictures: PictureSource | None, *, source: str
) -> Iterator[Sample | Skipped]:
    """Samples of LRV-Instruct's records.

    Args:
        rows: As `open_records` reads them.
        pictures: Where they lie; None leaves them out.
        source: Name of the data set.
    """
    genome = None if pictures is None else VisualGenome(pictures)

    def build(record: Record, identity: Identity) -> Sample:
        number = record.get("image_id")
        if not isinstance(number, str | int) or isinstance(number, bool) or not str(number).strip():
            raise UnreadableError(f"`image_id` is {number!r:.40}, not the number of a picture")
        question = (Message("user", (ImageSlot(), Text(take(record, "question", str)))),)
        answer = take(record, "answer", str) if "answer" in record else None
        messages, images = illustrate(question, [str(number)], genome)
        responses = () if answer is None else (Response(text=answer, model=GOLD),)
        return Sample(messages=messages, images=images, responses=responses, **identity._asdict())

    return convert(rows, build, source=source, name_field="image_id")
