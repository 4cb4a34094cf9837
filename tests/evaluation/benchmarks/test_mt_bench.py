"""MT-Bench asks, judges and averages as FastChat does, and says what it leaves out."""

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from mmalign.evaluation.benchmarks.mt_bench import CUT, MTBench
from mmalign.evaluation.benchmarks.mt_bench_grades import rating
from mmalign.evaluation.steps.benchmark import JudgedBenchmark
from mmalign.evaluation.steps.comparing import compare_scored
from mmalign.evaluation.steps.faults import (
    DIFFERS,
    DOUBLY_JUDGED,
    NO_REPLY,
    OFF_SCALE,
    OTHER_PROMPT,
    UNJUDGED,
    UNREADABLE,
    Handling,
)
from mmalign.evaluation.steps.graders import ReplayGrader
from mmalign.evaluation.steps.judging import judge
from mmalign.evaluation.steps.reading import read_answers, read_runs
from mmalign.evaluation.steps.records import Answer, JudgeReply, prompt_hash
from mmalign.evaluation.steps.scored import Scored, read_scored
from mmalign.evaluation.steps.sources import load
from tests.harness.mt_bench import ANSWERS, PLACES, judgment_rows, stored_answers, write_mt_bench, write_rows
from tests.harness.published import published

STRICT, COUNT, OFFICIAL = Handling(), Handling(on_bad="count"), Handling(compat="official")
GRADES = dict.fromkeys(PLACES, 6) | {"1/1": 9, "3/2": 8.5}
PAPER_MODELS = (
    "llava-13b-0203-all--image-preference-sci3k-lrv3k-lora-dpo-beta-0.1-lr-5e-5-avg-False-question-addedimagetoken",
    "llava-13b-0203-all--image-preference-sci3k-lrv3k-lora-dpo-beta-0.1-lr-5e-5-avg-False-question-addedimagetoken"
    "-random-coco",
    "llava-v1.5-13b-random-coco",
)


def real() -> MTBench:
    return MTBench(
        questions=str(published("mt_bench", "question.jsonl")),
        references=str(published("mt_bench", "reference_answers_gpt-4.jsonl")),
    )


def real_replies(name: str) -> list[JudgeReply]:
    (run,) = read_runs(real(), str(published("mt_bench", name)))
    return run


@pytest.fixture
def bench(tmp_path: Path) -> MTBench:
    return MTBench(questions=write_mt_bench(tmp_path))


def replies(bench: MTBench, grades: Mapping[str, float | int] = GRADES) -> list[JudgeReply]:
    return bench.read_replies(judgment_rows(grades))


def judged(bench: MTBench) -> list[JudgeReply]:
    """Replies to our own calls, each graded 5."""
    calls = bench.calls(ANSWERS)
    return [JudgeReply(call.id, "[[5]]", "gpt-4", prompt_hash(call.messages())) for call in calls]


# The published data.


def test_the_published_judgments_give_the_published_numbers():
    """functionary: 6.984, 7.406, 6.562, and the mean of each category's twenty grades."""
    scored = real().score(None, [real_replies("judgment_functionary.jsonl")], STRICT)
    assert [scored[name].value for name in ("average", "turn_1", "turn_2")] == [6.984375, 7.40625, 6.5625]
    assert [scored[name].official for name in ("average", "turn_1", "turn_2")] == [6.984375, 7.40625, 6.5625]
    assert {m.name.removeprefix("category_"): round(m.value, 9) for m in scored.metrics if m.group == "category"} == {
        "writing": 7.9,
        "roleplay": 7.9,
        "reasoning": 5.5,
        "math": 3.8,
        "coding": 4.4,
        "extraction": 7.15,
        "stem": 9.275,
        "humanities": 9.95,
    }
    assert scored.headline.name == "average"
    assert (scored.judge, scored.num_questions, scored.num_scored, scored.failures) == ("gpt-4", 160, 160, {})
    assert scored.protocol == "mt_bench/fastchat-0e6d3e4"


@pytest.mark.parametrize(
    ("name", "differing"), [("judgment_functionary.jsonl", 0), ("judgments_weak_judge_120_unparsable.jsonl.gz", 0)]
)
def test_the_grade_in_each_text_is_the_stored_one(name: str, differing: int):
    """160 of 160, -1 where there is none."""
    found = real_replies(name)
    assert len(found) == 160
    read = [-1 if rating(reply.text) is None else rating(reply.text) for reply in found]
    assert sum(score != reply.score for score, reply in zip(read, found, strict=True)) == differing


