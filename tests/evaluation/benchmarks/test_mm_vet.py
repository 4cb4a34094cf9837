"""MM-Vet asks, judges and averages as its evaluator does: every published cell from the published grades."""

import csv
import json
from pathlib import Path

import pytest

from mmalign.evaluation.benchmarks.mm_vet import MMVet, read_grade
from mmalign.evaluation.steps.benchmark import JudgedBenchmark
from mmalign.evaluation.steps.comparing import compare_scored
from mmalign.evaluation.steps.faults import DIFFERS, MISSING, UNREADABLE, Handling
from mmalign.evaluation.steps.reading import read_answers, read_runs
from mmalign.evaluation.steps.records import Answer, JudgeReply, prompt_hash
from mmalign.evaluation.steps.scored import Metric, Scored, read_scored
from tests.harness.published import published

STRICT, COUNT, OFFICIAL = Handling(), Handling(on_bad="count"), Handling(compat="official")
QUESTIONS = {
    "v1_0": {"imagename": "0.png", "question": "x?", "answer": "-1<AND>-5", "capability": ["ocr", "math"]},
    "v1_1": {"imagename": "0.png", "question": "d?", "answer": "5/4<OR>1.25", "capability": ["math", "ocr"]},
    "v1_2": {"imagename": "2.png", "question": "Who?", "answer": "Ada", "capability": ["rec"]},
}
ANSWERS = {"v1_0": "x = -1", "v1_1": "1.25", "v1_2": "I do not know."}


@pytest.fixture
def bench(tmp_path: Path) -> MMVet:
    (tmp_path / "mm-vet.json").write_text(json.dumps(QUESTIONS))
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "0.png").write_bytes(b"png")
    return MMVet(questions=str(tmp_path))


def grades(*contents: str, scores: tuple[float, ...] = ()) -> dict[str, dict[str, list[object]]]:
    """A grade file of one run."""
    stored = scores or tuple(float(each) for each in contents)
    return {
        name: {"model": ["gpt-4"], "content": [content], "score": [score]}
        for name, content, score in zip(QUESTIONS, contents, stored, strict=False)
    }


def scored(bench: MMVet, handling: Handling, *contents: str, scores: tuple[float, ...] = ()) -> Scored:
    return bench.score(None, bench.read_runs(grades(*contents, scores=scores)), handling)


# The published data.


def real(runs: int) -> Scored:
    bench = MMVet(questions=str(published("mm_vet")))
    return bench.score(
        None, read_runs(bench, str(published("mm_vet", f"llava-v1.5-7b_gpt-4-grade-{runs}runs.json"))), STRICT
    )


def published_row(name: str) -> dict[str, str]:
    with published("mm_vet", f"llava-v1.5-7b_gpt-4-{name}.csv").open() as file:
        (row,) = [row for row in csv.DictReader(file) if row[""] == "llava-v1.5-7b"]
    return row


def check_spread(total: Metric, row: dict[str, str]) -> None:
    assert round((total.std or 0) * 100, 1) == float(row.pop("std"))
    assert json.loads(row.pop("runs")) == (list(total.runs) or [total.official])


@pytest.mark.parametrize("runs", [1, 3])
def test_every_published_capability_is_reproduced(runs: int):
    """One run: 31.2, rec 37.0, ocr 21.0; three: 31.1 +- 0.2 of 31.2, 30.8, 31.2."""
    found, row = real(runs), published_row(f"cap-score-{runs}runs")
    assert row.pop("") == "llava-v1.5-7b"
    check_spread(found["total"], row)
    assert {name: found[name].official for name in row} == {name: float(cell) for name, cell in row.items()}
    assert (found.num_scored, found.failures, found.judge) == (218, {}, "gpt-4")
    assert found.headline.name == "total"
    assert found.headline.official == {1: 31.2, 3: 31.1}[runs]


@pytest.mark.parametrize("runs", [1, 3])
def test_every_published_combination_is_reproduced(runs: int):
    """All sixteen; the csv names them in any order."""
    found, row = real(runs), published_row(f"cap-int-score-{runs}runs")
    for name in ("", "total", "std", "runs"):
        del row[name]
    combinations = {
        frozenset(metric.name.removeprefix("only_").split("_")): metric.official
        for metric in found.metrics
        if metric.group == "combination"
    }
    assert combinations == {frozenset(name.split("_")): float(cell) for name, cell in row.items()}
    assert len(combinations) == 16


def test_the_value_behind_the_printed_number_is_the_same():
    """So that intervals belong to the number in the table; a metric with a printed number is never further off."""
    for metric in (*real(1).metrics, *real(3).metrics):
        assert metric.official == pytest.approx(metric.value * 100, abs=0.0501)


