r"""LLaVA-style JSON: a list of conversations, pictures beside it.

    [{"id": "000000033471", "image": "coco/train2017/000000033471.jpg",
      "conversations": [{"from": "human", "value": "<image>\nWhat are the colors of the bus?"},
                        {"from": "gpt", "value": "The bus is white and red."}]}]

becomes

    Sample(key="0000000", id="000000033471", images=(jpeg,),
           messages=(Message("user", (ImageSlot(), Text("What are the colors of the bus?"))),),
           responses=(Response(text="The bus is white and red.", model="gold"),))
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mmalign.data.importers import Skipped, UnreadableError, read_picture
from mmalign.data.sample import Response, Sample
from mmalign.messages import ImageSlot, Message, Text
from mmalign.steering import num_requests

PLACEHOLDER = re.compile(r"\n?<image>\n?")
"""Where a picture stands; the line breaks around it belong to LLaVA's format, and the template writes its own."""
ROLES = {"system": "system", "human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant"}
GOLD = "gold"
"""`model` of a data set's own answers."""


def read_llava(records: Sequence[Mapping[str, Any]], images: Path, *, source: str) -> Iterator[Sample | Skipped]:
    """Samples of LLaVA-style records; the last answer is the response, earlier ones stay in the prompt.

    Args:
        records: As `load_records` reads them.
        images: Folder of the pictures.
        source: Name of the data set.
    """
    for number, record in enumerate(records):
        name = str(record.get("id", number))
        try:
            yield _sample(record, images, key=f"{number:07d}", name=name, source=source)
        except UnreadableError as error:
            yield Skipped(name, str(error))


def split_placeholders(text: str) -> tuple[Text | ImageSlot, ...]:
    r"""`"<image>\nWhat?"` -> `(ImageSlot(), Text("What?"))`."""
    parts: list[Text | ImageSlot] = []
    for number, piece in enumerate(PLACEHOLDER.split(text)):
        parts += [ImageSlot()] if number else []
        parts += [Text(piece)] if piece else []
    return tuple(parts)


def _sample(record: Mapping[str, Any], images: Path, *, key: str, name: str, source: str) -> Sample:
    try:
        turns = [(ROLES[turn["from"]], str(turn["value"])) for turn in record["conversations"]]
        pictures = record.get("image") or []
    except (KeyError, TypeError, AttributeError) as error:
        raise UnreadableError(f"not a LLaVA record ({type(error).__name__}: {error})") from error
    dialogue = [role for role, _ in turns if role != "system"]
    if not dialogue or len(dialogue) % 2 or dialogue != ["user", "assistant"] * (len(dialogue) // 2):
        raise UnreadableError(f"turns must alternate from human to gpt, these are {dialogue}")
    *prompt, (_, answer) = turns
    names = [pictures] if isinstance(pictures, str) else pictures
    messages = tuple(
        Message(role, split_placeholders(text) if role == "user" else (Text(text),)) for role, text in prompt
    )
    _check_question(messages, len(names))
    return Sample(
        key=key,
        messages=messages,
        images=tuple(read_picture(str(each), images) for each in names),
        responses=(Response(text=answer, model=GOLD),),
        source=source,
        id=name,
    )


def _check_question(messages: Sequence[Message], num_pictures: int) -> None:
    """Refuse a question that was built twice over.

    Published SteerLM data hold such rows: each pass over a question put `<image>` in front of it and attributes behind
    it, and all passes wrote into the same dictionary.
    """
    slots = sum(isinstance(part, ImageSlot) for message in messages for part in message.content)
    if slots > num_pictures:
        raise UnreadableError(f"<image> stands {slots} times in the questions, but there are {num_pictures} pictures")
    requests = max(map(num_requests, messages), default=0)
    if requests > 1:
        raise UnreadableError(f"a question asks for attributes {requests} times, and one suffix contradicts the other")
