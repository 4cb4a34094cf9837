"""Scores from lm_eval's grades; no library is needed."""

import json
import subprocess
import sys

import pytest

from mmalign.evaluation.benchmarks.text import Graded, TextKnowledge
from mmalign.evaluation.steps.benchmark import JudgedBenchmark
from mmalign.evaluation.steps.comparing import compare_scored
from mmalign.evaluation.steps.faults import Handling
from mmalign.evaluation.steps.records import Answer, JudgeReply
from mmalign.evaluation.steps.scored import read_scored

STRICT = Handling()
COUNT = Handling(on_bad="count")


def reply(task, number, of=None, judge="lm_eval 0.4.13", generated=False, **metrics):
    values = {f"{name},none": float(value) for name, value in metrics.items()}
    higher = [key for key in values if not key.startswith("ppl")]
    graded = Graded(task, of or task, values, higher, question="Why?", expected="So.", generated=generated)
    return JudgeReply(f"{task}/{number}", graded.text(), judge=judge)


def score(replies, answers=None, handling=STRICT):
    return TextKnowledge(tasks=["a", "g"]).score(answers, [replies], handling)


def test_tasks_count_alike_and_groups_by_their_documents():
    """`a` has 1 of 2; the group `g` has 2 of its 3 documents in two tasks: (1/2 + 2/3) / 2."""
    replies = [reply("a", 0, acc=1), reply("a", 1, acc=0)]
    replies += [reply("g1", 0, "g", acc=1), reply("g1", 1, "g", acc=1), reply("g2", 0, "g", acc=0)]
    found = score(replies)
    assert found.headline.value == pytest.approx((1 / 2 + 2 / 3) / 2)
    assert found["a/acc"].official == 0.5
    assert found["g/acc"].value == pytest.approx(2 / 3)
    assert found["g2/acc"].value == 0
    assert (found["g1/acc"].group, found["g/acc"].group, found.judge) == ("task", "requested", "lm_eval 0.4.13")


def test_a_further_metric_does_not_change_the_headline():
    found = score([reply("a", 0, acc=1, acc_norm=0), reply("a", 1, acc=1, acc_norm=0)])
    assert (found.headline.value, found["a/acc_norm"].value) == (1, 0)


def test_lower_is_better_where_the_library_says_so():
    found = score([reply("a", 0, acc=1, ppl=12)])
    assert (found["a/ppl"].direction, found["a/ppl"].percent) == ("lower", False)


def test_words_are_counted_where_the_model_wrote_them():
    answers = [Answer("a/0", ("Two words",), "m"), Answer("g/0", ("B",), "m")]
    found = score([reply("a", 0, generated=True, acc=1), reply("g", 0, acc=1)], answers)
    assert (found["words"].value, found["words"].ids, found.model) == (2, ("a/0",), "m")


def test_missing_and_double_grades_are_named():
    answers = [Answer(f"a/{i}", ("B",)) for i in range(3)]
    replies = [reply("a", 0, acc=1), reply("a", 1, acc=1), reply("a", 1, acc=0)]
    with pytest.raises(ValueError, match="a/2") as error:
        score(replies, answers)
    assert "a/1" in str(error.value)
    assert score(replies, answers, COUNT).num_scored == 1


def test_two_versions_of_the_library_are_not_mixed():
    with pytest.raises(ValueError, match="2 judges"):
        score([reply("a", 0, acc=1), reply("a", 1, acc=1, judge="lm_eval 0.3")])


def test_base_and_aligned_are_paired(tmp_path):
    base = score([reply("a", i, acc=i % 2) for i in range(10)])
    score([reply("a", i, acc=1) for i in range(10)]).write(tmp_path)
    found = {each.name: each for each in compare_scored(base, read_scored(tmp_path), resamples=200)}
    assert found["mean"].difference.value == 0.5
    assert found["mean"].verdict == "better"


def test_other_shots_are_another_protocol():
    assert TextKnowledge(tasks=["a"]).protocol == "text/a"
    assert TextKnowledge(tasks=["a", "b"], num_fewshot=5, limit=9, chat=True).protocol == "text/a+b-5-shot-first-9-chat"


def test_without_grades_it_says_where_they_go():
    with pytest.raises(ValueError, match="--judgments"):
        TextKnowledge().score(None, [], Handling())


def test_it_is_a_benchmark_without_questions_of_its_own():
    assert isinstance(TextKnowledge(), JudgedBenchmark)
    assert TextKnowledge().asks() == []
    with pytest.raises(ValueError, match=r"answers\.jsonl"):
        TextKnowledge().read_answers([])


def test_scoring_imports_neither_torch_nor_the_library():
    code = (
        "import sys; from mmalign.evaluation.benchmarks.text import TextKnowledge;"
        "print({'torch', 'lm_eval', 'datasets'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_grades_come_back_from_text():
    graded = Graded("a", "g", {"acc,none": 1.0}, ["acc,none"])
    assert Graded(**json.loads(graded.text())) == graded
