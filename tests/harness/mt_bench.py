"""A small MT-Bench in FastChat's layout, and the real one's stored prompts taken apart.

folder = write_mt_bench(tmp_path)       question.jsonl, reference_answer/gpt-4.jsonl: a letter, a sum, a summary
rows = judgment_rows({"1/1": 8, ...})   judgments of it that hold these grades
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmalign.evaluation.benchmarks.fastchat import JudgePrompt, Question
from mmalign.evaluation.steps.records import Answer

QUESTIONS = (
    {"question_id": 1, "category": "writing", "turns": ["Write a letter.", "Make it shorter."]},
    {"question_id": 2, "category": "math", "turns": ["What is 2 + 2?", "And {doubled}?"]},
    {"question_id": 3, "category": "stem", "turns": ["What is light?", "In one word?"]},
)
REFERENCES = ({"question_id": 2, "model_id": "gpt-4", "choices": [{"index": 0, "turns": ["4", "8"]}]},)
ANSWERS = (
    Answer("1", ("Dear {you}, ...", "Hi."), "ours"),
    Answer("2", ("It is 4.", "It is {8}."), "ours"),
    Answer("3", ("A wave.", "Photons."), "ours"),
)
PLACES = ("1/1", "1/2", "2/1", "2/2", "3/1", "3/2")


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> str:
    """Write JSON lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def write_mt_bench(folder: Path) -> str:
    """FastChat's folder of a benchmark with three questions."""
    write_rows(folder / "question.jsonl", QUESTIONS)
    write_rows(folder / "reference_answer" / "gpt-4.jsonl", REFERENCES)
    return str(folder)


def judgment_rows(grades: Mapping[str, float | int], *, model: str = "ours") -> list[dict[str, Any]]:
    """Lines of `gpt-4_single.jsonl`; a grade of -1 stands for a text without one."""
    rows = []
    for place, grade in grades.items():
        question, _, turn = place.partition("/")
        kind = "-math" if question == "2" else ""
        name = f"single{kind}-v1{'-multi-turn' if turn == '2' else ''}"
        text = "I cannot say." if grade == -1 else f"Fine. Rating: [[{grade}]]"
        rows.append(
            {
                "question_id": int(question),
                "model": model,
                "judge": ["gpt-4", name],
                "user_prompt": "",
                "judgment": text,
            }
            | {"score": grade, "turn": int(turn), "tstamp": 1.5}
        )
    return rows


def stored_answers(
    rows: Sequence[Mapping[str, Any]],
    prompts: Mapping[str, JudgePrompt],
    questions: Mapping[str, Question],
    references: Mapping[str, tuple[str, ...]],
) -> tuple[list[Answer], dict[str, str]]:
    """What the stored prompts say that a model answered: both turns from the second's, the first also from its own."""
    first = {str(row["question_id"]): row for row in rows if row["turn"] == 1}
    second = {str(row["question_id"]): row for row in rows if row["turn"] == 2}
    firsts = {}
    answers = []
    for name, question in questions.items():
        reference = references.get(name, ("", ""))
        fixed = {"ref_answer_1": reference[0], "ref_answer_2": reference[1]}
        before, after = (
            prompts[first[name]["judge"][1]]
            .template.replace("{answer}", "\0")
            .format(question=question.turns[0], **fixed)
            .split("\0")
        )
        firsts[name] = _between(first[name]["user_prompt"], before, after)
        before, middle, after = (
            prompts[second[name]["judge"][1]]
            .template.replace("{answer_1}", "\0")
            .replace("{answer_2}", "\0")
            .format(question_1=question.turns[0], question_2=question.turns[1], **fixed)
            .split("\0")
        )
        both = _between(second[name]["user_prompt"], before, after)
        turn_1, found, turn_2 = both.partition(middle)
        assert found, name
        answers.append(Answer(name, (turn_1, turn_2)))
    return answers, firsts


def _between(text: str, before: str, after: str) -> str:
    kept = text[len(before) : len(text) - len(after)]
    assert text == f"{before}{kept}{after}"
    return kept
