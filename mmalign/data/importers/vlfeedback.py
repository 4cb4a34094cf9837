r"""VLFeedback (Silkie): four answers of twelve models to a prompt, rated 1-5 by GPT-4V in three aspects, with reasons.

    {"id": "LLaVA-Instruct-1", "prompt": "What is this?", "img_path": "LLaVA-Instruct-1.jpg", "models": ["qwen", ...],
     "completions": [{"model": "qwen", "response": "A bus.", "annotations": {
         "Helpfulness": {"Rating": "5", "Rationale": "Answers it."},
         "Visual Faithfulness": {"Rating": "4", "Rationale": "All of it is there."},
         "Ethical Considerations": {"Rating": "N/A", "Rationale": "None arise."}}}, ...]}

becomes

    Sample(key="0000000", id="LLaVA-Instruct-1", messages=(Message("user", (ImageSlot(), Text("What is this?"))),),
           images=(jpeg,), responses=(Response(text="A bus.", model="qwen", judge="gpt-4v",
               ratings={"vlfeedback_helpfulness": 5, "vlfeedback_visual_faithfulness": 4}, rationale="..."), ...))

The ratings have names of their own, because HelpSteer's `helpfulness` ends at 4. What is not applicable has no rating;
an answer without any has an invalid judgment. Pairs are for a view to build, with
`score: [vlfeedback_helpfulness, vlfeedback_visual_faithfulness]`. The completions may also stand as an object of lists,
as `datasets` writes them.

Data    https://huggingface.co/datasets/MMInstruction/VLFeedback
Tests   tests/data/importers/test_vlfeedback.py
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from mmalign.data.importers import Skipped, UnreadableError
from mmalign.data.importers.conversations import (
    Identity,
    PictureSource,
    Record,
    Row,
    convert,
    illustrate,
    snake_case,
    take,
)
from mmalign.data.sample import Judgment, Response, Sample
from mmalign.messages import ImageSlot, Message, Text

JUDGE = "gpt-4v"
PREFIX = "vlfeedback_"
SCALE = ("1", "2", "3", "4", "5")
NOT_APPLICABLE = "N/A"
COLUMNS = ("model", "response", "annotations")
"""Of the completions, where they stand as an object of lists."""


def read_vlfeedback(
    rows: Iterable[Row | Skipped], pictures: PictureSource | None, *, source: str
) -> Iterator[Sample | Skipped]:
    """Samples of VLFeedback's records.

    Args:
        rows: As `open_records` reads them.
        pictures: Where those lie that a record only names; None leaves all out.
        source: Name of the data set.
    """

    def build(record: Record, identity: Identity) -> Sample:
        question = (Message("user", (ImageSlot(), Text(take(record, "prompt", str)))),)
        picture = record.get("img_path") or record.get("image")
        messages, images = illustrate(question, [picture], pictures)
        responses = tuple(
            _response(completion, place) for place, completion in enumerate(_completions(record.get("completions")))
        )
        return Sample(messages=messages, images=images, responses=responses, **identity._asdict())

    return convert(rows, build, source=source)


def _completions(value: object) -> list[Record]:
    """The list of completions, also where it is an object of lists."""
    if isinstance(value, Mapping):
        columns = [value.get(name) for name in COLUMNS]
        lists = [column for column in columns if isinstance(column, Sequence)]
        if len({len(column) for column in lists}) != 1 or len(lists) != len(columns):
            raise UnreadableError(f"`completions` is an object whose {', '.join(COLUMNS)} are not lists of one length")
        value = [dict(zip(COLUMNS, row, strict=True)) for row in zip(*lists, strict=True)]
    if not isinstance(value, Sequence) or not value or not all(isinstance(each, Mapping) for each in value):
        raise UnreadableError(f"`completions` is {value!r:.40}, not a list of answers")
    return list(value)


def _response(completion: Record, place: int) -> Response:
    response = Response(text=take(completion, "response", str), model=str(completion.get("model") or ""))
    annotations = completion.get("annotations")
    if not annotations:
        return response
    if not isinstance(annotations, Mapping) or not all(isinstance(each, Mapping) for each in annotations.values()):
        raise UnreadableError(f"`annotations` is {annotations!r:.40}, not ratings by aspect")
    said = {aspect: str(each.get("Rating")).strip() for aspect, each in annotations.items()}
    ratings = {PREFIX + snake_case(aspect): int(rating) for aspect, rating in said.items() if rating in SCALE}
    rationale = "\n".join(f"{aspect}: {each.get('Rationale')}" for aspect, each in annotations.items())
    judgment = Judgment(judge=JUDGE, ratings=ratings, rationale=rationale, place=place)
    strange = [rating for rating in said.values() if rating not in (*SCALE, NOT_APPLICABLE)]
    if strange or not ratings:
        reason = f"ratings {strange} are none of {', '.join(SCALE)}" if strange else "nothing was rated"
        judgment = replace(judgment, ratings={}, invalid=reason)
    return response.judged(judgment)
