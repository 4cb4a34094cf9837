"""Sample records: round trip, and any JSON at all is either a sample or refused by name."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmalign.data.manifest import Entry
from mmalign.data.sample import Judgment, Preference, Response, Sample, SampleError, parse_sample
from mmalign.messages import Message, Text

QUESTION = {"role": "user", "content": "Hm?"}
SOMETHING = st.recursive(
    st.none() | st.booleans() | st.integers(-1, 5) | st.text(max_size=4) | st.just(QUESTION),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["text", "role", "chosen"]), inner),
    max_leaves=6,
)
RECORDS = st.fixed_dictionaries(
    {"messages": st.just([QUESTION]) | SOMETHING},
    optional={
        "responses": SOMETHING | st.just([{"text": "a"}]),
        "preference": SOMETHING | st.just({"chosen": 0, "rejected": 0}),
        "source": SOMETHING,
        "id": SOMETHING,
    },
)


@given(RECORDS | SOMETHING)
@settings(max_examples=300, deadline=None, derandomize=True)
def test_any_record_is_a_sample_or_refused_by_name(record):
    try:
        sample = parse_sample(json.dumps(record), key="x", where="000000.tar")
    except SampleError as refusal:
        message = str(refusal)
    else:
        assert parse_sample(sample.to_json(), key="x") == sample
        assert Entry.of(sample).key == "x"
        return
    assert message.startswith("000000.tar, sample 'x': ")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"messages": [{"role": "robot", "content": "hi"}]}, "role 'robot' is none of system, user, assistant"),
        ({"messages": [{"role": "user", "content": [{"type": "video"}]}]}, "content part {'type': 'video'}"),
        ({"messages": [{"role": "user", "content": [{"type": "image"}]}]}, "1 image slots, but 0 pictures"),
        ({"responses": [{"text": "a", "score": 3}]}, "unknown fields ['score']"),
        ({"responses": [{"text": 3}]}, "must be strings"),
        ({"responses": [{"model": "a"}]}, "lacks 'text'"),
        ({"responses": [{"text": "a", "ratings": {"helpfulness": 5}}]}, "from 0 to 4"),
        ({"responses": [{"text": "a", "ratings": {"helpfulness": "4"}}]}, "are not numbers"),
        ({"responses": [{"text": "a", "ratings": {"helpfulness": 3.5}}]}, "whole numbers"),
        ({"responses": [{"text": "a", "ratings": {"reward": float("nan")}}]}, "others finite"),
        ({"responses": [{"text": "a", "judgments": [{"judge": "g", "ratings": {"coherence": 9}}]}]}, "from 0 to 4"),
        ({"responses": [{"text": "a", "ratings": {"reward": 10**400}}]}, "others finite"),
        ({"responses": [{"text": "a", "ratings": None}]}, "are not numbers by name"),
        ({"responses": [{"text": "a", "sampling": "hot"}]}, "`sampling` must be an object"),
        ({"responses": [{"text": "a", "judgments": [{"judge": "g", "rationale": 5}]}]}, "rationale must be strings"),
        ({"preference": {"chosen": 0, "rejected": 1}}, "points outside the 0 responses"),
        ({"preference": {"chosen": "0", "rejected": 1}}, "must hold two indices"),
    ],
)
def test_faults_say_what_is_wrong(change, words):
    with pytest.raises(SampleError) as refusal:
        parse_sample(json.dumps({"messages": [QUESTION]} | change), key="x")
    assert words in str(refusal.value)


def test_pictures_stand_in_user_turns_only():
    turns = [QUESTION, {"role": "assistant", "content": [{"type": "image"}]}, QUESTION]
    with pytest.raises(SampleError, match="only user turns can hold pictures"):
        parse_sample(json.dumps({"messages": turns}), key="x", images=[b"p"])


def test_the_sample_of_the_readme_is_whole():
    readme = (Path(__file__).parents[2] / "shards/README.md").read_text()
    record = readme.split("```json\n")[1].split("```")[0]
    sample = parse_sample(record, key="x", images=[b"p"])
    assert (len(sample.responses), sample.preference, sample.id) == (2, Preference(0, 1), "2331")


def test_only_messages_must_be_there():
    sample = parse_sample(json.dumps({"messages": [QUESTION]}), key="x")
    assert sample == Sample(key="x", messages=sample.messages, id="x")
    chosen = {"messages": [QUESTION], "responses": [{"text": "a"}], "preference": {"chosen": 0, "rejected": 0}}
    assert parse_sample(json.dumps(chosen), key="x").preference == Preference(0, 0)


def test_a_second_judge_becomes_the_latest_and_the_first_is_kept():
    first = Judgment(judge="gemini", ratings={"helpfulness": 4}, rationale="good", place=2)
    second = Judgment(judge="gpt", ratings={"helpfulness": 1}, place=0)
    response = Response(text="a").judged(first).judged(second)
    assert (response.judge, response.ratings, response.place) == ("gpt", {"helpfulness": 1}, 0)
    assert response.all_judgments() == (second, first)
    assert response.judged(first).all_judgments() == (first, second)


def test_a_judge_that_failed_takes_no_ratings_away():
    good = Judgment(judge="gemini", ratings={"helpfulness": 4})
    failed = Judgment(judge="gpt", invalid="no JSON in three replies")
    assert Response(text="a").judged(good).judged(failed).ratings == {"helpfulness": 4}
    assert Response(text="a").judged(failed).ratings == {}
    assert Response(text="a").judged(failed).all_judgments() == (failed,)


def test_judgments_stand_in_the_record_and_come_back():
    response = Response(text="a").judged(Judgment(judge="g", ratings={"reward": -1.5}, place=0))
    response = response.judged(Judgment(judge="h", invalid="cut"))
    sample = Sample(key="k", messages=(Message("user", (Text("What?"),)),), responses=(response,), id="k")
    assert parse_sample(sample.to_json(), key="k") == sample
