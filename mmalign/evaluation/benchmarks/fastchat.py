"""FastChat's files, as they are: questions, reference answers, judge prompts, a model's answers, judgments of them.

    question.jsonl                    {"question_id": 81, "category": "writing", "turns": ["Compose ...", "Rewrite"]}
    reference_answer/gpt-4.jsonl      {"question_id": 101, "choices": [{"turns": ["You are ...", "If ..."]}]}
    judge_prompts.jsonl               {"name": "single-v1", "system_prompt": "...", "prompt_template": "... {answer}"}
    model_answer/vicuna.jsonl         {"question_id": 81, "model_id": "vicuna", "choices": [{"turns": ["...", "..."]}]}
    model_judgment/gpt-4_single.jsonl {"question_id": 81, "turn": 1, "model": "vicuna", "judge": ["gpt-4", "single-v1"],
                                       "user_prompt": "...", "judgment": "... Rating: [[9]]", "score": 9}

Tests   tests/evaluation/benchmarks/test_fastchat.py
"""

import string
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from mmalign.evaluation.steps.benchmark import JudgeCall
from mmalign.evaluation.steps.faults import NAMED
from mmalign.evaluation.steps.places import file_in
from mmalign.evaluation.steps.records import Answer, JudgeReply, prompt_hash
from mmalign.evaluation.steps.sources import records

QUESTION_FILE = "question.jsonl"
REFERENCE_FILE = Path("reference_answer") / "gpt-4.jsonl"
FAILED_TURNS = frozenset({"ERROR", "$ERROR$"})
"""What FastChat writes as a turn where a model raised, or an API gave none."""
TEMPLATE_FIELDS = frozenset({"question", "answer", "question_1", "question_2", "answer_1", "answer_2"})
REFERENCE_FIELDS = frozenset({"ref_answer_1", "ref_answer_2"})
"""What only the prompts beside a reference answer can ask for."""

T = TypeVar("T")


class Question(NamedTuple):
    """One question of the benchmark."""

    id: str
    category: str
    turns: tuple[str, ...]
    temperature: float | None = None
    """`required_temperature`: instead of the category's."""


class JudgePrompt(NamedTuple):
    """How a judge is asked."""

    name: str
    system: str
    template: str
    """With `{question}`, `{answer}` and the like, see `TEMPLATE_FIELDS` and `REFERENCE_FIELDS`."""


def read_questions(place: str) -> dict[str, Question]:
    """Questions by id.

    Args:
        place: `question.jsonl`, a folder that has it, or a dataset of the hub with the same columns.

    Raises:
        FileNotFoundError, ValueError: No such file, another layout, none, or two of one id.
    """
    return _by_id(file_in(place, QUESTION_FILE), _question)


def read_references(place: str) -> dict[str, tuple[str, ...]]:
    """The turns of reference answers, by id of the question.

    Args:
        place: An answer file, or a folder that has `gpt-4.jsonl`.

    Raises:
        FileNotFoundError, ValueError: See `read_questions`.
    """
    return _by_id(file_in(place, REFERENCE_FILE.name), lambda row: (_id(row), _turns(row)))


def references_beside(questions: str) -> str | None:
    """The reference answers in FastChat's folder around a question file; None where it has none."""
    folder = Path(questions) if Path(questions).is_dir() else Path(questions).parent
    return str(folder / REFERENCE_FILE) if (folder / REFERENCE_FILE).is_file() else None


def prompt_name(*, referenced: bool, multi_turn: bool) -> str:
    """Name of the prompt by which a single answer is graded.

    Args:
        referenced: Beside a reference answer.
        multi_turn: The second turn is graded, and the first is shown.
    """
    return f"single{'-math' if referenced else ''}-v1{'-multi-turn' if multi_turn else ''}"


def read_prompts(place: str | Path) -> dict[str, JudgePrompt]:
    """The four judge prompts for single answers, by name.

    Raises:
        FileNotFoundError, ValueError: See `read_questions`; or a template asks for what nobody knows.
    """
    rows = {row.get("name"): row for row in records(place)}
    kinds = [(referenced, multi_turn) for referenced in (False, True) for multi_turn in (False, True)]
    names = {prompt_name(referenced=first, multi_turn=second): first for first, second in kinds}
    try:
        prompts = {
            name: JudgePrompt(name, rows[name]["system_prompt"], rows[name]["prompt_template"]) for name in names
        }
        asked = {name: _fields(prompt.template) for name, prompt in prompts.items()}
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{place} is no judge_prompts.jsonl of FastChat ({type(error).__name__}: {error}). It holds "
            f"{', '.join(names)}, each with system_prompt and prompt_template."
        ) from error
    for name, referenced in names.items():
        known = TEMPLATE_FIELDS | REFERENCE_FIELDS if referenced else TEMPLATE_FIELDS
        if unknown := sorted(asked[name] - known):
            raise ValueError(
                f"{place}: {name} asks for {', '.join(unknown)}. It can ask for {', '.join(sorted(known))}."
            )
    return prompts