@pytest.mark.parametrize("name", ["judgment_functionary.jsonl", "judgments_weak_judge_120_unparsable.jsonl.gz"])
def test_our_prompts_are_the_stored_ones(name: str):
    """160 of 160 to the byte, and by the hash under which replies are found again; both turns agree in answer 1."""
    bench = real()
    rows = load(published("mt_bench", name))
    answers, firsts = stored_answers(rows, bench._prompts, bench._questions, bench._references)
    assert {answer.id: answer.turns[0] for answer in answers} == firsts
    calls = {call.id: call for call in bench.calls(answers)}
    stored = {f"{row['question_id']}/{row['turn']}": row["user_prompt"] for row in rows}
    assert len(stored) == 160
    assert {place: call.user for place, call in calls.items()} == stored
    run = real_replies(name)
    assert {reply.id: reply.prompt_hash for reply in run} == {
        place: prompt_hash(call.messages()) for place, call in calls.items()
    }


def test_a_changed_answer_is_no_longer_what_was_judged():
    """With the answers given, both judgments of the changed one are named; the others still count."""
    bench = real()
    rows = load(published("mt_bench", "judgment_functionary.jsonl"))
    answers, _ = stored_answers(rows, bench._prompts, bench._questions, bench._references)
    run = real_replies("judgment_functionary.jsonl")
    assert bench.score(answers, [run], STRICT).headline.value == 6.984375
    changed = [answers[0]._replace(turns=("Something else.", answers[0].turns[1])), *answers[1:]]
    with pytest.raises(ValueError, match=r"2: judged by another prompt.*81/1, 81/2"):
        bench.score(changed, [run], STRICT)
    assert bench.score(changed, [run], COUNT).failures == {OTHER_PROMPT: ("81/1", "81/2")}


def test_a_replay_of_the_published_judgments_gives_the_published_number(tmp_path: Path):
    """Through the judge's step and its file, each reply found by the prompt."""
    bench = real()
    rows = load(published("mt_bench", "judgment_functionary.jsonl"))
    answers, _ = stored_answers(rows, bench._prompts, bench._questions, bench._references)
    stored = [reply._replace(id="") for reply in real_replies("judgment_functionary.jsonl")]
    judge(bench, answers, ReplayGrader(stored), tmp_path)
    scored = bench.score(answers, read_runs(bench, str(tmp_path)), STRICT)
    assert (scored.headline.value, scored.num_scored, scored.failures) == (6.984375, 160, {})


def test_a_weak_judge_is_counted_and_not_averaged():
    """120 of 160 give no grade: an error, or the mean of the 40 others, which is the official number, too."""
    run = real_replies("judgments_weak_judge_120_unparsable.jsonl.gz")
    with pytest.raises(ValueError, match="120: judge text without a score: 81/1, 81/2, 82/2"):
        real().score(None, [run], STRICT)
    for handling in (COUNT, OFFICIAL):
        scored = real().score(None, [run], handling)
        assert [scored[name].value for name in ("average", "turn_1", "turn_2")] == [7.4, 282 / 37, 14 / 3]
        assert [scored[name].official for name in ("average", "turn_1", "turn_2")] == [7.4, 7.621622, 4.666667]
        assert {reason: len(names) for reason, names in scored.failures.items()} == {UNREADABLE: 120}
        assert (scored.num_questions, scored.num_scored) == (160, 40)


@pytest.mark.parametrize("model", PAPER_MODELS)
def test_the_papers_answers_are_read_and_rendered(model: str):
    """160 calls each, 60 of them beside a reference answer."""
    bench = real()
    answers = read_answers(bench, str(published("mt_bench", f"{model}.jsonl")))
    assert {answer.model for answer in answers} == {model}
    assert not any(answer.failure for answer in answers)
    calls = bench.calls(answers)
    assert len(calls) == 160
    assert sum("[The Start of Reference Answer]" in call.user for call in calls) == 30
    assert sum("<|The Start of Reference Answer|>" in call.user for call in calls) == 30


# The rule, by hand.


