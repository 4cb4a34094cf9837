r"""Preferences in the layouts of TRL: `prompt`, `chosen`, `rejected`, and `images`, from JSON, parquet or `datasets`.

    {"images": [{"bytes": jpeg, "path": "1.jpg"}], "prompt": [{"role": "user", "content": [{"type": "image"},
     {"type": "text", "text": "What is this?"}]}], "chosen": [{"role": "assistant", "content": "A bus."}],
     "rejected": [{"role": "assistant", "content": "A car."}], "score_chosen": 9.0, "score_rejected": 4.5}
    {"image": "1.jpg", "prompt": "What is this?", "chosen": "A bus.", "rejected": "A car."}
    {"chosen": [{"role": "user", "content": "2 + 2?"}, {"role": "assistant", "content": "4"}],
     "rejected": [{"role": "user", "content": "2 + 2?"}, {"role": "assistant", "content": "5"}]}
    {"prompt": "2 + 2?", "completion": "4", "label": true}

become

    Sample(key="0000000", messages=(Message("user", (ImageSlot(), Text("What is this?"))),), images=(jpeg,),
           responses=(Response(text="A bus."), Response(text="A car.")), preference=Preference(chosen=0, rejected=1))

Where nothing says where the pictures stand, they stand in front of the first question, as TRL puts them. Scores become
the rating `score`; the label of a single completion the rating `desirable`, 1 or 0, for which `Unpaired` takes
`score: [desirable]`, `good_min: 1` and `bad_max: 0`. A completion without a label is an answer for SFT. Two bare texts
without a prompt are refused: where the prompt ends would be a guess.

Data    https://huggingface.co/docs/trl/dataset_formats
Tests   tests/data/importers/test_preferences.py
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from mmalign.data.importers import Skipped, UnreadableError
from mmalign.data.importers.conversations import (
    Identity,
    PictureSource,
    Record,
    Row,
    as_list,
    check_dialogue,
    convert,
    gold_sample,
    illustrate,
    parse_turns,
    split_answer,
    split_placeholders,
    text_of,
    with_slots_first,
)
from mmalign.data.sample import Preference, Ratings, Response, Sample
from mmalign.messages import ImageSlot, Message

DESIRABLE = "desirable"
"""Rating of an answer that somebody called good (1) or bad (0)."""
SCORE = "score"


def read_preferences(
    rows: Iterable[Row | Skipped], pictures: PictureSource | None, *, source: str
) -> Iterator[Sample | Skipped]:
    """Samples of preference records.

    Args:
        rows: As `open_records` reads them.
        pictures: Where those lie that a record only names; None leaves all out.
        source: Name of the data set.
    """

    def build(record: Record, identity: Identity) -> Sample:
        names = as_list(record.get("images", record.get("image")))
        if "completion" in record:
            prompt, images = illustrate(_placed(_prompt(record), len(names)), names, pictures)
            answer = answer_text(record, "completion")
            sample = gold_sample(prompt, images, answer, identity)
            if record.get("label") is None:
                return sample
            return replace(sample, responses=(rated_desirable(answer, record["label"]),))
        messages, chosen, rejected = _pair(record)
        prompt, images = illustrate(_placed(messages, len(names)), names, pictures)
        return pair_sample(prompt, images, chosen, rejected, identity, scores=_scores(record))

    return convert(rows, build, source=source)


def pair_sample(
    prompt: Sequence[Message],
    images: tuple[bytes, ...],
    chosen: str,
    rejected: str,
    identity: Identity,
    *,
    scores: Sequence[Ratings] = ({}, {}),
    models: tuple[str, str] = ("", ""),
) -> Sample:
    """A sample of two answers, of which the first was chosen.

    Args:
        prompt: Ends with a user's turn.
        images: Its pictures.
        chosen: The better answer.
        rejected: The other.
        identity: Key, id and source.
        scores: Ratings of both, where there are any.
        models: Who wrote them, where that is known.
    """
    answers = zip((chosen, rejected), scores, models, strict=True)
    return Sample(
        messages=tuple(prompt),
        images=images,
        responses=tuple(Response(text=text, ratings=ratings, model=model) for text, ratings, model in answers),
        preference=Preference(0, 1),
        **identity._asdict(),
    )


def answer_text(record: Record, name: str) -> str:
    """An answer: a text, a turn of the assistant, or a list with that one turn."""
    value = record.get(name)
    if isinstance(value, str):
        return value
    turns = parse_turns([value] if isinstance(value, Mapping) else value)
    if [turn.role for turn in turns] != ["assistant"]:
        raise UnreadableError(f"`{name}` is not one turn of the assistant but {[turn.role for turn in turns]}")
    return text_of(turns[0])


def rated_desirable(answer: str, label: object) -> Response:
    """An answer that somebody called good or bad."""
    if label not in (True, False):
        raise UnreadableError(f"its label is {label!r:.40}, neither true nor false")
    return Response(text=answer, ratings={DESIRABLE: int(bool(label))})


def split_shared(chosen: Sequence[Message], rejected: Sequence[Message]) -> tuple[tuple[Message, ...], str, str]:
    """The prompt that two conversations share, and their last turns."""
    prompt, first = split_answer(chosen)
    other, second = split_answer(rejected)
    if prompt != other:
        raise UnreadableError("the chosen and the rejected conversation differ before their last answers")
    return prompt, first, second


def _pair(record: Record) -> tuple[tuple[Message, ...], str, str]:
    if "prompt" in record:
        return _prompt(record), answer_text(record, "chosen"), answer_text(record, "rejected")
    chosen, rejected = record.get("chosen"), record.get("rejected")
    if isinstance(chosen, str) or isinstance(rejected, str):
        raise UnreadableError("no `prompt`, and the answers are bare texts: where a prompt ends would be a guess")
    return split_shared(parse_turns(chosen), parse_turns(rejected))


def _prompt(record: Record) -> tuple[Message, ...]:
    prompt = record.get("prompt")
    messages = (
        (Message("user", split_placeholders(prompt)),) if isinstance(prompt, str) and prompt else parse_turns(prompt)
    )
    check_dialogue(messages, ends_with="user")
    return messages


def _placed(messages: tuple[Message, ...], num_pictures: int) -> tuple[Message, ...]:
    """The prompt with a slot for each picture, in front where it has none."""
    has_slots = any(isinstance(part, ImageSlot) for message in messages for part in message.content)
    return messages if has_slots else with_slots_first(messages, num_pictures)


def _scores(record: Record) -> tuple[Ratings, Ratings]:
    chosen, rejected = (record.get(f"score_{side}") for side in ("chosen", "rejected"))
    return _score(chosen), _score(rejected)


def _score(value: object) -> Ratings:
    return {SCORE: value} if isinstance(value, int | float) and not isinstance(value, bool) else {}
