r"""The first author's human pairs: two answers, a person's choice, and what GPT-4V said of both.

Rows of LLaVA-RLHF's human preferences (https://huggingface.co/datasets/zhiqings/LLaVA-Human-Preference-10K), rated in
https://github.com/findalexli/SteerMLLM. A file is one object, its rows by number:

    {"80": {"id": 564729, "image": "000000564729.jpg",
            "conversations": [{"from": "human", "value": "What type of sandwich is it?\n<image>"},
                              {"from": "gpt", "value": "A cheese steak."}],
            "output_1": {"from": "llava", "value": "A club."}, "output_2": {"from": "llava", "value": "A sub."},
            "preference": 2,
            "gpt4v_response": {"model": "gpt-4-1106-vision-preview", "choices": [{"message": {"content": "..."}}]},
            "extracted_attributes": "{\"Ratings for Response A\": {\"Hallucinations\": 1.0, \"Helpfulness\": 0.1, ...},
                                      \"Ratings for Response B\": {...}}"}}

becomes

    Sample(key="0000000", id="80", messages=(Message("user", (Text("What type of sandwich is it?"), ImageSlot())),),
           responses=(Response(text="A club.", model="llava", judge="gpt-4-1106-vision-preview", place=0,
                               ratings={"hallucinations": 4, "helpfulness": 0, ...}, rationale="..."),
                      Response(text="A sub.", model="llava", ...), Response(text="A cheese steak.", model="gold")),
           preference=Preference(chosen=1, rejected=0))

The preference is the person's, the ratings are the judge's: from 0-1 to 0-4 by `round(4 * value)`, as the author's code
does. More hallucinations are worse, all other ratings better. An answer whose ratings could not be extracted has an
invalid judgment. The judge was shown the first question of a conversation only, the person all of it: where there are
several, the judge's criticism of "irrelevant" answers says nothing.

Tests   tests/data/importers/test_human_pairs.py
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from mmalign.data.importers import Skipped, UnreadableError
from mmalign.data.importers.conversations import (
    GOLD,
    Identity,
    PictureSource,
    Record,
    Row,
    as_list,
    convert,
    illustrate,
    parse_turns,
    snake_case,
    split_answer,
    take,
)
from mmalign.data.importers.sources import parse_json
from mmalign.data.sample import Judgment, Preference, Response, Sample

JUDGE = "gpt-4-vision"
"""Where the reply does not say which model wrote it."""
SIDES = ("Ratings for Response A", "Ratings for Response B")
"""Of the first and the second output, in the order in which the judge saw them."""
LIKERT_STEPS = 4
PREFERENCES = {1: Preference(0, 1), 2: Preference(1, 0)}
OUTPUTS = ("output_1", "output_2")


def read_human_pairs(
    rows: Iterable[Row | Skipped], pictures: PictureSource | None, *, source: str
) -> Iterator[Sample | Skipped]:
    """Samples of the author's rows. A pair that stands there twice is taken once, where it has ratings.

    Args:
        rows: Of one file or several; a row is called by its number.
        pictures: The pictures of COCO's train2017; None leaves them out.
        source: Name of the data set.
    """

    def build(record: Record, identity: Identity) -> Sample:
        return _sample(record, pictures, identity)

    return convert(_once(list(rows)), build, source=source, name_field=None)


def likert(value: object) -> int:
    """A rating from 0 to 1, on the scale from 0 to 4.

    Raises:
        ValueError: No number from 0 to 1.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise ValueError(f"{value!r:.40} is no rating from 0 to 1")
    return round(LIKERT_STEPS * value)


def read_ratings(extracted: object) -> tuple[dict[str, int], ...]:
    """Ratings of both outputs, from what another model extracted of the judge's words.

    Args:
        extracted: JSON, perhaps in a fence, by itself or as the reply of an API; or the error of an API.

    Raises:
        ValueError: There are none.
    """
    text = extracted if isinstance(extracted, str) else _content(extracted)
    sides = parse_json(text[text.find("{") : text.rfind("}") + 1])
    if not isinstance(sides, Mapping) or not all(
        isinstance(sides.get(side), Mapping) and sides[side] for side in SIDES
    ):
        raise ValueError(f"{text!r:.80} does not hold {' and '.join(SIDES)}")
    return tuple({snake_case(name): likert(value) for name, value in sides[side].items()} for side in SIDES)


def _once(rows: Sequence[Row | Skipped]) -> Iterator[Row | Skipped]:
    """The rows, and of those with the same pair only one: the first with ratings, or the first."""
    alike = dict[str, list[Row]]()
    for row in rows:
        if isinstance(row, Row):
            alike.setdefault(_pair_text(row.fields), []).append(row)
    kept = {pair: next((row for row in group if _has_ratings(row.fields)), group[0]) for pair, group in alike.items()}
    for row in rows:
        if isinstance(row, Skipped) or (best := kept[_pair_text(row.fields)]) is row:
            yield row
        else:
            yield Skipped(row.name, f"the same pair as {best.name}, which is imported")


def _pair_text(record: Record) -> str:
    names = ("id", "image", "conversations", *OUTPUTS, "preference")
    return json.dumps([record.get(name) for name in names], sort_keys=True, default=repr)


def _has_ratings(record: Record) -> bool:
    try:
        return bool(read_ratings(record.get("extracted_attributes")))
    except ValueError:
        return False


def _sample(record: Record, pictures: PictureSource | None, identity: Identity) -> Sample:
    prompt, gold = split_answer(parse_turns(record.get("conversations")))
    outputs = [take(record, name, dict) for name in OUTPUTS]
    preference = PREFERENCES.get(take(record, "preference", int))
    if preference is None:
        raise UnreadableError(f"`preference` is {record['preference']}, neither 1 nor 2")
    messages, images = illustrate(prompt, as_list(record.get("image")), pictures)
    answers = (
        Response(text=take(output, "value", str), model=str(output.get("from", ""))).judged(judgment)
        for output, judgment in zip(outputs, _judgments(record), strict=True)
    )
    return Sample(
        messages=messages,
        images=images,
        responses=(*answers, Response(text=gold, model=GOLD)),
        preference=preference,
        **identity._asdict(),
    )


def _judgments(record: Record) -> tuple[Judgment, ...]:
    reply = record.get("gpt4v_response")
    judge = str(reply.get("model", JUDGE)) if isinstance(reply, Mapping) else JUDGE
    try:
        ratings = read_ratings(record.get("extracted_attributes"))
        rationale = _content(reply)
    except ValueError as error:
        return tuple(Judgment(judge=judge, place=place, invalid=f"no ratings: {error}") for place in range(len(SIDES)))
    return tuple(
        Judgment(judge=judge, ratings=side, rationale=rationale, place=place) for place, side in enumerate(ratings)
    )


def _content(reply: Any) -> str:
    """What a model said, in the reply of OpenAI's API."""
    match reply:
        case {"choices": [{"message": {"content": str(text)}}, *_]}:
            return text
        case {"error": {"message": str(message)}}:
            raise ValueError(f"the API answered with an error: {message}")
    raise ValueError(f"{reply!r:.60} is no reply of a model")