@pytest.mark.parametrize(
    ("text", "grade"),
    [
        ("Rating: [[5]]", 5.0),
        ("Rating: [[8.5]]", 8.5),
        ("[[7.]]", 7.0),
        ("[[3]] and [[9]]", 3.0),
        ("As [1] says, [[9]]", 9.0),
        ("Rating: [6]", 6.0),
        ("[[10/10]]", None),
        ("[[rating]]", None),
        ("Rating: 9", None),
        ("[[-1]]", None),
        ("$ERROR$", None),
        ("", None),
    ],
)
def test_the_first_double_bracket_counts_then_the_first_single_one(bench: MTBench, text: str, grade: float | None):
    """FastChat's two patterns; the second is a fallback."""
    assert rating(text) == grade
    assert bench.is_usable(text) == (grade is not None)


def test_temperatures_go_by_category():
    """0.7 for writing and roleplay, 0.1 for stem and humanities, else 0; 1,024 tokens; two turns of text."""
    asks = {ask.id: ask for ask in real().asks()}
    assert len(asks) == 80
    assert [asks[name].temperature for name in ("81", "91", "101", "111", "121", "131", "141", "151")] == [
        0.7,
        0.7,
        0,
        0,
        0,
        0,
        0.1,
        0.1,
    ]
    assert {ask.max_new_tokens for ask in asks.values()} == {1024}
    assert {len(ask.turns) for ask in asks.values()} == {2}
    assert not any(turn.pictures for ask in asks.values() for turn in ask.turns)


def test_other_categories_and_single_questions_are_asked_as_fastchat_does(tmp_path: Path):
    """0.7 for a category that is not listed, `required_temperature` before any; only a pair's second turn is judged."""
    rows = [
        {"question_id": 1, "category": "generic", "turns": ["Why?"]},
        {"question_id": 2, "category": "generic", "turns": ["How?"], "required_temperature": 0.25},
        {"question_id": 3, "category": "generic", "turns": ["a", "b", "c"]},
    ]
    bench = MTBench(questions=write_rows(tmp_path / "question.jsonl", rows))
    assert [ask.temperature for ask in bench.asks()] == [0.7, 0.25, 0.7]
    answers = [Answer("1", ["So."]), Answer("2", ["Thus."]), Answer("3", ["A", "B", "C"])]
    assert [call.id for call in bench.calls(answers)] == ["1/1", "2/1", "3/1"]


def test_a_call_is_the_prompt_filled_in(bench: MTBench):
    """Braces in texts stay; a reference stands beside math; the judge writes 2,048 tokens at temperature 0."""
    calls = {call.id: call for call in bench.calls(ANSWERS)}
    assert list(calls) == list(PLACES)
    assert "[Question]\nWrite a letter.\n\n[The Start of Assistant's Answer]\nDear {you}, ...\n" in calls["1/1"].user
    assert calls["1/1"].system == "You are a helpful assistant."
    assert "[The Start of Reference Answer]\n4\n[The End of Reference Answer]" in calls["2/1"].user
    assert "### Reference answer:\n8\n" in calls["2/2"].user
    assert "### User:\nAnd {doubled}?\n\n### Assistant A:\nIt is {8}.\n" in calls["2/2"].user
    assert {(call.temperature, call.max_tokens, call.then) for call in calls.values()} == {(0.0, 2048, ())}


def test_the_average_is_over_grades_and_not_over_turns(bench: MTBench):
    """9, 6, 6, 6, 6 with the last one unreadable: 33 / 5, while the turns' means are 7 and 6."""
    scored = bench.score(None, [replies(bench, GRADES | {"3/2": -1})], COUNT)
    assert [scored[name].value for name in ("average", "turn_1", "turn_2")] == [6.6, 7.0, 6.0]
    assert scored["average"].ids == ("1", "2", "3")
    assert scored["average"].terms.denominators.tolist() == [2, 2, 1]


def test_items_show_each_question_with_both_turns(bench: MTBench):
    """Scored by the mean of the turns, and only where both have a grade."""
    items = bench.score(None, [replies(bench, GRADES | {"3/2": -1})], COUNT).items
    assert [(item.id, item.score, item.category) for item in items] == [
        ("1", 7.5, "writing"),
        ("2", 6.0, "math"),
        ("3", None, "stem"),
    ]
    items = bench.score(ANSWERS, [judged(bench)], STRICT).items
    assert (items[1].question, items[1].answer) == ("What is 2 + 2?\n\nAnd {doubled}?", "It is 4.\n\nIt is {8}.")
    assert (items[1].expected, items[1].note, items[0].expected) == ("4\n\n8", "[[5]]\n\n[[5]]", "")


