"""The first author's pairs: a person's choice beside a judge's ratings, and each of them named where it is missing."""

import json
from collections import Counter
from pathlib import Path

import pytest

from mmalign.data.importers import Skipped
from mmalign.data.importers.conversations import Row
from mmalign.data.importers.human_pairs import likert, read_human_pairs, read_ratings
from mmalign.data.importers.sources import open_records
from mmalign.data.sample import Preference
from mmalign.messages import ImageSlot, Message, Text

PAIRS = Path(__file__).parents[3].parent / "shared" / "data" / "human_pairs"
needs_shared = pytest.mark.skipif(not PAIRS.is_dir(), reason="no real data: ../shared/data/human_pairs is absent")

VISION = "gpt-4-1106-vision-preview"
RATINGS = {
    "Ratings for Response A": {"Hallucinations": 1.0, "Helpfulness": 0.1, "Domain Knowledge": 0.62},
    "Ratings for Response B": {"Hallucinations": 0, "Helpfulness": 0.9, "Domain-Knowledge": 0.63},
}


def reply(text):
    return {"model": VISION, "choices": [{"message": {"role": "assistant", "content": text}}]}


@pytest.fixture
def record():
    return {
        "id": 564729,
        "image": "a.png",
        "conversations": [
            {"from": "human", "value": "What sandwich is it?\n<image>"},
            {"from": "gpt", "value": "A cheese steak."},
        ],
        "output_1": {"from": "llava", "value": "A club."},
        "output_2": {"from": "llava", "value": "A sub."},
        "preference": 2,
        "gpt4v_response": reply("A is wrong."),
        "extracted_attributes": json.dumps(RATINGS),
    }


def test_preference_and_ratings_stand_side_by_side(convert_all, record):
    (sample,) = convert_all(read_human_pairs, record)
    first, second, gold = sample.responses
    assert sample.messages == (Message("user", (Text("What sandwich is it?"), ImageSlot())),)
    assert sample.preference == Preference(chosen=1, rejected=0), "the person's"
    assert first.ratings == {"hallucinations": 4, "helpfulness": 0, "domain_knowledge": 2}
    assert second.ratings == {"hallucinations": 0, "helpfulness": 4, "domain_knowledge": 3}
    assert [(each.text, each.model, each.judge, each.place) for each in (first, second)] == [
        ("A club.", "llava", VISION, 0),
        ("A sub.", "llava", VISION, 1),
    ]
    assert first.rationale == second.rationale == "A is wrong."
    assert (gold.text, gold.model, gold.ratings) == ("A cheese steak.", "gold", {})
    assert sample.id == "record 0", "the picture's number is not the pair's"


def test_ratings_are_rounded_as_the_author_rounds_them():
    """`round(4 * value)`: halves go to the even number."""
    assert [likert(value) for value in (0, 0.1, 0.125, 0.375, 0.5, 0.63, 0.95, 1.0)] == [0, 0, 0, 2, 2, 3, 4, 4]
    for value in (1.1, -0.1, True, "0.5", None, float("nan")):
        with pytest.raises(ValueError, match="no rating from 0 to 1"):
            likert(value)


@pytest.mark.parametrize(
    "extracted",
    [json.dumps(RATINGS), f"```json\n{json.dumps(RATINGS)}\n```", reply(json.dumps(RATINGS))],
    ids=["json", "fenced", "reply"],
)
def test_ratings_are_found_as_json_in_a_fence_and_in_a_reply(extracted):
    assert [ratings["helpfulness"] for ratings in read_ratings(extracted)] == [0, 4]


