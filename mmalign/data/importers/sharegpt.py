r"""ShareGPT conversations as LLaMA-Factory writes them, for SFT and for preferences; and its v1 layout.

    {"messages": [{"role": "user", "content": "<image>Who are they?"}, {"role": "assistant", "content": "Kane."}],
     "images": ["mllm_demo_data/1.jpg"]}
    {"conversations": [{"from": "human", "value": "<image>Who are they?"}], "system": "Be brief.", "images": [...],
     "chosen": {"from": "gpt", "value": "Kane."}, "rejected": {"from": "gpt", "value": "Nobody."}}
    {"messages": [{"role": "user", "content": [{"type": "image_url", "value": "data/1.jpg"},
                                               {"type": "text", "value": "Who are they?"}], "loss_weight": 0.0},
                  {"role": "assistant", "content": [{"type": "text", "value": "Kane."}], "loss_weight": 1.0}]}
    {"chosen_messages": [..., {"role": "assistant", ...}], "rejected_messages": [..., {"role": "assistant", ...}]}

become samples with one answer, `gold`, or with two and a preference:

    Sample(key="0000001", messages=(Message("system", (Text("Be brief."),)), Message("user", (ImageSlot(), Text(...)))),
           images=(jpeg,), responses=(Response(text="Kane."), Response(text="Nobody.")),
           preference=Preference(chosen=0, rejected=1))

The last answer is the response, earlier ones stay in the prompt. Where `kto_tag` says if an answer is desired, it has
the rating `desirable`, 1 or 0. Turns of tools are refused, and so is an answer whose `loss_weight` is 0.

Data    https://github.com/hiyouga/LLaMA-Factory/tree/main/data
Tests   tests/data/importers/test_sharegpt.py
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
)
from mmalign.data.importers.preferences import answer_text, pair_sample, rated_desirable, split_shared
from mmalign.data.sample import Sample
from mmalign.messages import Message, Text


def read_sharegpt(
    rows: Iterable[Row | Skipped], pictures: PictureSource | None, *, source: str
) -> Iterator[Sample | Skipped]:
    """Samples of ShareGPT records.

    Args:
        rows: As `open_records` reads them.
        pictures: Where they lie; None leaves them out.
        source: Name of the data set.
    """

    def build(record: Record, identity: Identity) -> Sample:
        if "chosen_messages" in record:
            return _sample_v1_pair(record, pictures, identity)
        turns = record.get("conversations", record.get("messages"))
        messages = (*_system(record), *parse_turns(turns))
        names = [*as_list(record.get("images")), *_names_in_parts(turns)]
        if "chosen" in record:
            check_dialogue(messages, ends_with="user")
            prompt, images = illustrate(messages, names, pictures)
            return pair_sample(prompt, images, answer_text(record, "chosen"), answer_text(record, "rejected"), identity)
        prompt, answer = split_answer(messages)
        _check_trained(turns)
        prompt, images = illustrate(prompt, names, pictures)
        sample = gold_sample(prompt, images, answer, identity)
        if record.get("kto_tag") is None:
            return sample
        return replace(sample, responses=(rated_desirable(answer, record["kto_tag"]),))

    return convert(rows, build, source=source)


def _sample_v1_pair(record: Record, pictures: PictureSource | None, identity: Identity) -> Sample:
    chosen, rejected = record["chosen_messages"], record.get("rejected_messages")
    prompt, first, second = split_shared(parse_turns(chosen), parse_turns(rejected))
    _check_trained(chosen)
    prompt, images = illustrate(prompt, _names_in_parts(chosen), pictures)
    return pair_sample(prompt, images, first, second, identity)


def _system(record: Record) -> tuple[Message, ...]:
    """The message of a `system` field."""
    system = record.get("system")
    if not system:
        return ()
    if not isinstance(system, str):
        raise UnreadableError(f"`system` is a {type(system).__name__}, not a text")
    return (Message("system", (Text(system),)),)


def _names_in_parts(turns: object) -> list[object]:
    """Pictures that stand in the turns themselves, in order; `parse_turns` has checked the rest of them."""
    assert isinstance(turns, Sequence)
    contents = [turn.get("content") for turn in turns if isinstance(turn.get("content"), Sequence)]
    parts = [part for content in contents for part in content if isinstance(part, Mapping)]
    return [part.get("value", part.get("image_url")) for part in parts if part.get("type") in ("image", "image_url")]


def _check_trained(turns: object) -> None:
    """Refuse an answer that shall not be trained on: as a response it would be."""
    assert isinstance(turns, Sequence)
    if turns[-1].get("loss_weight") == 0:
        raise UnreadableError("the last answer has `loss_weight` 0, so it is not to be trained on")
