r"""Other people's conversations -> messages, pictures and answers: what the importers share.

    [{"from": "human", "value": "<image>\nWhat are the colors of the bus?"}, {"from": "gpt", "value": "Red."}]

is split into the prompt and its answer, and the prompt is illustrated:

    (Message("user", (ImageSlot(), Text("What are the colors of the bus?"))),), "Red."
    (jpeg,)

Tests   tests/data/importers/test_conversations.py
"""

import re
from base64 import b64decode
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, TypeVar, runtime_checkable

from mmalign.data.importers import Skipped, UnreadableError
from mmalign.data.importers.pictures import check_picture
from mmalign.data.sample import Response, Sample
from mmalign.messages import ImageSlot, Message, Text
from mmalign.steering import num_requests

Record = Mapping[str, Any]
T = TypeVar("T")

PLACEHOLDER = re.compile(r"\n?<image>\n?")
"""Where a picture stands; the line breaks around it belong to LLaVA's format, and the template writes its own."""
ROLES = {"system": "system", "human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant"}
GOLD = "gold"
"""`model` of a data set's own answers."""
LONGEST_NAME = 120
"""Characters of a record's name that are told."""


class Row(NamedTuple):
    """A record of somebody's file, and how to call it where it has no id."""

    name: str
    fields: Record


@runtime_checkable
class PictureSource(Protocol):
    """Finds the bytes of a picture that a record names; see `mmalign.data.importers.pictures.Pictures`."""

    def read(self, name: str) -> bytes:
        """The picture, checked to be one; `UnreadableError` says why there is none."""


class Identity(NamedTuple):
    """What a sample takes from where its record stood."""

    key: str
    id: str
    source: str


def convert(
    rows: Iterable[Row | Skipped],
    build: Callable[[Record, Identity], Sample],
    *,
    source: str,
    name_field: str | None = "id",
) -> Iterator[Sample | Skipped]:
    """One sample, or one reason, for each record.

    Args:
        rows: The records, and those that could not even be read.
        build: Makes the sample; raises `UnreadableError` where it cannot.
        source: Name of the data set.
        name_field: Field by which a record is called, where it has it; None goes by where it stands.
    """
    for number, row in enumerate(rows):
        if isinstance(row, Skipped):
            yield row
            continue
        called = None if name_field is None else row.fields.get(name_field)
        name = printable(row.name if called in (None, "") else called)
        try:
            sample = build(row.fields, Identity(f"{number:07d}", name, source))
            sample.to_json().encode()
        except UnicodeEncodeError:
            yield Skipped(name, "its text holds half a character (a lone surrogate), which no file can hold")
        except UnreadableError as error:
            yield Skipped(name, printable(error, longest=1000))
        else:
            yield sample


def printable(text: object, *, longest: int = LONGEST_NAME) -> str:
    """A foreign text as it can be shown on a terminal: no control characters, and not without end."""
    shown = "".join(letter if letter.isprintable() else " " for letter in str(text)[:longest])
    return shown if len(str(text)) <= longest else f"{shown}..."


def snake_case(name: str) -> str:
    """`Spatial-Awareness` -> `spatial_awareness`: what others call a rating, as a name of ours."""
    return re.sub(r"\W+", "_", name.strip()).lower()


def take(record: Record, name: str, kind: type[T]) -> T:
    """A field that must be there.

    Args:
        record: The record.
        name: Of the field.
        kind: What it must hold; `float` takes whole numbers, too.

    Raises:
        UnreadableError: It is missing, or of another type.
    """
    if record.get(name) is None:
        raise UnreadableError(f"no `{name}`")
    value = record[name]
    if kind is float and type(value) is int:
        try:
            value = float(value)
        except OverflowError as error:
            raise UnreadableError(f"`{name}` is a number of {len(str(abs(value)))} digits") from error
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise UnreadableError(f"`{name}` is a {type(value).__name__}, not a {kind.__name__}")
    return value


def parse_turns(turns: object) -> tuple[Message, ...]:
    """Messages of a list of turns, in LLaVA's tags (`from`, `value`) or in OpenAI's (`role`, `content`).

    A content is text, with `<image>` in a user's turn where a picture stands, or a list of parts; in parts, text is
    text.

    Raises:
        UnreadableError: No list of turns, an unknown speaker, or a content of another kind.
    """
    if not isinstance(turns, Sequence) or isinstance(turns, str) or not turns:
        raise UnreadableError(f"the turns are {turns!r:.40}, not a list of them")
    return tuple(_parse_turn(turn) for turn in turns)


def split_placeholders(text: str) -> tuple[Text | ImageSlot, ...]:
    r"""`"<image>\nWhat?"` -> `(ImageSlot(), Text("What?"))`."""
    parts: list[Text | ImageSlot] = []
    for number, piece in enumerate(PLACEHOLDER.split(text)):
        parts += [ImageSlot()] if number else []
        parts += [Text(piece)] if piece else []
    return tuple(parts)


def check_dialogue(messages: Sequence[Message], *, ends_with: str) -> None:
    """Raise `UnreadableError` where people and models do not speak in turn, behind at most one system message."""
    dialogue = [message.role for number, message in enumerate(messages) if number or message.role != "system"]
    expected = (["user", "assistant"] * len(dialogue))[: len(dialogue)]
    if not dialogue or dialogue != expected or dialogue[-1] != ends_with:
        raise UnreadableError(f"turns must alternate from user to assistant and end with {ends_with}, got {dialogue}")


