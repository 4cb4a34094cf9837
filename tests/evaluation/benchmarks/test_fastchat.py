"""FastChat's files are read as they are, and what is wrong with others is said."""

import json
from pathlib import Path

import pytest

from mmalign.evaluation.benchmarks import fastchat
from mmalign.evaluation.benchmarks.mt_bench import SHIPPED_PROMPTS
from mmalign.evaluation.steps.benchmark import JudgeCall
from mmalign.evaluation.steps.records import prompt_hash
from mmalign.evaluation.steps.sources import load
from tests.harness.mt_bench import QUESTIONS, judgment_rows, write_mt_bench, write_rows
from tests.harness.published import published

PROMPTS = fastchat.read_prompts(SHIPPED_PROMPTS)
ROW = {"question_id": 1, "model_id": "ours", "choices": [{"index": 0, "turns": ["a", "b"]}, {"turns": ["c", "d"]}]}


def test_a_question_file_and_its_folder_are_the_same(tmp_path: Path):
    """The place may be either."""
    folder = write_mt_bench(tmp_path)
    questions = fastchat.read_questions(folder)
    assert questions == fastchat.read_questions(f"{folder}/question.jsonl")
    assert questions["2"] == fastchat.Question("2", "math", ("What is 2 + 2?", "And {doubled}?"))


def test_columns_of_the_hub_are_read(tmp_path: Path):
    """HuggingFaceH4/mt_bench_prompts calls them otherwise."""
    row = {"category": "writing", "prompt": ["Write.", "Shorter."], "prompt_id": 81, "reference": []}
    assert fastchat.read_questions(write_rows(tmp_path / "q.jsonl", [row]))["81"].turns == ("Write.", "Shorter.")


def test_references_are_found_beside_the_questions(tmp_path: Path):
    """In FastChat's folder, from either place; nowhere else."""
    folder = write_mt_bench(tmp_path / "mt_bench")
    for place in (folder, f"{folder}/question.jsonl"):
        found = fastchat.references_beside(place)
        assert found is not None
        assert fastchat.read_references(found) == {"2": ("4", "8")}
    assert fastchat.read_references(f"{folder}/reference_answer") == {"2": ("4", "8")}
    assert fastchat.references_beside(str(tmp_path)) is None


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([*QUESTIONS, QUESTIONS[0]], "two lines of one id: 1"),
        ([], "holds nothing"),
        ([{"question_id": 1, "turns": ["a"]}], "category"),
        ([{"question_id": 1, "category": "math", "turns": "a"}], "`turns` is a list"),
    ],
)
def test_a_broken_question_file_is_an_error(tmp_path: Path, rows: list, said: str):
    """It names the file and what is wrong."""
    place = write_rows(tmp_path / "question.jsonl", rows)
    with pytest.raises(ValueError, match=said) as error:
        fastchat.read_questions(place)
    assert place in str(error.value)


def test_the_shipped_prompts_are_those_of_fastchat():
    """Byte for byte, in the four lines that grade single answers."""
    lines = published("mt_bench", "judge_prompts.jsonl").read_bytes().splitlines()
    assert SHIPPED_PROMPTS.read_bytes().splitlines() == [line for line in lines if json.loads(line)["type"] == "single"]
    assert fastchat.read_prompts(published("mt_bench", "judge_prompts.jsonl")) == PROMPTS


def test_a_prompt_that_lacks_or_asks_for_what_nobody_knows_is_an_error(tmp_path: Path):
    """Before any judge is asked."""
    rows = load(SHIPPED_PROMPTS)
    with pytest.raises(ValueError, match="single-math-v1-multi-turn, each with system_prompt"):
        fastchat.read_prompts(write_rows(tmp_path / "few.jsonl", rows[:2]))
    rows[0]["prompt_template"] += " {ref_answer_1} {} {picture}"
    with pytest.raises(ValueError, match="single-v1 asks for , picture, ref_answer_1"):
        fastchat.read_prompts(write_rows(tmp_path / "new.jsonl", rows))


def test_of_several_choices_the_first_is_the_answer():
    """As FastChat judges."""
    (answer,) = fastchat.parse_answers([ROW], "")
    assert (answer.id, tuple(answer.turns), answer.model, answer.failure) == ("1", ("a", "b"), "ours", "")


@pytest.mark.parametrize("turn", ["ERROR", "$ERROR$"])
def test_what_fastchat_writes_where_generating_failed_is_no_answer(turn: str):
    """It is named, and not judged as if the model had said it."""
    (answer,) = fastchat.parse_answers([ROW | {"choices": [{"turns": ["a", turn]}]}], "")
    assert "ERROR" in answer.failure


def test_a_judgment_keeps_text_judge_stored_score_and_the_hash_of_its_prompt():
    """The hash is that of the call, system message included."""
    (row,) = judgment_rows({"2/2": 7})
    (reply,) = fastchat.parse_replies([row | {"user_prompt": "Grade."}], "", PROMPTS)
    call = JudgeCall("2/2", PROMPTS["single-math-v1-multi-turn"].system, "Grade.")
    assert (reply.id, reply.text, reply.judge, reply.score) == ("2/2", "Fine. Rating: [[7]]", "gpt-4", 7.0)
    assert reply.prompt_hash == prompt_hash(call.messages())


def test_lines_of_several_models_need_a_choice():
    """Without one, and with a wrong one, the models are listed."""
    rows = [*judgment_rows({"1/1": 5}), *judgment_rows({"1/1": 9, "1/2": 9}, model="theirs")]
    with pytest.raises(ValueError, match=r"ours \(1\), theirs \(2\).*--judged_model"):
        fastchat.parse_replies(rows, "", PROMPTS)
    with pytest.raises(ValueError, match=r"nothing of 'other'"):
        fastchat.parse_replies(rows, "other", PROMPTS)
    assert [reply.score for reply in fastchat.parse_replies(rows, "ours", PROMPTS)] == [5.0]
    answers = [ROW, ROW | {"model_id": "theirs"}]
    with pytest.raises(ValueError, match="--judged_model"):
        fastchat.parse_answers(answers, "")
    assert [answer.model for answer in fastchat.parse_answers(answers, "theirs")] == ["theirs"]


def test_an_answer_file_of_one_model_needs_none():
    """FastChat goes by the file's name, which judgments repeat, and not by the name inside."""
    assert fastchat.parse_answers([ROW], "as_in_judgments")[0].model == "ours"


def test_other_files_are_named():
    """Pairwise judgments, prompts that are not there, lines of another benchmark."""
    with pytest.raises(ValueError, match="pairwise"):
        fastchat.parse_replies([{"question_id": 1, "g1_judgment": "[[A]]"}], "", PROMPTS)
    (row,) = judgment_rows({"1/1": 5})
    with pytest.raises(ValueError, match="'mine', which is not in the judge prompts"):
        fastchat.parse_replies([row | {"judge": ["gpt-4", "mine"]}], "", PROMPTS)
    with pytest.raises(ValueError, match="question_id and choices"):
        fastchat.parse_answers([{"question_id": 1, "text": "No"}], "")
    with pytest.raises(ValueError, match="question_id and judgment"):
        fastchat.parse_replies({"v1_0": 0.5}, "", PROMPTS)
