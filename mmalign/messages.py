"""Messages: what a person and a model said, and where the pictures stood.

    {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is unusual here?"}]}

`content` is a list of parts; a bare string is text. There are no placeholders in text: an `<image>` that somebody
typed is text. Shards, the template and the server all read messages here.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple


class Text(NamedTuple):
    """A stretch of plain text in a message."""

    text: str


class ImageSlot(NamedTuple):
    """The place of one picture in a message; slots take the sample's images in order."""

    type: str = "image"


class Message(NamedTuple):
    """One turn."""

    role: str
    """`system`, `user` or `assistant`."""
    content: tuple[Text | ImageSlot, ...]

    def to_record(self) -> dict[str, Any]:
        """The message as it stands in a shard."""
        parts = [{"type": "text", "text": p.text} if isinstance(p, Text) else {"type": "image"} for p in self.content]
        return {"role": self.role, "content": parts}


def parse_messages(records: Sequence[Mapping[str, Any]]) -> tuple[Message, ...]:
    """Messages from their JSON form; a bare string as `content` is one text part.

    Raises:
        ValueError: An unknown role or part.
    """
    return tuple(_parse_message(record) for record in records)


def _parse_message(record: Mapping[str, Any]) -> Message:
    if record["role"] not in ("system", "user", "assistant"):
        raise ValueError(f"role {record['role']!r} is none of system, user, assistant")
    content = record["content"]
    if isinstance(content, str):
        return Message(record["role"], (Text(content),))
    return Message(record["role"], tuple(_parse_part(part) for part in content))


def _parse_part(part: Mapping[str, Any]) -> Text | ImageSlot:
    match part:
        case {"type": "image"}:
            return ImageSlot()
        case {"type": "text", "text": str(text)}:
            return Text(text)
    raise ValueError(f'content part {part!r} is neither {{"type": "image"}} nor {{"type": "text", "text": ...}}')
