r"""RLHF-V: answers of models and what people made of them by mending every hallucination.

    {"ds_name": "RLHF-V", "image": {"bytes": jpeg, "path": "llava1.5/1.jpg"}, "idx": 0, "origin_dataset": "COCO",
     "text": "{\"question\": \"What is this?\", \"chosen\": \"A bus.\", \"rejected\": \"A red car.\"}",
     "origin_split": "{\"model\": \"Muffin\", \"type\": \"question answering\"}", "image_path": "llava1.5/1.jpg"}

becomes

    Sample(key="0000000", id="0", messages=(Message("user", (ImageSlot(), Text("What is this?"))),), images=(jpeg,),
           responses=(Response(text="A bus."), Response(text="A red car.", model="Muffin")),
           preference=Preference(chosen=0, rejected=1))

The chosen answer is a person's correction, so it is nobody's model. Question and answers may also stand beside `image`
instead of in `text`, as in the set's first release.

Data    https://huggingface.co/datasets/openbmb/RLHF-V-Dataset
Tests   tests/data/importers/test_rlhf_v.py
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from mmalign.data.importers import Skipped, UnreadableError
from mmalign.data.importers.conversations import Identity, PictureSource, Record, Row, convert, illustrate, take
from mmalign.data.importers.preferences import pair_sample
from mmalign.data.importers.sources import parse_json
from mmalign.data.sample import Sample
from mmalign.messages import ImageSlot, Message, Text


def read_rlhf_v(
    rows: Iterable[Row | Skipped], pictures: PictureSource | None, *, source: str
) -> Iterator[Sample | Skipped]:
    """Samples of RLHF-V's records.

    Args:
        rows: As `open_records` reads them.
        pictures: Where those lie that a record only names; None leaves all out.
        source: Name of the data set.
    """

    def build(record: Record, identity: Identity) -> Sample:
        texts = embedded_object(record, "text") if "text" in record else record
        rejected_by = str(embedded_object(record, "origin_split").get("model", ""))
        return picture_pair(texts, picture_of(record), pictures, identity, models=("", rejected_by))

    return convert(rows, build, source=source, name_field="idx")


def picture_pair(
    texts: Record, picture: object, pictures: PictureSource | None, identity: Identity, *, models: tuple[str, str]
) -> Sample:
    """A sample of a question about one picture, and two answers.

    Args:
        texts: With `question`, `chosen` and `rejected`.
        picture: Its name or bytes.
        pictures: Where it lies.
        identity: Key, id and source.
        models: Who wrote the chosen and the rejected answer.
    """
    question = (Message("user", (ImageSlot(), Text(take(texts, "question", str)))),)
    messages, images = illustrate(question, [picture], pictures)
    return pair_sample(
        messages, images, take(texts, "chosen", str), take(texts, "rejected", str), identity, models=models
    )


def picture_of(record: Record) -> object:
    """The picture's bytes, where the record holds them, else its name."""
    picture = record.get("image") or record.get("image_path")
    if not picture:
        raise UnreadableError("no `image`")
    return picture


def embedded_object(record: Record, name: str) -> Mapping[str, Any]:
    """The object that a field holds as JSON; an empty one where there is no such field.

    Raises:
        UnreadableError: It holds no object.
    """
    value = record.get(name) or {}
    try:
        value = parse_json(value) if isinstance(value, str) else value
    except ValueError as error:
        raise UnreadableError(f"`{name}` holds no JSON: {error}") from error
    if not isinstance(value, Mapping):
        raise UnreadableError(f"`{name}` holds no object but {value!r:.40}")
    return value
