"""NLVR (Suhr et al., 2017, https://github.com/lil-lab/nlvr): sentences that are true or false of a picture.

    {"sentence": "There is a yellow square.", "label": "true", "identifier": "1572-0", "directory": "2", ...}

becomes a question with both answers, and a preference from the label:

    Sample(key="1572-0", images=(images/2/dev-1572-0-0.png,), messages=(<picture, 'Is this statement ... yes or no.'>,),
           responses=(Response(text="Yes."), Response(text="No.")), preference=Preference(chosen=0, rejected=1))

Tests   tests/data/importers/test_nlvr.py
"""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from hashlib import sha256

from mmalign.data.importers import Skipped, UnreadableError
from mmalign.data.importers.conversations import Identity, PictureSource, Record, Row, convert, illustrate, take
from mmalign.data.sample import Preference, Response, Sample
from mmalign.messages import ImageSlot, Message, Text

QUESTION = 'Is this statement about the picture true? "{sentence}" Answer yes or no.'
ANSWERS = ("Yes.", "No.")
PREFERENCE = {"true": Preference(0, 1), "false": Preference(1, 0)}
SOURCE = "nlvr"


def read_nlvr(rows: Iterable[Row | Skipped], pictures: PictureSource) -> Iterator[Sample | Skipped]:
    """Samples of NLVR's records.

    Args:
        rows: Of its `dev.json`, JSON lines.
        pictures: Where `images/` lies.
    """

    def build(record: Record, identity: Identity) -> Sample:
        name, sentence = take(record, "identifier", str), take(record, "sentence", str).strip()
        preference = PREFERENCE.get(take(record, "label", str))
        if preference is None:
            raise UnreadableError(f"its label is {record['label']!r:.40}, neither true nor false")
        question = Message("user", (ImageSlot(), Text(QUESTION.format(sentence=sentence))))
        picture = f"images/{record.get('directory')}/dev-{name}-0.png"
        messages, images = illustrate([question], [picture], pictures)
        responses = tuple(Response(text=answer) for answer in ANSWERS)
        sample = Sample(messages=messages, images=images, responses=responses, **identity._asdict())
        return replace(sample, key=name, preference=preference)

    return convert(rows, build, source=SOURCE, name_field="identifier")


def held_out(identifier: str, fraction: float) -> bool:
    """Whether a sentence belongs to the held-out part, which no picture crosses.

    Sentences about the same picture (`1572-0`, `1572-1`: its permutations) go together, by the hash of what they share.

    Args:
        identifier: Of the sentence.
        fraction: Of the pictures that are held out, about.
    """
    group = identifier.split("-")[0]
    return int.from_bytes(sha256(group.encode()).digest()[:8], "big") < fraction * 2**64
