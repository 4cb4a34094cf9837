"""The sample: one shard entry, `<key>.json` beside its pictures.

    {"messages": [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is unusual?"}]}],
     "responses": [{"text": "...", "model": "llava-1.5-13b", "sampling": {"temperature": 0.7, "seed": 3},
                    "ratings": {"helpfulness": 4, "correctness": 4, "coherence": 4, "complexity": 3, "verbosity": 3},
                    "rationale": "...", "judge": "gemini-pro-vision", "place": 2,
                    "judgments": [{"judge": "gpt-4o", "ratings": {...}, "rationale": "...", "place": 0}]}],
     "preference": {"chosen": 0, "rejected": 2},
     "source": "lrv-instruct", "id": "..."}

`content` is a list of parts; a bare string is text. There are no placeholders in text: an `<image>` that somebody
typed is text. All responses and all ratings are kept for ever; views choose among them while streaming. `ratings`,
`rationale`, `judge` and `place` of a response are its latest judgment, which views go by; those before it stand in
`judgments`.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, NamedTuple

from mmalign.messages import ImageSlot, Message, parse_messages
from mmalign.steering import ATTRIBUTES, SCALE

TEXTS = ("text", "model", "rationale", "judge", "invalid")
"""Fields of a response or of a judgment."""
IMAGE_SUFFIXES = ("jpg", "jpeg", "png", "webp")


class Place(NamedTuple):
    """Where a sample lies in its shard set."""

    shard: str
    key: str


class SampleError(ValueError):
    """A sample that cannot be used; the message names shard, sample, fault and remedy."""

    place: Place | None = None
    """The sample, where it was being read: a row may read another one than its own."""


class ShardError(ValueError):
    """A shard or a manifest that cannot be used; the message names it, the fault and the remedy."""

    place: Place | None = None
    """The sample that was being read, if any."""


class GoneError(FileNotFoundError):
    """A shard that its manifest lists is gone."""

    place: Place | None = None
    """The sample that was being read, if any."""


class Preference(NamedTuple):
    """A direct choice, by a person or a published set: indices into the responses."""

    chosen: int
    rejected: int


Ratings = Mapping[str, int | float]
"""Numbers by name. HelpSteer's (`mmalign.steering.ATTRIBUTES`) are whole, 0-4; others have their judge's scale."""


@dataclass(frozen=True, kw_only=True)
class Judgment:
    """What one judge said of one response."""

    judge: str
    """Its name; empty where nobody wrote it down."""
    ratings: Ratings = field(default_factory=dict)
    """None where the judge failed."""
    rationale: str = ""
    place: int | None = None
    """At which the response stood among those that the judge was shown together, from 0; None where it saw one."""
    invalid: str = ""
    """Why there are no ratings, though the judge was asked: never zero, never left out in silence."""


@dataclass(frozen=True, kw_only=True)
class Response:
    """One answer to the prompt, with all that is known of it."""

    text: str
    model: str = ""
    sampling: Mapping[str, Any] = field(default_factory=dict)
    """How it was made: seed, temperature and what else its maker says."""
    ratings: Ratings = field(default_factory=dict)
    """Of the latest judgment, see `Ratings`; empty where nobody judged."""
    rationale: str = ""
    judge: str = ""
    """Who gave the ratings."""
    place: int | None = None
    """See `Judgment`."""
    judgments: tuple[Judgment, ...] = ()
    """Those before the latest, and those that are invalid; a judge stands here once."""

    def all_judgments(self) -> tuple[Judgment, ...]:
        """The latest first, then the others."""
        latest = Judgment(judge=self.judge, ratings=self.ratings, rationale=self.rationale, place=self.place)
        return (latest, *self.judgments) if self.ratings else self.judgments

    def judged(self, judgment: Judgment) -> "Response":
        """The response with one more judgment, the latest, in the place of an earlier one by the same judge.

        One that is invalid stands among the others: views go on by the ratings there are.
        """
        others = [each for each in self.all_judgments() if each.judge != judgment.judge]
        ranked = [*others, judgment] if judgment.invalid else [judgment, *others]
        latest = next((each for each in ranked if not each.invalid), Judgment(judge=""))
        fields = {name: getattr(latest, name) for name in ("ratings", "rationale", "judge", "place")}
        return replace(self, **fields, judgments=tuple(each for each in ranked if each is not latest))


@dataclass(frozen=True, kw_only=True)
class Sample:
    """A prompt, its pictures (encoded bytes, as they stood in the shard) and its responses."""

    key: str
    messages: tuple[Message, ...]
    images: tuple[bytes, ...] = ()
    responses: tuple[Response, ...] = ()
    preference: Preference | None = None
    source: str = ""
    id: str = ""

    def to_json(self) -> str:
        """The record without its images, as it stands in `<key>.json`."""
        record: dict[str, Any] = {"messages": [m.to_record() for m in self.messages]}
        record["responses"] = [_response_record(r) for r in self.responses]
        if self.preference is not None:
            record["preference"] = self.preference._asdict()
        record |= {"source": self.source, "id": self.id}
        return json.dumps(record, ensure_ascii=False)


def parse_sample(text: str | bytes, *, key: str, images: Sequence[bytes] = (), where: str = "") -> Sample:
    """Read and check one record.

    Args:
        text: The JSON of `<key>.json`.
        key: The entry's key in its shard.
        images: Encoded pictures, in order.
        where: The shard's name or address, for messages.

    Raises:
        SampleError: What is wrong, in which shard and sample, and what to do.
    """
    place = f"{where or 'sample'}, sample {key!r}"
    try:
        record = json.loads(text)
        messages = parse_messages(record["messages"])
        responses = tuple(_parse_response(r) for r in record.get("responses", ()))
        preference = _parse_preference(record["preference"]) if record.get("preference") else None
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        message = f"lacks {error}" if isinstance(error, KeyError) else str(error)
        raise SampleError(f"{place}: {message}. Mend the record; shards/README.md shows a whole one.") from error
    sample = Sample(
        key=key,
        messages=messages,
        images=tuple(images),
        responses=responses,
        preference=preference,
        source=str(record.get("source", "")),
        id=str(record.get("id", key)),
    )
    check_sample(sample, where=where)
    return sample


def check_sample(sample: Sample, *, where: str = "") -> None:
    """Raise `SampleError` where prompt, pictures, responses and preference do not fit one another."""
    place = f"{where or 'sample'}, sample {sample.key!r}"
    slots = sum(isinstance(part, ImageSlot) for message in sample.messages for part in message.content)
    if slots != len(sample.images):
        raise SampleError(
            f"{place}: the messages have {slots} image slots, but {len(sample.images)} pictures lie beside the record. "
            'Give every picture one {"type": "image"} part, in order.'
        )
    if not sample.messages or sample.messages[-1].role != "user":
        raise SampleError(f"{place}: the messages must end with a user turn; put the answer into `responses`.")
    if any(isinstance(part, ImageSlot) for m in sample.messages if m.role != "user" for part in m.content):
        raise SampleError(f"{place}: only user turns can hold pictures. Move the image part into a user turn.")
    for ratings in (judgment.ratings for response in sample.responses for judgment in response.all_judgments()):
        if bad := {name: value for name, value in ratings.items() if not _on_scale(name, value)}:
            low, high = SCALE
            raise SampleError(
                f"{place}: ratings {bad}, but {', '.join(ATTRIBUTES)} are whole numbers from {low} to {high}, and all "
                "others finite. Rescale or rename them before writing shards."
            )
    if sample.preference is not None and not all(0 <= i < len(sample.responses) for i in sample.preference):
        raise SampleError(
            f"{place}: {sample.preference} points outside the {len(sample.responses)} responses. "
            "`chosen` and `rejected` are indices into `responses`, from 0."
        )


def _parse_response(record: Mapping[str, Any]) -> Response:
    unknown = record.keys() - Response.__dataclass_fields__.keys()
    if unknown:
        raise ValueError(f"response has unknown fields {sorted(unknown)}")
    if "text" not in record:
        raise KeyError("text")
    for each in (record, *record.get("judgments", ())):
        if strange := [name for name in TEXTS if not isinstance(each.get(name, ""), str)]:
            raise ValueError(f"response {record!r:.80}: {', '.join(strange)} must be strings")
        ratings, sampling, place = each.get("ratings", {}), each.get("sampling", {}), each.get("place")
        if not isinstance(ratings, Mapping) or not all(isinstance(value, int | float) for value in ratings.values()):
            raise ValueError(f"ratings {ratings!r:.80} are not numbers by name")
        if not isinstance(sampling, Mapping) or not isinstance(place, int | None):
            raise ValueError(f"response {record!r:.80}: `sampling` must be an object, `place` a whole number")
    judgments = tuple(Judgment(**each) for each in record.get("judgments", ()))
    return Response(**{**record, "judgments": judgments})


def _on_scale(name: str, value: object) -> bool:
    """Whether a rating can be one."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    if not abs(value) <= sys.float_info.max:  # infinite, no number at all, or a whole one beyond all others
        return False
    low, high = SCALE
    return name not in ATTRIBUTES or (isinstance(value, int) and low <= value <= high)


def _parse_preference(record: Mapping[str, Any]) -> Preference:
    preference = Preference(**record)
    if not all(isinstance(index, int) for index in preference):
        raise ValueError(f"{preference} must hold two indices")
    return preference


def _response_record(response: Response) -> dict[str, Any]:
    """What is known of it; `judgments` likewise."""
    record = {name: value for name, value in vars(response).items() if _is_known(value)}
    if response.judgments:
        record["judgments"] = [
            {"judge": each.judge} | {name: value for name, value in asdict(each).items() if _is_known(value)}
            for each in response.judgments
        ]
    return {"text": response.text} | record


def _is_known(value: object) -> bool:
    """Whether a field says anything; place 0 does."""
    return bool(value) or value == 0
