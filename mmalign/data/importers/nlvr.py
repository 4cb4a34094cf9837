"""NLVR (Suhr et al., 2017, https://github.com/lil-lab/nlvr): sentences that are true or false of a picture.

    {"sentence": "There is a yellow square.", "label": "true", "identifier": "1572-0", "directory": "2", ...}

becomes a question with both answers, and a preference from the label:

    Sample(key="1572-0", images=(images/2/dev-1572-0-0.png,), messages=(<picture, 'Is this statement ... yes or no.'>,),
           responses=(Response(text="Yes."), Response(text="No.")), preference=Preference(chosen=0, rejected=1))
"""

from collections.abc import Iterator, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

from mmalign.data.importers import Skipped, UnreadableError, read_picture
from mmalign.data.sample import Preference, Response, Sample
from mmalign.messages import ImageSlot, Message, Text

QUESTION = 'Is this statement about the picture true? "{sentence}" Answer yes or no.'
ANSWERS = ("Yes.", "No.")
PREFERENCE = {"true": Preference(0, 1), "false": Preference(1, 0)}
SOURCE = "nlvr"


def read_nlvr(records: Sequence[Mapping[str, Any]], folder: Path) -> Iterator[Sample | Skipped]:
    """Samples of NLVR's records.

    Args:
        records: Of its `dev.json`, JSON lines.
        folder: Where `dev.json` and `images/` lie.
    """
    for number, record in enumerate(records):
        name = str(record.get("identifier", number))
        try:
            yield _sample(record, folder)
        except UnreadableError as error:
            yield Skipped(name, str(error))


def held_out(identifier: str, fraction: float) -> bool:
    """Whether a sentence belongs to the held-out part, which no picture crosses.

    Sentences about the same picture (`1572-0`, `1572-1`: its permutations) go together, by the hash of what they share.

    Args:
        identifier: Of the sentence.
        fraction: Of the pictures that are held out, about.
    """
    group = identifier.split("-")[0]
    return int.from_bytes(sha256(group.encode()).digest()[:8], "big") < fraction * 2**64


def _sample(record: Mapping[str, Any], folder: Path) -> Sample:
    try:
        identifier, sentence = str(record["identifier"]), str(record["sentence"]).strip()
        preference = PREFERENCE[record["label"]]
        picture = f"images/{record['directory']}/dev-{identifier}-0.png"
    except KeyError as error:
        raise UnreadableError(f"not an NLVR record: no field or unknown label {error}") from error
    return Sample(
        key=identifier,
        messages=(Message("user", (ImageSlot(), Text(QUESTION.format(sentence=sentence)))),),
        images=(read_picture(picture, folder),),
        responses=tuple(Response(text=answer) for answer in ANSWERS),
        preference=preference,
        source=SOURCE,
        id=identifier,
    )
