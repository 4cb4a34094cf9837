"""Object HalBench asks a judge for lists as the script does, and scores them, reviews and faults included."""

import base64
import json
from pathlib import Path

import pytest

from mmalign.evaluation.benchmarks.object_halbench import TRIES, ObjectHalBench
from mmalign.evaluation.steps.faults import NO_REPLY, OTHER_PROMPT, UNJUDGED, UNREADABLE, Handling
from mmalign.evaluation.steps.records import Answer, JudgeReply, prompt_hash

SYNONYMS = "person, man, people\ncar, taxi\ndining table, table\ndog, puppy\n"
TRUTH = {"7": ["person", "dog"], "8": ["car"], "9": ["person"]}
COUNT = Handling(on_bad="count")
OFFICIAL = Handling(compat="official")
ANSWERS = [
    Answer("7", ["Assistant: A man walks his puppy past a taxi. "]),
    Answer("8", ["A street with trees and houses."]),
    Answer("9", ["No idea."]),
]
LISTS = {"7": '["man", "puppy", "taxis", "taxi"]', "8": '["street", "trees"]'}


@pytest.fixture
def bench(tmp_path: Path) -> ObjectHalBench:
    """Three questions in the authors' layout, the other files where their repository has them."""
    data = tmp_path / "eval" / "data"
    data.mkdir(parents=True)
    picture = base64.b64encode(b"jpeg").decode()
    rows = [{"org_idx": 0, "image_id": int(name), "question": f"Describe {name}.", "image": picture} for name in TRUTH]
    (data / "obj_halbench_300_with_image.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (data / "synonyms_refine.txt").write_text(SYNONYMS)
    (data / "truth.json").write_text(json.dumps(TRUTH))
    (data.parent / "eval_gpt_obj_halbench.py").write_text('prompt_template = "{question}|{answer}"\n')
    return ObjectHalBench(
        questions=str(data / "obj_halbench_300_with_image.jsonl"), ground_truth=str(data / "truth.json")
    )


def test_asks_and_calls_are_the_scripts(bench: ObjectHalBench) -> None:
    """The picture comes with the question; the judge gets one system message, and none about three words or fewer."""
    asks = bench.asks()
    assert [ask.id for ask in asks] == ["7", "8", "9"]
    assert asks[0].turns[0].pictures[0].read() == b"jpeg"
    calls = bench.calls(ANSWERS)
    assert [call.id for call in calls] == ["7", "8"]
    assert calls[0].messages() == [
        {"role": "system", "content": "Describe 7.|A man walks his puppy past a taxi."},
    ]
    assert (calls[0].temperature, calls[0].max_tokens, len(calls[0].then)) == (0.2, 512, TRIES - 1)


def test_by_hand(bench: ObjectHalBench) -> None:
    """7 names man, puppy, taxi (once): one of three is false; 8 and 9 name nothing, and are not counted."""
    hashes = {call.id: prompt_hash(call.messages()) for call in bench.calls(ANSWERS)}
    replies = [JudgeReply(name, text, "gpt", hashes[name]) for name, text in LISTS.items()]
    scored = bench.score(ANSWERS, [replies], Handling())
    assert scored["response_hallucination"].value == 1
    assert scored["object_hallucination"].value == pytest.approx(1 / 3)
    assert scored["recall"].value == 0.5
    assert scored["recall"].official is None, "its parser might have taken other words"
    assert scored["mentions"].value == 1
    assert scored["words"].value == pytest.approx((8 + 6 + 2) / 3), "without `Assistant:`"
    assert (scored.judge, scored.num_scored) == ("gpt", 3)
    assert scored.headline.name == "response_hallucination"


def test_several_runs_of_the_judge_are_averaged(bench: ObjectHalBench) -> None:
    """One finds the taxi, the other does not: 1/3 and 0/2 of the objects."""
    first = [JudgeReply(name, text) for name, text in LISTS.items()]
    second = [JudgeReply("7", '["man", "puppy"]'), first[1]]
    metric = bench.score(ANSWERS, [first, second], Handling())["object_hallucination"]
    assert metric.value == pytest.approx(1 / 6)
    assert metric.runs == pytest.approx((100 / 3, 0))


def test_a_review_of_the_script_is_answers_judgments_and_ground_truth(bench: ObjectHalBench, tmp_path: Path) -> None:
    """So its numbers come out again, without questions and judge."""
    review = {
        "sentences": [
            {"image_id": 7, "caption": "A man and a car park.", "words": ["man", "car park"], "mscoco_gt_words": []},
            {"image_id": 8, "caption": "A dog and a car.", "words": ["dog", "car"], "mscoco_gt_words": ["car"]},
        ],
        "overall_metrics": {},
    }
    path = tmp_path / "hall_obj_halbench_answer_-1.json"
    path.write_text(json.dumps(review))
    synonyms = str(Path(bench.questions).with_name("synonyms_refine.txt"))
    alone = ObjectHalBench(ground_truth=str(path), synonyms=synonyms)
    scored = alone.score(alone.read_answers(review), [alone.read_replies(review)], Handling())
    assert scored["response_hallucination"].official == 100
    assert scored["object_hallucination"].official == 66.67


def test_what_cannot_be_scored_is_named_and_counted(bench: ObjectHalBench) -> None:
    """No list, no judgment, no reply, another prompt: in no mean; the official script stops there."""
    replies = [JudgeReply("7", "I cannot.")]
    with pytest.raises(ValueError, match="judge text without a score"):
        bench.score(ANSWERS, [replies], Handling())
    scored = bench.score(ANSWERS, [replies], COUNT)
    assert scored.failures == {UNJUDGED: ("8",), UNREADABLE: ("7",)}
    assert scored.num_scored == 1
    with pytest.raises(ValueError, match="the official script stops"):
        bench.score(ANSWERS, [replies], OFFICIAL)
    other = [JudgeReply("7", LISTS["7"], prompt_hash="0" * 32), JudgeReply("8", "", failure="refused")]
    assert bench.score(ANSWERS, [other], COUNT).failures == {OTHER_PROMPT: ("7",), NO_REPLY: ("8",)}
    mixed = [JudgeReply("7", LISTS["7"], "gpt-3.5"), JudgeReply("8", LISTS["8"], "gpt-4")]
    with pytest.raises(ValueError, match="2 judges are mixed"):
        bench.score(ANSWERS, [mixed], COUNT)
    with pytest.raises(ValueError, match="--judgments"):
        bench.score(ANSWERS, [], COUNT)