def test_answers_of_both_layouts_are_judged_alike():
    """MM-Vet's own object and LLaVA's lines, `v1_` and the number."""
    bench = MMVet(questions=str(published("mm_vet")))
    answers = read_answers(bench, str(published("mm_vet", "llava-v1.5-7b.json")))
    lines = [{"question_id": int(each.id[3:]), "text": each.text} for each in answers]
    assert bench.calls(bench.read_answers(lines)) == bench.calls(answers)
    assert len(bench.calls(answers)) == 218
    found = bench.score(answers, real_runs(bench), STRICT)
    assert found["words"].num_samples == 218
    assert found["total"].official == 31.2


def real_runs(bench: MMVet) -> list[list[JudgeReply]]:
    return read_runs(bench, str(published("mm_vet", "llava-v1.5-7b_gpt-4-grade-1runs.json")))


# What is asked.


def test_a_question_is_asked_with_its_picture_and_nothing_else(bench: MMVet):
    first, *_ = bench.asks()
    assert (first.id, first.turns[0].text, first.temperature) == ("v1_0", "x?", 0)
    assert first.turns[0].pictures[0].read() == b"png"


def test_the_judge_continues_a_table(bench: MMVet):
    """Seven graded rows, an empty line, then ours without its grade."""
    call, *others = bench.calls(bench.read_answers(ANSWERS))
    head, last = call.user.rsplit("\n\n", 1)
    assert last == "x? | -1 <AND> -5 | x = -1 | "
    assert head.startswith("Compare the ground truth and prediction from AI models, to give a correctness score")
    table = head.partition("\n\n")[2].split("\n")
    assert table[:2] == ["Question | Ground truth | Prediction | Correctness", "--- | --- | --- | ---"]
    assert [row.rpartition(" | ")[2] for row in table[2:]] == ["0.0", "0.5", "0.5", "0.5", "1.0", "0.4", "1.0"]
    assert (call.system, call.max_tokens, call.temperature) == ("", 3, 0)
    assert others[0].user.endswith("\nd? | 5/4 <OR> 1.25 | 1.25 | ")


def test_a_reply_without_a_grade_is_asked_for_four_times_more(bench: MMVet):
    """With a hint, and warmer: the script's temperature rises after each further call, the first of which is cold."""
    call, *_ = bench.calls(bench.read_answers(ANSWERS))
    assert [again.temperature for again in call.then] == [0.0, 0.5, 1.0, 1.5]
    assert {again.user for again in call.then} == {call.user + "\nPredict the correctness of the answer (digit): "}


@pytest.mark.parametrize(
    ("text", "grade"),
    [("0.5", 0.5), ("1", 1), ("0.5 because", 0.5), ("0.5\n", 0.5), (" 0.5", None), ("1.1", None), ("-0.1", None),
     ("nan", None), ("", None), ("0.5.", None), ("totally wrong", None)],
)  # fmt: skip
def test_a_grade_is_the_first_word_and_from_0_to_1(text: str, grade: float | int | None, bench: MMVet):
    assert read_grade(text) == (None if grade is None else (grade,))
    assert bench.is_usable(text) is (grade is not None)


# What is made of it.


def test_a_question_counts_for_each_capability_and_for_one_combination(bench: MMVet):
    """0.5, 1, 0.3: total 60; ocr and math 75; rec 30. The first two share a picture, and are drawn together."""
    found = scored(bench, STRICT, "0.5", "1.0", "0.3")
    assert {metric.name: metric.official for metric in found.metrics} == {
        "total": 60.0,
        "ocr": 75.0,
        "math": 75.0,
        "rec": 30.0,
        "only_ocr_math": 75.0,
        "only_rec": 30.0,
    }
    assert found["total"].ids == ("0.png", "2.png")
    assert found["total"].value == pytest.approx(0.6)
    assert [item.score for item in found.items] == [0.5, 1.0, 0.3]
    assert [len(item.pictures) for item in found.items] == [1, 1, 0]


def test_what_has_no_grade_is_an_error_is_counted_or_is_zero(bench: MMVet):
    """By default, when asked to count, and as the script does: (0.5 + 0.3) / 2, and / 3."""
    texts = ("0.5", "no idea", "0.3")
    with pytest.raises(ValueError, match="1: judge text without a score: v1_1"):
        scored(bench, STRICT, *texts, scores=(0.5, 0.0, 0.3))
    counted = scored(bench, COUNT, *texts, scores=(0.5, 0.0, 0.3))
    assert (counted["total"].value, counted.num_scored, counted.failures) == (0.4, 2, {UNREADABLE: ("v1_1",)})
    assert counted["total"].official is None
    assert [item.score for item in counted.items] == [0.5, None, 0.3]
    official = scored(bench, OFFICIAL, *texts, scores=(0.5, 0.0, 0.3))
    assert (official["total"].official, official.failures) == (26.7, {UNREADABLE: ("v1_1",)})


