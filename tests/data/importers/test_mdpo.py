"""mDPO's prompts come in Vicuna's template and leave it as messages."""

from pathlib import Path

import pytest

from mmalign.data.importers import UnreadableError
from mmalign.data.importers.mdpo import VICUNA_SYSTEM, parse_vicuna, read_mdpo
from mmalign.data.importers.sources import open_records
from mmalign.data.sample import Preference
from mmalign.messages import ImageSlot, Message, Text

FILE = Path(__file__).parents[3].parent / "shared" / "data" / "formats" / "mdpo_sample.json"
needs_shared = pytest.mark.skipif(not FILE.is_file(), reason="no real data: ../shared/data/formats is absent")


def test_the_template_is_stripped_to_messages():
    assert parse_vicuna(f"{VICUNA_SYSTEM} USER: <image>\nWhat is it? ASSISTANT:") == (
        Message("user", (ImageSlot(), Text("What is it?"))),
    )


def test_earlier_turns_and_other_system_messages_are_kept():
    prompt = "Be brief. USER: <image>\nHi. ASSISTANT: A bus.</s>USER: Which colour? ASSISTANT:"
    assert parse_vicuna(prompt) == (
        Message("system", (Text("Be brief."),)),
        Message("user", (ImageSlot(), Text("Hi."))),
        Message("assistant", (Text("A bus."),)),
        Message("user", (Text("Which colour?"),)),
    )


@pytest.mark.parametrize(
    "prompt",
    [
        "",
        "What is it?",
        "USER: What is it?",
        "USER: What? ASSISTANT: It is",
        "ASSISTANT:",
        "USER: a USER: b ASSISTANT:",
    ],
)
def test_what_is_not_in_the_template_is_refused(prompt):
    with pytest.raises(UnreadableError, match=r"Vicuna's template|must alternate"):
        parse_vicuna(prompt)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"prompt": ["USER:"]}, "`prompt` is a list"),
        ({"chosen": None}, "no `chosen`"),
        ({"rejected": 2}, "`rejected` is a int"),
        ({"img_path": "/etc/passwd"}, "no picture"),
        ({"img_path": None}, "<image> stands 1 times in the questions, but there are 0 pictures"),
    ],
)
def test_what_is_wrong_with_a_record_is_said(reason_of, changes, words):
    record = {"img_path": "a.png", "prompt": "USER: <image>\nWhat? ASSISTANT:", "chosen": "A.", "rejected": "B."}
    assert words in reason_of(read_mdpo, record | changes)


@needs_shared
def test_the_published_example_becomes_pairs():
    samples = list(read_mdpo(open_records(str(FILE)).rows, None, source="mdpo"))
    assert [sample.preference for sample in samples] == [Preference(0, 1)] * 2
    assert samples[0].messages == (
        Message(
            "user",
            (
                Text(
                    "How might the atmosphere of this photo appear to be, and what is one possible reason these people "
                    "have gathered outside?"
                ),
            ),
        ),
    )
