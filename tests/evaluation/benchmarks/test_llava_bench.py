"""LLaVA-Bench (in the wild) asks, judges and sums up as LLaVA's scripts do: all columns of the published reviews."""

import json
from pathlib import Path

import pytest

from mmalign.evaluation.benchmarks.llava_bench import LlavaBench
from mmalign.evaluation.steps.benchmark import JudgedBenchmark
from mmalign.evaluation.steps.faults import UNJUDGED, UNREADABLE, Handling
from mmalign.evaluation.steps.reading import read_answers, read_runs
from mmalign.evaluation.steps.records import JudgeReply, prompt_hash
from mmalign.evaluation.steps.scored import Scored
from tests.harness.published import published

STRICT, COUNT, OFFICIAL = Handling(), Handling(on_bad="count"), Handling(compat="official")
# What `summarize_gpt_review.py` prints for the three published files: share, reference, model.
PRINTED = [
    {
        "": (64.7, 87.0, 56.3),
        "_complex": (77.6, 85.4, 66.2),
        "_conv": (59.3, 88.8, 52.6),
        "_detail": (47.7, 88.0, 42.0),
    },
    {
        "": (65.3, 87.0, 56.8),
        "_complex": (78.8, 85.0, 67.0),
        "_conv": (59.0, 88.2, 52.1),
        "_detail": (48.5, 89.3, 43.3),
    },
    {
        "": (66.3, 86.7, 57.5),
        "_complex": (79.6, 85.0, 67.7),
        "_conv": (59.0, 88.2, 52.1),
        "_detail": (50.8, 88.0, 44.7),
    },
]
QUESTIONS = [
    {"question_id": 0, "image": "1.jpg", "text": "What?", "category": "conv"},
    {"question_id": 1, "image": "1.jpg", "text": "Describe.", "category": "detail"},
    {"question_id": 2, "image": "2.jpg", "text": "Why?", "category": "conv"},
]
CONTEXTS = [{"image": "1.jpg", "caption": ["A dog.", "Grass."]}, {"image": "2.jpg", "caption": "A cat."}]
ANSWERS = [{"question_id": number, "text": f"answer {number}", "model_id": "m"} for number in range(3)]