def split_answer(messages: Sequence[Message]) -> tuple[tuple[Message, ...], str]:
    """The prompt, and the text of the last turn behind it."""
    check_dialogue(messages, ends_with="assistant")
    *prompt, answer = messages
    return tuple(prompt), text_of(answer)


def text_of(message: Message) -> str:
    """All that a turn says."""
    return "".join(part.text for part in message.content if isinstance(part, Text))


def with_slots_first(messages: Sequence[Message], count: int) -> tuple[Message, ...]:
    """The prompt with slots in front of its first question, for sets whose texts do not say where pictures stand."""
    first = next((number for number, message in enumerate(messages) if message.role == "user"), None)
    if first is None:
        raise UnreadableError("no turn of a user, so the pictures belong to nobody")
    slots = (ImageSlot(),) * count
    return tuple(
        message._replace(content=(*slots, *message.content)) if number == first else message
        for number, message in enumerate(messages)
    )


def illustrate(
    messages: Sequence[Message], names: Sequence[object], pictures: PictureSource | None
) -> tuple[tuple[Message, ...], tuple[bytes, ...]]:
    """The prompt with its pictures; without its slots where a set is imported as text only.

    Args:
        messages: The prompt, with a slot for each picture.
        names: What the record says of its pictures, see `read_reference`.
        pictures: Where they lie; None for text only.

    Raises:
        UnreadableError: Slots and pictures differ in number, a picture is missing, or the prompt was built twice over.
    """
    check_question(messages, len(names))
    if pictures is None:
        return without_slots(messages), ()
    return tuple(messages), tuple(read_reference(name, pictures) for name in names)


def check_question(messages: Sequence[Message], num_pictures: int) -> None:
    """Refuse a question that was built twice over, and one that does not fit its pictures.

    Published SteerLM data hold the first: each pass over a question put `<image>` in front of it and attributes behind
    it, and all passes wrote into the same dictionary.
    """
    slots = sum(isinstance(part, ImageSlot) for message in messages for part in message.content)
    if slots > num_pictures:
        raise UnreadableError(f"<image> stands {slots} times in the questions, but there are {num_pictures} pictures")
    if slots < num_pictures:
        raise UnreadableError(f"the questions have {slots} image slots, but {num_pictures} pictures belong to them")
    requests = max(map(num_requests, messages), default=0)
    if requests > 1:
        raise UnreadableError(f"a question asks for attributes {requests} times, and one suffix contradicts the other")


def without_slots(messages: Sequence[Message]) -> tuple[Message, ...]:
    """The same turns without their pictures."""
    return tuple(
        message._replace(content=tuple(part for part in message.content if isinstance(part, Text)))
        for message in messages
    )


def read_reference(reference: object, pictures: PictureSource) -> bytes:
    """The picture that a record names or holds.

        "coco/a.jpg", "data:image/png;base64,iVBOR...", {"bytes": b"...", "path": "a.jpg"}, b"..."

    Raises:
        UnreadableError: None of these, or no picture.
    """
    match reference:
        case {"bytes": bytes(data)} | bytes(data):
            return check_picture(data, where="the bytes in the record")
        case {"path": str(name)} if name:
            return pictures.read(name)
        case str(address) if address.startswith(("http://", "https://")):
            raise UnreadableError(f"{printable(address)} is an address: download it, and let the record name the file")
        case str(inline) if inline.startswith("data:"):
            return check_picture(_decode_inline(inline), where="the picture in the record")
        case str(name):
            return pictures.read(name)
    raise UnreadableError(f"a picture is given as {printable(repr(reference))}: neither a name nor bytes")


def as_list(value: object) -> list[object]:
    """What stands in a field that may hold one thing, several or none."""
    if value is None or value == "":
        return []
    return list(value) if isinstance(value, Sequence) and not isinstance(value, str | bytes) else [value]


def gold_sample(prompt: Sequence[Message], images: tuple[bytes, ...], answer: str, identity: Identity) -> Sample:
    """A sample whose one answer is the data set's own."""
    responses = (Response(text=answer, model=GOLD),)
    return Sample(messages=tuple(prompt), images=images, responses=responses, **identity._asdict())


def _decode_inline(address: str) -> bytes:
    """Bytes of a `data:` address."""
    head, _, body = address.partition(",")
    if not head.endswith(";base64"):
        raise UnreadableError(f"a picture is given as {printable(head)}, which is not base64")
    try:
        return b64decode(body, validate=True)
    except ValueError as error:
        raise UnreadableError(f"a picture's base64 is broken ({error})") from error


def _parse_turn(turn: object) -> Message:
    if not isinstance(turn, Mapping):
        raise UnreadableError(f"a turn is {printable(repr(turn))}, not an object")
    tags = ("from", "value") if "from" in turn else ("role", "content")
    speaker, content = (turn.get(tag) for tag in tags)
    role = ROLES.get(speaker) if isinstance(speaker, str) else None
    if role is None:
        raise UnreadableError(f"a turn by {printable(repr(speaker))}; known are {', '.join(ROLES)}")
    if isinstance(content, str):
        return Message(role, split_placeholders(content) if role == "user" else (Text(content),))
    if not isinstance(content, Sequence) or isinstance(content, bytes):
        raise UnreadableError(f"a turn says {printable(repr(content))}: neither a text nor a list of parts")
    return Message(role, tuple(map(_parse_part, content)))


def _parse_part(part: object) -> Text | ImageSlot:
    match part:
        case {"type": "text", "text": str(text)} | {"type": "text", "value": str(text)}:
            return Text(text)
        case {"type": "image" | "image_url"}:
            return ImageSlot()
    raise UnreadableError(f"a part is {printable(repr(part))}: neither a text nor a picture")