@pytest.mark.parametrize(
    ("extracted", "words"),
    [
        ({"error": {"message": "Unrecognized request argument"}}, "the API answered with an error: Unrecognized"),
        ('{"Ratings for Response A": {"Helpfulness": 0.8, // good\n}}', "no ratings: Expecting"),
        (json.dumps({"Ratings for Response A": {"Helpfulness": 1.0}}), "does not hold Ratings for Response A and"),
        (json.dumps(RATINGS | {"Ratings for Response B": {}}), "does not hold Ratings for Response A and"),
        (json.dumps(RATINGS | {"Ratings for Response B": {"Helpfulness": 7}}), "7 is no rating from 0 to 1"),
        ("{" + '"a":[' * 100_000 + "}", "no ratings"),
        ("nothing", "no ratings"),
        (None, "is no reply of a model"),
    ],
)
def test_what_could_not_be_extracted_is_invalid_never_zero(convert_all, record, extracted, words):
    (sample,) = convert_all(read_human_pairs, record | {"extracted_attributes": extracted})
    assert sample.preference == Preference(chosen=1, rejected=0)
    for response in sample.responses[:2]:
        (judgment,) = response.all_judgments()
        assert (response.ratings, judgment.judge) == ({}, VISION)
        assert words in judgment.invalid


def test_a_pair_that_stands_twice_is_taken_once_with_its_ratings(record):
    broken = record | {"extracted_attributes": {"error": {"message": "no"}}}
    rows = [Row("first 0", broken), Row("second 0", record), Row("third 0", record), Skipped("fourth", "no object")]
    skipped, sample, again, passed = read_human_pairs(rows, None, source="mine")
    assert skipped == Skipped("first 0", "the same pair as second 0, which is imported")
    assert sample.responses[0].ratings
    assert again.reason == "the same pair as second 0, which is imported"
    assert passed == rows[3]


def test_pairs_whose_pictures_are_bytes_are_told_apart_too(record):
    """As they stand in parquet."""
    rows = [Row("first", record | {"image": {"bytes": b"x", "path": None}}), Row("second", record)]
    assert len(list(read_human_pairs(rows, None, source="mine"))) == 2


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"conversations": None}, "the turns are None"),
        ({"conversations": [{"from": "human", "value": "?"}]}, "must alternate"),
        ({"output_1": "A club."}, "`output_1` is a str, not a dict"),
        ({"output_2": {"value": None}}, "no `value`"),
        ({"preference": 0}, "`preference` is 0, neither 1 nor 2"),
        ({"preference": "1"}, "`preference` is a str"),
        ({"preference": True}, "`preference` is a bool"),
        ({"image": "../../etc/passwd"}, "no picture"),
        ({"image": None}, "<image> stands 1 times in the questions, but there are 0 pictures"),
    ],
)
def test_what_is_wrong_with_a_record_is_said(reason_of, record, changes, words):
    assert words in reason_of(read_human_pairs, record | changes)


@needs_shared
def test_the_real_pairs_are_all_there_once():
    """201 rows of 121 pairs, all with ratings: of 80 pairs that stand in both files, 32 could be read in one only."""
    records = open_records(str(PAIRS / "extracted_attributes_*.json"), keyed=True)
    made = list(read_human_pairs(records.rows, None, source="human_pairs"))
    samples = [each for each in made if not isinstance(each, Skipped)]
    assert (records.total, len(samples), len(made)) == (201, 121, 201)
    assert all("the same pair as" in each.reason for each in made if isinstance(each, Skipped))
    assert Counter(tuple(sample.preference) for sample in samples) == {(0, 1): 59, (1, 0): 62}
    assert {response.judge for sample in samples for response in sample.responses[:2]} == {VISION}
    assert {tuple(sorted(response.ratings)) for sample in samples for response in sample.responses[:2]} == {
        ("domain_knowledge", "hallucinations", "helpfulness", "quality", "spatial_awareness")
    }


@needs_shared
def test_the_real_failures_of_one_file_are_named():
    """The judge's words were extracted by an API that refused 30 of 80 requests, and twice wrote comments into JSON."""
    records = open_records(str(PAIRS / "extracted_attributes_0_30.json"), keyed=True)
    samples = list(read_human_pairs(records.rows, None, source="human_pairs"))
    reasons = Counter(
        judgment.invalid.split(":")[1].strip()
        for sample in samples
        for judgment in sample.responses[0].all_judgments()
        if judgment.invalid
    )
    assert reasons == {
        "the API answered with an error": 30,
        "Expecting property name enclosed in double quotes": 2,
    }
    assert sum(bool(sample.responses[0].ratings) for sample in samples) == 48