def test_the_sixth_reply_is_not_read_by_the_script(bench: MMVet):
    """It stores 0.0 beside whatever that says; we do not believe either without being told."""
    with pytest.raises(ValueError, match=DIFFERS):
        scored(bench, STRICT, "0.5", "1.0", "0.3", scores=(0.5, 0.0, 0.3))
    assert scored(bench, OFFICIAL, "0.5", "1.0", "0.3", scores=(0.5, 0.0, 0.3))["total"].official == 26.7


def test_the_script_needs_every_answer(bench: MMVet):
    with pytest.raises(ValueError, match=r"official script has no score(.|\n)*1: no judgment: v1_2"):
        scored(bench, OFFICIAL, "0.5", "1.0")
    answers = bench.read_answers({name: text for name, text in ANSWERS.items() if name != "v1_1"})
    found = bench.score(answers, bench.read_runs(grades("0.5", "1.0", "0.3")), COUNT)
    assert found.failures == {MISSING: ("v1_1",)}
    assert found["total"].value == 0.4


def test_runs_of_one_file_are_told_apart(bench: MMVet):
    """Two runs, 60 and 50; the second lacks its last grade: (0.5 + 0.5) / 2."""
    rows = grades("0.5", "1.0", "0.3")
    for name in ("v1_0", "v1_1"):
        rows[name] = {
            "model": ["gpt-4"] * 2,
            "content": [*rows[name]["content"], "0.5"],
            "score": [*rows[name]["score"], 0.5],
        }
    found = bench.score(None, bench.read_runs(rows), COUNT)
    assert found["total"].runs == (60.0, 50.0)
    assert found["total"].value == pytest.approx(0.55)
    assert found.failures == {"no judgment": ("v1_2 (run 2)",)}
    assert found["rec"].official is None
    with pytest.raises(ValueError, match="2 runs of the judge where one is wanted"):
        bench.read_replies(rows)


def test_grades_of_two_judges_are_never_averaged(bench: MMVet):
    rows = grades("0.5", "1.0", "0.3")
    rows["v1_0"]["model"] = ["gpt-4-0613"]
    for handling in (STRICT, COUNT, OFFICIAL):
        with pytest.raises(ValueError, match="2 by gpt-4, 1 by gpt-4-0613"):
            bench.score(None, bench.read_runs(rows), handling)


def test_our_own_judgments_are_checked_against_the_answers(bench: MMVet, tmp_path: Path):
    """A grade that was given to another answer is none; all is kept when the score is written and read."""
    answers = bench.read_answers(ANSWERS)
    said = [JudgeReply(call.id, "0.5", "gpt-4", prompt_hash(call.messages())) for call in bench.calls(answers)]
    found = bench.score(answers, [said], STRICT)
    found.write(tmp_path)
    assert read_scored(tmp_path).metrics[0].official == 50.0
    assert [each.difference.value for each in compare_scored(found, found)] == [0.0] * len(found.metrics)
    with pytest.raises(ValueError, match="1: judged by another prompt"):
        bench.score([Answer("v1_0", ("x = 7",)), *answers[1:]], [said], STRICT)


@pytest.mark.parametrize("rows", [[], [1], {"v1_0": 0.5}, {"v1_0": {"score": [1]}}])
def test_other_files_are_no_grades(bench: MMVet, rows: object, tmp_path: Path):
    path = tmp_path / "grades.json"
    path.write_text(json.dumps(rows))
    with pytest.raises(ValueError, match=r"grades\.json"):
        bench.score(None, read_runs(bench, str(path)), STRICT)


def test_other_files_are_no_questions(tmp_path: Path):
    for rows in ({"v1_0": "text"}, [{"question_id": 1}]):
        (tmp_path / "mm-vet.json").write_text(json.dumps(rows))
        with pytest.raises(ValueError, match="does not have MM-Vet's questions"):
            MMVet(questions=str(tmp_path)).asks()


def test_rows_of_the_hub_are_read(tmp_path: Path):
    row = {"question_id": "v1_0", "question": "x?", "answer": "1", "capability": "ocr,math", "image": {"bytes": None}}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row) + "\n")
    bench = MMVet(questions=str(tmp_path / "rows.jsonl"))
    assert bench.score(None, [[JudgeReply("v1_0", "1.0", "gpt-4")]], STRICT)["math"].official == 100.0
    assert isinstance(bench, JudgedBenchmark)