def write_lines(path: Path, rows: list[dict[str, object]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def bench(tmp_path: Path) -> LlavaBench:
    write_lines(tmp_path / "questions.jsonl", QUESTIONS)
    write_lines(tmp_path / "context.jsonl", CONTEXTS)
    write_lines(tmp_path / "answers_gpt4.jsonl", [{**row, "text": "Reference."} for row in ANSWERS])
    return LlavaBench(questions=str(tmp_path))


def reviews(*texts: str) -> list[dict[str, object]]:
    return [{"question_id": number, "content": text} for number, text in enumerate(texts)]


def scored(bench: LlavaBench, handling: Handling, *texts: str) -> Scored:
    return bench.score(None, [bench.read_replies(reviews(*texts))], handling)


def real() -> LlavaBench:
    return LlavaBench(questions=str(published("llava_bench")))


def real_replies(number: int) -> list[JudgeReply]:
    (run,) = read_runs(real(), str(published("llava_bench", f"llava-v1.5-7b-eval{number}.jsonl")))
    return run


def columns(found: Scored, end: str) -> tuple[float | None, ...]:
    return tuple(found[f"{name}{end}"].official for name in ("relative", "reference", "model"))


@pytest.mark.parametrize("handling", [STRICT, OFFICIAL])
@pytest.mark.parametrize("number", [1, 2, 3])
def test_every_published_column_is_reproduced(number: int, handling: Handling):
    """64.7, 65.3, 66.3, and each category."""
    found = real().score(None, [real_replies(number)], handling)
    assert {end: columns(found, end) for end in PRINTED[number - 1]} == PRINTED[number - 1]
    assert (found.num_scored, found.failures, len(found.headline.ids)) == (60, {}, 24)


def test_three_reviews_are_averaged():
    """The model zoo's number: 65.4 of 64.7, 65.3, 66.3."""
    found = real().score(None, [real_replies(number) for number in (1, 2, 3)], STRICT)
    assert (found.headline.official, found.headline.runs) == (65.4, (64.7, 65.3, 66.3))
    assert found.headline.value == pytest.approx(0.6547, abs=5e-5)
    assert found.headline.std == pytest.approx(0.0065, abs=5e-4)


def test_the_prompts_are_rebuilt_from_the_published_files():
    """Of all 60; the rule that ships is the one that LLaVA publishes."""
    answers = read_answers(real(), str(published("llava_bench", "answers_llava-v1.5-7b.jsonl")))
    calls = real().calls(answers)
    assert len(calls) == 60
    given = LlavaBench(
        questions=str(published("llava_bench", "questions.jsonl")),
        contexts=str(published("llava_bench", "context.jsonl")),
        references=str(published("llava_bench", "answers_gpt4.jsonl")),
        rule=str(published("llava_bench", "rule.json")),
    )
    assert given.calls(answers) == calls
    assert calls[0].user.startswith(
        "[Context]\nAn aerial view of Diamond Head in the Hawaiian Islands.\n\n[Question]\nWhat is the name of this "
        "famous sight in the photo?\n\n[Assistant 1]\nThe famous sight in the photo is Diamond Head.\n\n[End of "
    )
    assert real().score(answers, [real_replies(1)], STRICT)["words"].num_samples == 60


def test_captions_of_a_list_stand_in_lines(bench: LlavaBench):
    first, *_ = bench.calls(bench.read_answers(ANSWERS))
    assert "[Context]\nA dog.\nGrass.\n\n[Question]\nWhat?\n\n[Assistant 1]\nReference.\n\n" in first.user
    assert "[Assistant 2]\nanswer 0\n\n[End of Assistant 2]\n\n[System]\nWe would like to request" in first.user


def test_what_cannot_be_read_is_left_out_or_is_minus_one(bench: LlavaBench):
    """A comma and a space are unreadable. Counted: (6 + 4) / (8 + 8); the script: (6 - 1 + 4) / (8 - 1 + 8)."""
    texts = ("8 6\nFine.", "8, 6\nFine.", "8 4\nFine.")
    with pytest.raises(ValueError, match="1: judge text without a score: 1"):
        scored(bench, STRICT, *texts)
    counted = scored(bench, COUNT, *texts)
    assert (counted.headline.value, counted.failures) == (0.625, {UNREADABLE: ("1",)})
    assert counted.headline.value == 10 / 16
    official = scored(bench, OFFICIAL, *texts)
    assert (official.headline.value, official.failures) == (9 / 15, {UNREADABLE: ("1",)})
    assert official["relative_detail"].official == 100.0
    assert not bench.is_usable("8, 6")


def test_the_script_sums_up_what_there_is(bench: LlavaBench):
    """It never asks whether all questions were reviewed; we do."""
    with pytest.raises(ValueError, match="1: no judgment: 2"):
        scored(bench, STRICT, "8 6", "8 4")
    assert scored(bench, OFFICIAL, "8 6", "8 4").headline.official == 62.5
    assert scored(bench, OFFICIAL, "8 6", "8 4").failures == {UNJUDGED: ("2",)}


def test_a_judge_needs_context_and_reference(bench: LlavaBench, tmp_path: Path):
    write_lines(tmp_path / "context.jsonl", CONTEXTS[:1])
    with pytest.raises(ValueError, match=r"question 2 \(picture 2.jpg, category conv\) has no context"):
        bench.calls(bench.read_answers(ANSWERS))
    (tmp_path / "context.jsonl").unlink()
    with pytest.raises(FileNotFoundError, match=r"context\.jsonl"):
        bench.calls(bench.read_answers(ANSWERS))
    assert scored(bench, STRICT, "8 6", "8 4", "9 9").num_scored == 3


def test_rows_of_the_hub_bring_all_that_the_judge_needs(tmp_path: Path):
    row = {"question_id": 0, "question": "What?", "category": "conv", "caption": "A dog.", "gpt_answer": "Dog."}
    write_lines(tmp_path / "rows.jsonl", [row])
    (call,) = LlavaBench(questions=str(tmp_path / "rows.jsonl")).calls(
        LlavaBench(questions="").read_answers(ANSWERS[:1])
    )
    assert call.user.startswith("[Context]\nA dog.\n\n[Question]\nWhat?\n\n[Assistant 1]\nDog.\n\n")


def test_our_judgments_of_other_answers_are_found_out(bench: LlavaBench):
    answers = bench.read_answers(ANSWERS)
    said = [JudgeReply(call.id, "8 6", "gpt-4", prompt_hash(call.messages())) for call in bench.calls(answers)]
    assert bench.score(answers, [said], STRICT).headline.official == 75.0
    with pytest.raises(ValueError, match="1: judged by another prompt"):
        bench.score([answers[0]._replace(turns=("Other.",)), *answers[1:]], [said], STRICT)


def test_other_files_are_no_questions(tmp_path: Path):
    write_lines(tmp_path / "questions.jsonl", [{"id": 1}])
    with pytest.raises(ValueError, match="does not have LLaVA-Bench's questions"):
        LlavaBench(questions=str(tmp_path)).asks()


def test_a_question_is_asked_greedily_with_its_picture(bench: LlavaBench, tmp_path: Path):
    first, *_ = bench.asks()
    assert (first.id, first.turns[0].text, first.temperature, first.max_new_tokens) == ("0", "What?", 0, 1024)
    assert first.turns[0].pictures[0].path == tmp_path / "images" / "1.jpg"
    assert isinstance(bench, JudgedBenchmark)
