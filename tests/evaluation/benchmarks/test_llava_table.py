"""LLaVA's table: the published reviews of four models against Vicuna, and how new ones are made."""

import json
from pathlib import Path

import pytest

from mmalign.evaluation.benchmarks.llava_table import LlavaTable
from mmalign.evaluation.steps.benchmark import JudgedBenchmark
from mmalign.evaluation.steps.faults import UNREADABLE, Handling
from mmalign.evaluation.steps.reading import read_runs
from mmalign.evaluation.steps.records import Answer
from tests.harness.published import published

STRICT, OFFICIAL = Handling(), Handling(compat="official")
RULES = {
    "default": {"role": "Assistant", "prompt": "Rate both."},
    "math": {"role": "Solver", "prompt": "Solve, then rate."},
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    questions = [
        {"question_id": 1, "text": "How?", "category": "generic"},
        {"question_id": 2, "text": "1 + 1?", "category": "math"},
    ]
    references = [{"question_id": number, "text": f"Reference {number}."} for number in (1, 2)]
    (tmp_path / "question.jsonl").write_text("\n".join(map(json.dumps, questions)))
    (tmp_path / "answer_vicuna.jsonl").write_text("\n".join(map(json.dumps, references)))
    (tmp_path / "rule.json").write_text(json.dumps(RULES))
    return tmp_path


@pytest.mark.parametrize("handling", [STRICT, OFFICIAL])
@pytest.mark.parametrize(
    ("name", "both", "share"),
    [
        ("bard", (83.0, 81.9), 98.7),
        ("gpt35", (86.6, 79.8), 92.1),
        ("alpaca-13b", (72.9, 88.0), 120.8),
        ("llama-13b", (64.1, 86.8), 135.3),
    ],
)
def test_the_published_reviews_give_the_published_means(
    name: str, both: tuple[float, float], share: float, handling: Handling
):
    """Of 80 questions; three grades of maths stand in the file alone, where people read them from a long text."""
    bench = LlavaTable()
    (replies,) = read_runs(bench, str(published("llava_table", "review", f"review_{name}_vicuna-13b.jsonl")))
    found = bench.score(None, [replies], handling)
    assert (found["reference"].official, found["model"].official) == both
    assert found.headline.official == share
    assert (found.num_scored, found.judge) == (80, "gpt-4-0328")
    assert [item.id for item in found.items if not bench.is_usable(item.note)] == ["68", "69", "70"]


def test_the_judge_is_told_the_rule_of_the_category(folder: Path):
    bench = LlavaTable(questions=str(folder), references=str(folder / "answer_vicuna.jsonl"))
    generic, math = bench.calls([Answer("1", ("So.",)), Answer("2", ("2.",))])
    assert generic.user == (
        "[Question]\nHow?\n\n[Assistant 1]\nReference 1.\n\n[End of Assistant 1]\n\n"
        "[Assistant 2]\nSo.\n\n[End of Assistant 2]\n\n[System]\nRate both.\n\n"
    )
    assert "[Solver 2]\n2.\n\n[End of Solver 2]\n\n[System]\nSolve, then rate.\n\n" in math.user
    assert [ask.turns[0].text for ask in bench.asks()] == ["How?", "1 + 1?"]
    assert isinstance(bench, JudgedBenchmark)


def test_a_failed_review_is_no_score(folder: Path):
    """The script writes -1 for both, and averages it in."""
    rows = [
        {"question_id": 1, "category": "generic", "content": "8 6", "tuple": [8.0, 6.0]},
        {"question_id": 2, "category": "math", "content": "Well.", "tuple": [-1, -1]},
    ]
    bench = LlavaTable(questions=str(folder))
    replies = bench.read_replies(rows)
    with pytest.raises(ValueError, match="1: judge text without a score: 2"):
        bench.score(None, [replies], STRICT)
    counted = bench.score(None, [replies], Handling(on_bad="count"))
    assert (counted.headline.value, counted.failures) == (0.75, {UNREADABLE: ("2",)})
    assert bench.score(None, [replies], OFFICIAL).headline.value == 5 / 7


def test_what_is_missing_is_asked_for_by_its_option(folder: Path):
    with pytest.raises(ValueError, match="`--questions`"):
        LlavaTable().asks()
    with pytest.raises(ValueError, match="`--references`"):
        LlavaTable(questions=str(folder)).calls([Answer("1", ("So.",))])
    (folder / "answer_vicuna.jsonl").write_text(json.dumps({"question_id": 1, "text": "Only one."}))
    with pytest.raises(ValueError, match="answers 1 questions not: 2"):
        LlavaTable(questions=str(folder), references=str(folder / "answer_vicuna.jsonl")).calls([])