def parse_answers(rows: Any, model: str) -> list[Answer]:
    """A model's answers; of several choices the first, which is the one that FastChat judges.

    Args:
        rows: Of one model, or of many.
        model: Which of many.

    Raises:
        KeyError, ValueError: Another layout, or several models and no choice.
    """
    names = Counter(str(row.get("model_id", "")) for row in _rows(rows, "choices"))
    return [_answer(row) for row in _of_model(rows, "model_id", model if len(names) > 1 else "")]


def parse_replies(rows: Any, model: str, prompts: Mapping[str, JudgePrompt]) -> list[JudgeReply]:
    """Judgments of single answers; the id of each is that of the question, a slash, and the turn.

    Args:
        rows: Of one judged model, or of many.
        model: Which of many.
        prompts: By whose system messages they were asked.

    Raises:
        KeyError, ValueError: Another layout, a prompt that is not there, or several models and no choice.
    """
    if isinstance(rows, list) and rows and "g1_judgment" in rows[0]:
        raise ValueError("these are pairwise judgments. Give those of single answers, such as gpt-4_single.jsonl")
    return [_reply(row, prompts) for row in _of_model(_rows(rows, "judgment"), "model", model)]


def _question(row: Mapping[str, Any]) -> tuple[str, Question]:
    required = row.get("required_temperature")
    turns = row["turns"] if "turns" in row else row["prompt"]  # `prompt`: HuggingFaceH4/mt_bench_prompts
    if isinstance(turns, str) or not turns:
        raise ValueError("`turns` is a list of texts")
    question = Question(
        id=_id(row),
        category=row["category"],
        turns=tuple(turns),
        temperature=None if required is None else float(required),
    )
    return question.id, question


def _answer(row: Mapping[str, Any]) -> Answer:
    turns = _turns(row)
    failure = "its script wrote ERROR for a turn" if FAILED_TURNS & set(turns) else ""
    return Answer(id=_id(row), turns=turns, model=str(row.get("model_id", "")), failure=failure)


def _reply(row: Mapping[str, Any], prompts: Mapping[str, JudgePrompt]) -> JudgeReply:
    judge, name = row["judge"]
    if name not in prompts:
        raise ValueError(f"judged by the prompt {name!r}, which is not in the judge prompts: {', '.join(prompts)}")
    call = JudgeCall(id=f"{_id(row)}/{row['turn']}", system=prompts[name].system, user=row.get("user_prompt") or "")
    stored = row.get("score")
    return JudgeReply(
        id=call.id,
        text=row["judgment"],
        judge=judge,
        prompt_hash=prompt_hash(call.messages()) if call.user else "",
        score=None if stored is None else float(stored),
    )


def _fields(template: str) -> set[str]:
    return {field for _, field, _, _ in string.Formatter().parse(template) if field is not None}


def listed(names: Sequence[str]) -> str:
    """The first of many names."""
    return ", ".join(names[:NAMED]) + (f", and {len(names) - NAMED} more" if len(names) > NAMED else "")


def _by_id(place: str, parse: Callable[[Mapping[str, Any]], tuple[str, T]]) -> dict[str, T]:
    rows = records(place)
    try:
        parsed = [parse(row) for row in rows]
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise ValueError(
            f"{place} is not in FastChat's layout ({type(error).__name__}: {error}). A line holds question_id, and "
            "category and turns, or choices."
        ) from error
    twice = [name for name, times in Counter(name for name, _ in parsed).items() if times > 1]
    if twice or not parsed:
        found = f"two lines of one id: {listed(twice)}" if twice else "nothing"
        raise ValueError(f"{place} holds {found}. Give the file as it was published, or mend it.")
    return dict(parsed)


def _id(row: Mapping[str, Any]) -> str:
    return str(row["question_id"] if "question_id" in row else row["prompt_id"])


def _turns(row: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(row["choices"][0]["turns"])


def _rows(rows: Any, needed: str) -> Sequence[Mapping[str, Any]]:
    if not isinstance(rows, list) or not all(isinstance(row, dict) and needed in row for row in rows):
        raise ValueError(f"not FastChat's layout: every line has question_id and {needed}")
    return rows


def _of_model(rows: Sequence[Mapping[str, Any]], key: str, wanted: str) -> list[Mapping[str, Any]]:
    """The rows of one model.

    Raises:
        ValueError: There are several and none was chosen, or not the chosen one; they are listed.
    """
    names = Counter(str(row.get(key, "")) for row in rows)
    chosen = wanted or (next(iter(names), "") if len(names) < 2 else "")
    if rows and chosen not in names:
        listed = ", ".join(f"{name} ({times})" for name, times in sorted(names.items()))
        found = f"there is nothing of {wanted!r}, but" if wanted else "there are lines"
        raise ValueError(f"{found} of {listed}. Choose one of these with `--judged_model`")
    return [row for row in rows if str(row.get(key, "")) == chosen]
