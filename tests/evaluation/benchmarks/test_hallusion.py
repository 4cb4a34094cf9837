"""HallusionBench asks, judges and counts questions, pictures and pairs as its script does."""

import json
from pathlib import Path

import pytest

from mmalign.evaluation.benchmarks.hallusion import HallusionBench, check_by_rule, joined_parts, read_check
from mmalign.evaluation.steps.benchmark import JudgedBenchmark
from mmalign.evaluation.steps.faults import MISSING, UNREADABLE, Handling
from mmalign.evaluation.steps.records import Answer, JudgeReply, prompt_hash
from mmalign.evaluation.steps.scored import Scored
from mmalign.evaluation.steps.sources import records
from tests.harness.published import published

STRICT, COUNT, OFFICIAL = Handling(), Handling(on_bad="count"), Handling(compat="official")
CHECKS = (0, 1, 1, 0, 1, 1, 0, 1, 1, 2)
# What `evaluation.py` at 744007c prints for the published questions when the check of question i is
# CHECKS[(i * i + i // 3) % 10].
PRINTED = {
    "a_acc": 53.3215,
    "f_acc": 10.1156,
    "q_acc": 18.022,
    "easy_a_acc": 42.8571,
    "hard_a_acc": 46.7442,
    "inconsistent": 76.3006,
    "wrong": 13.5838,
    "yes_diff": 0.08237378210806023,
    "false_yes_ratio": 0.5882352941176471,
    "a_acc_vd": 53.1303,
    "f_acc_vd": 11.7391,
    "q_acc_vd": 22.7437,
    "a_acc_vs": 53.5316,
    "f_acc_vs": 6.8966,
    "q_acc_vs": 10.6742,
}


def question(name: str, visual_input: str, is_yes: str) -> dict[str, str | None]:
    category, subcategory, group, figure, number = name.split("_")
    return {
        "category": category,
        "subcategory": subcategory,
        "set_id": group,
        "figure_id": figure,
        "question_id": number,
        "visual_input": visual_input,
        "question": f"Is {name} so?",
        "gt_answer": is_yes,
        "gt_answer_details": f"{name} it is.",
        "filename": None if visual_input == "0" else f"./hallusion_bench/{category}/{subcategory}/{group}_{figure}.png",
    }


# A set with an original and an edited picture, two questions each; and one question without a picture, then with it.
QUESTIONS = [
    question("VD_ocr_0_0_0", "1", "1"),
    question("VD_ocr_0_0_1", "1", "0"),
    question("VD_ocr_0_1_0", "2", "0"),
    question("VD_ocr_0_1_1", "2", "1"),
    question("VS_map_0_0_0", "0", "1"),
    question("VS_map_0_1_0", "1", "1"),
]


@pytest.fixture
def bench(tmp_path: Path) -> HallusionBench:
    (tmp_path / "HallusionBench.json").write_text(json.dumps(QUESTIONS))
    return HallusionBench(questions=str(tmp_path))


def replies(bench: HallusionBench, *texts: str) -> list[JudgeReply]:
    return [JudgeReply(ask.id, text, "gpt-4") for ask, text in zip(bench.asks(), texts, strict=False)]


def scored(bench: HallusionBench, handling: Handling, *texts: str) -> Scored:
    return bench.score(None, [replies(bench, *texts)], handling)


def numbers(found: Scored) -> dict[str, float | None]:
    return {metric.name: metric.official for metric in found.metrics if metric.official is not None}