def test_words_are_counted_where_answers_are_given(bench: MTBench):
    """Both turns of an answer together."""
    scored = bench.score(ANSWERS, [judged(bench)], STRICT)
    assert scored["words"].value == (4 + 6 + 3) / 3
    assert scored.model == "ours"


def test_several_runs_of_the_judge_are_averaged_and_kept(bench: MTBench):
    """Means of 6 and of 8 give 7, with a deviation of 1; two models with other numbers of runs compare."""
    runs = [replies(bench, dict.fromkeys(PLACES, grade)) for grade in (6, 8)]
    scored = bench.score(None, runs, STRICT)
    assert (scored.headline.value, scored.headline.official, scored.headline.runs) == (7.0, 7.0, (6.0, 8.0))
    assert scored.headline.std == 1.0
    other = bench.score(None, runs[:1], STRICT)
    (average, *_) = compare_scored(other, scored, resamples=100)
    assert (average.base.value, average.aligned.value) == (6.0, 7.0)


def test_scores_are_written_and_read_again(bench: MTBench, tmp_path: Path):
    """A turn that no grade of can be read is undefined, and no error."""
    scored = bench.score(None, [replies(bench, GRADES | dict.fromkeys(("1/2", "2/2", "3/2"), -1))], COUNT)
    again = read_scored(scored.write(tmp_path))
    assert again.headline.value == 7.0
    assert again["turn_2"].num_samples == 0
    assert again["turn_2"].official is None


# What cannot be scored.


def faulty(bench: MTBench, run: list[JudgeReply], answers: list[Answer] | None = None) -> Scored:
    with pytest.raises(ValueError, match="not everything can be scored"):
        bench.score(answers, [run], STRICT)
    return bench.score(answers, [run], COUNT)


def test_missing_double_and_unknown_judgments(bench: MTBench):
    """The official script averages whatever lines there are."""
    run = [*replies(bench)[1:], replies(bench, {"3/1": 1})[0], *replies(bench, {"9/1": 1})]
    scored = faulty(bench, run)
    assert scored.failures[UNJUDGED] == ("1/1",)
    assert scored.failures[DOUBLY_JUDGED] == ("3/1",)
    assert [names for reason, names in scored.failures.items() if "not asked" in reason] == [("9/1",)]
    assert scored.headline.value == (6 + 6 + 6 + 8.5) / 4
    official = bench.score(None, [run], OFFICIAL)
    assert official.headline.value == (6 + 6 + 6 + 6 + 8.5 + 1 + 1) / 7
    assert official.headline.official == scored.headline.official == round(34.5 / 7, 6)
    assert official.failures == scored.failures


def test_a_grade_off_the_scale_and_one_that_differs_from_its_text(bench: MTBench):
    """Neither is averaged; officially the stored score counts."""
    run = replies(bench)
    run[0] = run[0]._replace(text="[[90]]", score=90.0)
    run[1] = run[1]._replace(score=10.0)
    scored = faulty(bench, run)
    assert scored.failures == {OFF_SCALE: ("1/1",), DIFFERS: ("1/2",)}
    assert scored.headline.value == 26.5 / 4
    assert bench.score(None, [run], OFFICIAL).headline.value == 126.5 / 6


def test_answers_that_lack_fail_or_are_cut(bench: MTBench):
    """Their judgments are in no mean, and none is asked for."""
    answers = [ANSWERS[0]._replace(failure="no picture"), ANSWERS[1]._replace(turns=("4",)), *ANSWERS[2:]]
    assert [call.id for call in bench.calls(answers)] == ["3/1", "3/2"]
    scored = faulty(bench, judged(bench), answers)
    assert {names for names in scored.failures.values()} == {("1",), ("2",)}
    assert scored.failures[CUT] == ("2",)
    assert (scored.num_questions, scored.num_scored) == (6, 2)


def test_two_answers_to_one_question(bench: MTBench, tmp_path: Path):
    """Neither is scored; the judge is not asked about either."""
    answers = [*ANSWERS, ANSWERS[2]]
    with pytest.raises(ValueError, match=r"2 answers stand there more than once \(3/1, 3/2"):
        judge(bench, answers, ReplayGrader(judged(bench)), tmp_path)
    double = faulty(bench, judged(bench), answers)
    assert list(double.failures.values()) == [("3",)]


def test_a_reply_that_did_not_come(bench: MTBench):
    """Counted by itself; who failed to answer is no second judge."""
    run = judged(bench)
    run[0] = JudgeReply("1/1", "", failure="503")
    assert faulty(bench, run).failures == {NO_REPLY: ("1/1",)}


