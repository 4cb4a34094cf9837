r"""mDPO's pairs: the prompt stands in Vicuna's template, and is taken out of it.

    {"img_path": "images/llava-reasoning-3730.jpg",
     "prompt": "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful,
                detailed, and polite answers to the user's questions. USER: <image>\nHow might ...? ASSISTANT:",
     "chosen": "The atmosphere of the photo ...", "rejected": "The atmosphere in this image ..."}

becomes

    Sample(key="0000000", id="images/llava-reasoning-3730.jpg", images=(jpeg,),
           messages=(Message("user", (ImageSlot(), Text("How might ...?"))),),
           responses=(Response(text="The atmosphere of the photo ..."), Response(text="The atmosphere in this ...")),
           preference=Preference(chosen=0, rejected=1))

Another system message than Vicuna's is kept as a message; Vicuna's own is written by the template. Earlier turns, ended
by `</s>`, become turns.

Data    https://github.com/luka-group/mDPO (Wang et al., 2024, https://arxiv.org/abs/2406.11839)
Tests   tests/data/importers/test_mdpo.py
"""

import re
from collections.abc import Iterable, Iterator

from mmalign.data.importers import Skipped, UnreadableError
from mmalign.data.importers.conversations import (
    Identity,
    PictureSource,
    Record,
    Row,
    check_dialogue,
    convert,
    illustrate,
    split_placeholders,
    take,
)
from mmalign.data.importers.preferences import pair_sample
from mmalign.data.sample import Sample
from mmalign.messages import Message, Text

VICUNA_SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, detailed, "
    "and polite answers to the user's questions."
)
SPEAKER = re.compile(r"(?:^|\s|</s>)(USER|ASSISTANT):")
"""Where a turn begins. A user who typed this word himself cannot be told apart; his row does not alternate."""
END = "</s>"


def read_mdpo(
    rows: Iterable[Row | Skipped], pictures: PictureSource | None, *, source: str
) -> Iterator[Sample | Skipped]:
    """Samples of mDPO's records.

    Args:
        rows: As `open_records` reads them.
        pictures: Where they lie; None leaves them out.
        source: Name of the data set.
    """

    def build(record: Record, identity: Identity) -> Sample:
        messages = parse_vicuna(take(record, "prompt", str))
        name = record.get("img_path")
        messages, images = illustrate(messages, [name] if name else [], pictures)
        return pair_sample(messages, images, take(record, "chosen", str), take(record, "rejected", str), identity)

    return convert(rows, build, source=source, name_field="img_path")


def parse_vicuna(prompt: str) -> tuple[Message, ...]:
    """Messages of a prompt in Vicuna's template, which ends where the assistant's turn begins.

    Raises:
        UnreadableError: It is not in that template.
    """
    system, *pieces = SPEAKER.split(prompt)
    speakers, texts = pieces[::2], pieces[1::2]
    if not speakers or speakers[-1] != "ASSISTANT" or texts[-1].strip():
        raise UnreadableError("`prompt` is not in Vicuna's template, which ends with ASSISTANT:")
    turns = [_turn(speaker, text) for speaker, text in zip(speakers[:-1], texts[:-1], strict=True)]
    if system.strip() not in ("", VICUNA_SYSTEM):
        turns.insert(0, Message("system", (Text(system.strip()),)))
    check_dialogue(turns, ends_with="user")
    return tuple(turns)


def _turn(speaker: str, text: str) -> Message:
    text = text.strip()
    if speaker == "USER":
        return Message("user", split_placeholders(text))
    return Message("assistant", (Text(text.removesuffix(END).strip()),))