def test_the_numbers_are_those_of_the_authors_script():
    """On all 1,129 published questions, in its two files of outputs; 167 sets are drawn together."""
    place = published("hallusion", "HallusionBench.json")
    bench = HallusionBench(questions=str(place))
    rows = [
        {**row, "gpt4v_output_gpt_check": str(CHECKS[(i * i + i // 3) % 10]), "model_prediction": "Yes."}
        for i, row in enumerate(records(place))
    ]
    parts = [bench.read_replies([row for row in rows if row["category"] == kind]) for kind in ("VD", "VS")]
    for handling in (STRICT, OFFICIAL):
        found = bench.score(bench.read_answers(rows), parts, handling)
        assert numbers(found) == PRINTED
        assert (found.num_scored, len(found.headline.ids)) == (1129, 167)


def test_the_published_sample_is_read():
    """254 answers to the questions of the first release, a part of today's."""
    bench = HallusionBench(questions=str(published("hallusion")), graded_by="rule")
    answers = bench.read_answers(records(published("hallusion", "HallusionBench_result_sample.json")))
    found = bench.score(answers, [], COUNT)
    assert (found.num_scored, len(found.failures[MISSING])) == (254, 875)
    assert round(100 * found["a_acc"].value, 4) == 61.0236
    assert found["words"].num_samples == 254


def test_pictures_and_pairs_must_be_right_as_a_whole(bench: HallusionBench):
    """Both on the original picture are right, one on the edited; unclear is right only without a picture."""
    found = scored(bench, STRICT, "correct", "Correct.", "correct", "incorrect", "unclear", "unclear")
    assert numbers(found) == {
        "a_acc": 66.6667,  # 4 of 6
        "f_acc": 33.3333,  # the original; not the edited one, not the map
        "q_acc": 33.3333,  # question 0 of the first set
        "easy_a_acc": 66.6667,  # both of the first set; the map's group has the unclear one
        "hard_a_acc": 50.0,
        "inconsistent": 33.3333,
        "wrong": 33.3333,
        "yes_diff": 2 / 6 - 4 / 6,  # yes to the first and to the one without a picture
        "false_yes_ratio": 0.0,
        "a_acc_vd": 75.0,
        "f_acc_vd": 50.0,
        "q_acc_vd": 50.0,
        "a_acc_vs": 50.0,
        "f_acc_vs": 0.0,
        "q_acc_vs": 0.0,
    }
    assert found["yes_ratio"].value == 2 / 6
    assert found["a_acc"].ids == ("VD_ocr_0", "VS_map_0")


def test_a_group_with_an_ungraded_question_is_in_no_mean(bench: HallusionBench):
    """The edited picture and the pair of its question drop out; the script takes such a text as unclear."""
    texts = ("correct", "correct", "Hm.", "correct", "correct", "correct")
    with pytest.raises(ValueError, match="1: judge text without a score: VD_ocr_0_1_0"):
        scored(bench, STRICT, *texts)
    counted = scored(bench, COUNT, *texts)
    assert counted.failures == {UNREADABLE: ("VD_ocr_0_1_0",)}
    assert (counted["a_acc"].value, counted["f_acc"].value, counted["q_acc"].value) == (1, 1, 1)
    assert counted["f_acc_vd"].terms.denominators.sum() == 1
    assert counted["false_yes_ratio"].official is None
    official = scored(bench, OFFICIAL, *texts)
    assert (official["a_acc"].official, official["f_acc"].official) == (83.3333, 66.6667)


@pytest.mark.parametrize(
    ("text", "check"),
    [
        ("correct", 1),
        ("The answer is Correct.", 1),
        ("Incorrect", 0),
        ("not incorrect", 0),
        ("“unclear”", 2),
        ("", None),
    ],
)
def test_a_judge_says_one_of_three_words(text: str, check: int | None, bench: HallusionBench):
    assert read_check(text) == (None if check is None else (check,))
    assert bench.is_usable(text) is (check is not None)


@pytest.mark.parametrize(
    ("answer", "check"),
    [("Yes, it is.", 1), ("No.", 0), ("It is not.", 2), ("Yes and no.", 2), ("", 2), ("YES", 1), ("yesterday", 2)],
)
def test_by_rule_an_answer_says_yes_or_no_or_is_unclear(answer: str, check: int):
    assert check_by_rule(True, answer) == check
    assert check_by_rule(False, answer) == (check if check == 2 else 1 - check)


def test_answers_are_scored_by_rule_without_a_judge(bench: HallusionBench, tmp_path: Path):
    ruled = HallusionBench(questions=str(tmp_path), graded_by="rule")
    answers = [Answer(ask.id, ("Yes.",)) for ask in ruled.asks()]
    found = ruled.score(answers, [], STRICT)
    assert (found.judge, found["a_acc"].official) == ("", 66.6667)
    assert found["yes_ratio"].value == 1
    assert found.protocol != bench.protocol
    with pytest.raises(ValueError, match="`--answers`"):
        ruled.score(None, [], STRICT)
    assert ruled.calls(answers) == []
    with pytest.raises(ValueError, match="is graded by a judge"):
        bench.score(answers, [], STRICT)


def test_files_that_share_no_question_are_parts_of_one_run():
    """The script writes one for VD and one for VS; a second pair is a second run."""
    vd, vs = [JudgeReply("VD_ocr_0_0_0", "correct")], [JudgeReply("VS_map_0_0_0", "correct")]
    assert joined_parts([vd, vs, vd, vs]) == [vd + vs, vd + vs]
    assert joined_parts([vd + vs]) == [vd + vs]
    assert joined_parts([vd + vd]) == [vd + vd]


def test_only_questions_with_visual_input_show_a_picture(bench: HallusionBench, tmp_path: Path):
    asks = bench.asks()
    assert [len(ask.turns[0].pictures) for ask in asks] == [1, 1, 1, 1, 0, 1]
    assert asks[0].turns[0].pictures[0].path == tmp_path / "hallusion_bench" / "VD" / "ocr" / "0_0.png"
    assert asks[0].turns[0].text == "Is VD_ocr_0_0_0 so?"
    given = HallusionBench(questions=str(tmp_path), images="pictures").asks()[0].turns[0].pictures[0]
    assert given.path == Path("pictures/VD/ocr/0_0.png")


def test_the_judge_compares_with_the_reference(bench: HallusionBench):
    answers = [Answer(ask.id, ("It {is}.",)) for ask in bench.asks()]
    call, *_ = calls = bench.calls(answers)
    assert call.user.startswith("Imagine you are an intelligent teacher. ")
    assert 'please generate "unclear". \n\n Question:Is VD_ocr_0_0_0 so?\nReference answer: VD_ocr_0_0_0' in call.user
    assert call.user.endswith(" it is.\nPrediction answer:It {is}.\nOutput:")
    said = [JudgeReply(each.id, "correct", "gpt-4", prompt_hash(each.messages())) for each in calls]
    assert bench.score(answers, [said], STRICT)["a_acc"].official == 100
    with pytest.raises(ValueError, match="1: judged by another prompt"):
        bench.score([Answer(answers[0].id, ("No.",)), *answers[1:]], [said], STRICT)
    assert isinstance(bench, JudgedBenchmark)


def test_other_files_are_no_questions(tmp_path: Path):
    (tmp_path / "HallusionBench.json").write_text('[{"question": "What?"}]')
    with pytest.raises(ValueError, match="does not have HallusionBench's questions"):
        HallusionBench(questions=str(tmp_path)).asks()
