"""LLaVA's reviews: a judge sees a question, a reference answer and the model's, and gives both a score from 1 to 10.

Rule    `llava/eval/eval_gpt_review*.py`, `summarize_gpt_review.py` of https://github.com/haotian-liu/LLaVA at c121f04
Tests   tests/evaluation/benchmarks/test_reviews.py

    {"question_id": 0, "category": "llava_bench_conv", "content": "7 9", "tuple": [7.0, 9.0]}
    read_pair("7 9")                               (7.0, 9.0): of the reference, of the model
    read_pair("8, 6")                                          None: the script reads no score from this

The number of the papers is the model's mean as a share of the reference's.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mmalign.evaluation.paired import Direction
from mmalign.evaluation.steps.benchmark import JudgeCall
from mmalign.evaluation.steps.gradebook import mean_terms, printed, ratio_terms
from mmalign.evaluation.steps.places import beside
from mmalign.evaluation.steps.records import Answer, JudgeReply
from mmalign.evaluation.steps.scored import Metric
from mmalign.evaluation.steps.sources import records

SYSTEM = "You are a helpful and precise assistant for checking the quality of the answer."
FAILED = (-1.0, -1.0)
HIGHEST = 10
TEMPERATURE = 0.2
MAX_TOKENS = 1024
KINDS = ("-generic", "-coding", "-math")
"""What Vicuna's reviewers are called by, behind the model: the prompt that they had."""


class Judged(NamedTuple):
    """A question as the judge gets it."""

    id: str
    text: str
    context: str | None
    """What the picture shows; None: there is none."""
    reference: str
    """The answer that is compared with."""
    role: str
    instruction: str


def read_pair(text: str) -> tuple[float, float] | None:
    """Scores of reference and model: the first line, if it has exactly two numbers, by one space or one comma apart.

    The script takes `nan` and `inf` for numbers, too, and then has no mean.

    Args:
        text: What the judge said.
    """
    words = text.split("\n")[0].replace(",", " ").split(" ")
    try:
        first, second = (float(word) for word in words)
    except ValueError:
        return None
    return (first, second) if math.isfinite(first) and math.isfinite(second) else None


def review_call(question: Judged, answer: str) -> JudgeCall:
    """What the judge is asked about an answer; it always comes second.

    Args:
        question: The question and what the judge needs beside it.
        answer: The model's.
    """
    parts = [f"[Context]\n{question.context}"] if question.context is not None else []
    parts.append(f"[Question]\n{question.text}")
    for number, said in enumerate((question.reference, answer), start=1):
        name = f"{question.role} {number}"
        parts += [f"[{name}]\n{said}", f"[End of {name}]"]
    parts.append(f"[System]\n{question.instruction}")
    return JudgeCall(question.id, SYSTEM, "\n\n".join(parts) + "\n\n", TEMPERATURE, MAX_TOKENS)


def read_review(row: Mapping[str, Any]) -> JudgeReply:
    """A line of a review file, of LLaVA or of its table.

    Args:
        row: See above.

    Raises:
        KeyError, ValueError: Another layout.
    """
    text = row["content"] if "content" in row else row["text"]
    score = row.get("tuple", row.get("score"))
    judge = str(row.get("reviewer_id", ""))
    for kind in KINDS:
        judge = judge.removesuffix(kind)
    stored = None if score is None else tuple(float(value) for value in score)
    if stored is not None and len(stored) != len(FAILED):
        raise ValueError(f"question {row['question_id']}: two scores are needed, of reference and model, not {score}")
    return JudgeReply(str(row["question_id"]), str(text), judge=judge, score=stored)


def read_lines(rows: Any) -> list[Answer]:
    """Answers as LLaVA and FastChat's first version write them.

    Args:
        rows: `{"question_id": 0, "text": "...", "model_id": "llava-v1.5-7b"}`, a line each.
    """
    return [Answer(str(row["question_id"]), (str(row["text"]),), str(row.get("model_id") or "")) for row in rows]


def reference_answers(place: str | None, questions: str, name: str) -> dict[str, str]:
    """Text of each reference answer, by id of the question.

    Args:
        place: A file of answers; None: the one of that name beside the questions.
        questions: Where those are.
        name: Of the file.
    """
    rows = records(beside(questions, name) if place is None else place)
    return {str(row["question_id"]): row["text"] for row in rows}


def review_metrics(
    pairs: NDArray[np.float64], clusters: Sequence[str], categories: Sequence[str], *, headline: str
) -> list[Metric]:
    """What the script prints for all questions and for each category: the share, and both means times ten.

    Args:
        pairs: Scores of reference and model, of each question and run.
        clusters: Of each question: the picture that it shares with others.
        categories: Of each question; only one: no breakdown.
        headline: What the share is called.
    """
    everything = np.ones(len(pairs), bool)
    found = _three("", headline, pairs, clusters, everything)
    names = sorted(set(categories))
    for name in names if len(names) > 1 else ():
        found += _three(name, name, pairs, clusters, np.array([each == name for each in categories]))
    return found


def _three(
    category: str, label: str, pairs: NDArray[np.float64], clusters: Sequence[str], chosen: NDArray[np.bool_]
) -> list[Metric]:
    """The share and both means.

    Args:
        category: Empty: all questions.
        label: Of the share.
        pairs: See `review_metrics`.
        clusters: See `review_metrics`.
        chosen: Questions of the category.
    """
    here, shared = pairs[chosen], [each for each, is_chosen in zip(clusters, chosen, strict=True) if is_chosen]
    of = f" of category {category}" if category else ""
    end, group = (f"_{category}", "category") if category else ("", "")
    means = [np.nanmean(here[:, run], axis=0) for run in range(here.shape[1]) if not np.isnan(here[:, run]).all()]
    rounded = [[round(float(value), 3) for value in mean] for mean in means]
    # The papers' number is the mean of what the script prints for each run.
    shares = printed(
        [round(model / reference * 100, 1) if reference else math.nan for reference, model in rounded], _one_decimal
    )
    ids, share = ratio_terms(here[:, :, 1], here[:, :, 0], shared)
    metrics = [
        Metric(
            name=f"relative{end}",
            label=label,
            description=f"Mean score of the model as a share of the reference's, over the questions{of}.",
            ids=ids,
            terms=share,
            headline=not category,
            group=group,
            official=shares.official,
            runs=shares.runs,
        )
    ]
    for side, (name, whose) in enumerate((("reference", "the reference"), ("model", "the model"))):
        numbers = printed([each[side] * 10 for each in rounded], _one_decimal)
        metrics.append(
            Metric(
                name=f"{name}{end}",
                label=f"Score of {whose}, of 100" + (f", {category}" if category else ""),
                description=f"Ten times the mean score that the judge gives to {whose}{of}.",
                direction=Direction.HIGHER if side else Direction.NEITHER,
                percent=False,
                ids=ids,
                terms=mean_terms(here[:, :, side] * 10, shared).terms,
                group=group,
                official=numbers.official,
                runs=numbers.runs,
            )
        )
    return metrics


def _one_decimal(value: float) -> float:
    return round(value, 1)