def test_judges_are_never_mixed(bench: MTBench):
    """Whatever is asked for."""
    run = judged(bench)
    run[0] = run[0]._replace(judge="gpt-4-0613")
    for handling in (STRICT, COUNT, OFFICIAL):
        with pytest.raises(ValueError, match="judgments of 2 judges are mixed"):
            bench.score(None, [run], handling)


def test_no_judgment_and_no_grade_are_errors(bench: MTBench):
    """There is no number to give."""
    with pytest.raises(ValueError, match="--judgments"):
        bench.score(ANSWERS, [], COUNT)
    with pytest.raises(ValueError, match="no judgment gives a grade"):
        bench.score(None, [replies(bench, dict.fromkeys(PLACES, -1))], COUNT)


def test_a_missing_reference_is_named_before_a_judge_is_asked(tmp_path: Path):
    """Only math needs one here."""
    folder = Path(write_mt_bench(tmp_path))
    (folder / "reference_answer" / "gpt-4.jsonl").unlink()
    with pytest.raises(ValueError, match=r"1 questions.*have none: 2\. Give.*--references"):
        MTBench(questions=str(folder)).calls(ANSWERS)
    assert MTBench(questions=str(folder)).score(None, [replies(MTBench(questions=str(folder)))], STRICT).num_scored == 6


# Other files are another protocol.


def test_corrected_references_replace_and_are_another_protocol(tmp_path: Path):
    """Only those of the same ids."""
    folder = write_mt_bench(tmp_path / "mt_bench")
    row = {"question_id": 2, "choices": [{"turns": ["four", "eight"]}]}
    corrected = MTBench(questions=folder, corrected_references=write_rows(tmp_path / "corrected.jsonl", [row]))
    plain = MTBench(questions=folder)
    assert "\neight\n" in corrected.calls(ANSWERS)[3].user
    assert corrected.calls(ANSWERS)[0] == plain.calls(ANSWERS)[0]
    assert corrected.protocol != plain.protocol
    assert plain.protocol.startswith("mt_bench/fastchat-0e6d3e4+questions-")
    with pytest.raises(ValueError, match="protocol"):
        compare_scored(*(each.score(None, [replies(plain)], STRICT) for each in (plain, corrected)))


def test_other_judge_prompts_are_another_protocol(bench: MTBench, tmp_path: Path):
    """And are used."""
    rows = load(Path(__file__).parents[3] / "mmalign/evaluation/benchmarks/prompts/mt_bench.jsonl")
    rows[0]["prompt_template"] = "Grade: {answer}"
    other = MTBench(questions=bench.questions, judge_prompts=write_rows(tmp_path / "prompts.jsonl", rows))
    assert other.calls(ANSWERS)[0].user == "Grade: Dear {you}, ..."
    assert "+prompts-" in other.protocol


# The rest of what a benchmark is.


def test_it_is_a_judged_benchmark(bench: MTBench):
    """By the protocol that the steps go by."""
    assert isinstance(bench, JudgedBenchmark)


def test_scoring_needs_no_torch(tmp_path: Path):
    """In a process of its own, from FastChat's files."""
    folder = write_mt_bench(tmp_path)
    rows = write_rows(tmp_path / "gpt-4_single.jsonl", judgment_rows(GRADES))
    code = f"""
import sys
from mmalign.evaluation.steps.faults import Handling
from mmalign.evaluation.benchmarks.noisy_mt_bench import NoisyMTBench
from mmalign.evaluation.steps.reading import read_runs
bench = NoisyMTBench(questions={folder!r})
assert bench.score(None, read_runs(bench, {rows!r}), Handling()).headline.value == 41.5 / 6
assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_scoring_asks_nobody_and_needs_no_references(tmp_path: Path):
    """What can be compared with the prompt that was asked, is."""
    folder = Path(write_mt_bench(tmp_path))
    run = replies(MTBench(questions=str(folder)))
    (folder / "reference_answer" / "gpt-4.jsonl").unlink()
    bare = [reply._replace(prompt_hash="asked by somebody") for reply in run]
    with pytest.raises(ValueError, match=OTHER_PROMPT.partition("(")[0]) as error:
        MTBench(questions=str(folder)).score(ANSWERS, [bare], STRICT)
    assert "2/1" not in str(error.value)
