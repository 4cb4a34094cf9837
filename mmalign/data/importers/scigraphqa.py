r"""SciGraphQA: questions about figures of papers, with answers of several models and their grades.

    {"id": "1801.01974v2-Figure10-1", "image_file": "1801.01974v2-Figure10-1.png",
     "conversations": [{"from": "human", "value": "<image>\nWhat differs?"}, {"from": "gpt", "value": "The axes."}],
     "blip2_answer": "The first graph shows people.", "openai_rating": 0.0}           of one file
    {"id": "1801.01974v2-Figure10-1", ..., "llava_answer": "Two curves.", "openai_rating": 4.5}      of another

become one sample, joined by id and first question:

    Sample(key="0000000", id="1801.01974v2-Figure10-1", images=(png,),
           messages=(Message("user", (ImageSlot(), Text("What differs?"))),),
           responses=(Response(text="The first graph shows people.", model="blip2", judge="openai",
                               ratings={"openai_rating": 0.0}),
                      Response(text="Two curves.", model="llava", judge="openai", ratings={"openai_rating": 4.5}),
                      Response(text="The axes.", model="gold")))

Grades run from 0 to 10 under a name of their own; pairs are for a view to build, with `score: [openai_rating]`. Records
of the published training set have no grades: the last answer of their conversation is the response, by `gold`.

Data    https://huggingface.co/datasets/alexshengzhili/SciGraphQA-295K-train (https://arxiv.org/abs/2308.03349)
Tests   tests/data/importers/test_scigraphqa.py
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from mmalign.data.importers import Skipped, UnreadableError
from mmalign.data.importers.conversations import (
    GOLD,
    Identity,
    PictureSource,
    Record,
    Row,
    convert,
    gold_sample,
    illustrate,
    parse_turns,
    printable,
    split_answer,
    take,
    text_of,
)
from mmalign.data.sample import Judgment, Response, Sample
from mmalign.messages import Message

JUDGE = "openai"
RATING = "openai_rating"
HIGHEST = 10
ANSWER = "_answer"
"""Ends the name of the field that holds a model's answer; before it stands the model."""


JOINED = "graded answers"
"""Field of a joined record, which holds `Graded`."""


class Graded(NamedTuple):
    """All models' answers to a question."""

    responses: tuple[Response, ...]


def read_scigraphqa(
    rows: Iterable[Row | Skipped], pictures: PictureSource | None, *, source: str
) -> Iterator[Sample | Skipped]:
    """Samples of SciGraphQA's records; those about the same question become one.

    Args:
        rows: As `open_records` reads them, of one file or of several; see `join_answers`.
        pictures: Where the figures lie; None leaves them out.
        source: Name of the data set.
    """

    def build(record: Record, identity: Identity) -> Sample:
        names = [take(record, "image_file", str)]
        graded = record.get(JOINED)
        if not isinstance(graded, Graded):
            prompt, answer = split_answer(parse_turns(record.get("conversations")))
            messages, images = illustrate(prompt, names, pictures)
            return gold_sample(messages, images, answer, identity)
        question, gold = _first_exchange(record)
        messages, images = illustrate([question], names, pictures)
        responses = (*graded.responses, Response(text=gold, model=GOLD))
        return Sample(messages=messages, images=images, responses=responses, **identity._asdict())

    return convert(rows, build, source=source)


def join_answers(rows: Iterable[Row | Skipped]) -> list[Row | Skipped]:
    """One row for each question of a figure, with the answers of all files, where the first of them stood."""
    joined = dict[object, Row | Skipped]()
    for number, row in enumerate(rows):
        if isinstance(row, Skipped) or not any(name.endswith(ANSWER) for name in row.fields):
            joined[number] = row
            continue
        try:
            question, _ = _first_exchange(row.fields)
            responses = _graded(row.fields)
        except UnreadableError as error:
            joined[number] = Skipped(printable(row.fields.get("id") or row.name), printable(error))
            continue
        place = (str(row.fields.get("id")), text_of(question))
        known = joined.get(place)
        if isinstance(known, Row):
            responses = (*known.fields[JOINED].responses, *responses)
            row = known
        joined[place] = Row(row.name, {**row.fields, JOINED: Graded(responses)})
    return list(joined.values())


def _first_exchange(record: Record) -> tuple[Message, str]:
    """The question that the models were asked, and the set's own answer."""
    (question,), gold = split_answer(parse_turns(record.get("conversations"))[:2])
    return question, gold


def _graded(record: Record) -> tuple[Response, ...]:
    """The answers of a record: that of one model, usually."""
    grade = take(record, RATING, float)
    if not 0 <= grade <= HIGHEST:
        raise UnreadableError(f"`{RATING}` is {grade}, not from 0 to {HIGHEST}")
    names = [name for name in record if name.endswith(ANSWER)]
    answers = (Response(text=take(record, name, str), model=name.removesuffix(ANSWER)) for name in names)
    return tuple(answer.judged(Judgment(judge=JUDGE, ratings={RATING: grade})) for answer in answers)
