"""What preference tuning changes beside quality: how long answers are, and whether they keep a short format.

    words_metric({"v1_0": Answer("v1_0", ["Two dogs."]), ...})     -> Metric "words", 2.0
    format_metric(answers, is_word_or_phrase)                       -> Metric "format_kept", 1.0

Tests   tests/evaluation/steps/test_answer_metrics.py
"""

from collections.abc import Callable, Mapping

from mmalign.evaluation.paired import Direction, Ratio
from mmalign.evaluation.steps.records import Answer
from mmalign.evaluation.steps.scored import Metric

MAX_SHORT_WORDS = 3
"""`Yes`, `a red bus`; an answer with more is a sentence."""


def words_metric(answers: Mapping[str, Answer], drawn_with: Mapping[str, str] | None = None) -> Metric:
    """Mean number of words an answer, all turns together.

    Args:
        answers: By id of the question.
        drawn_with: Question -> what it shares with others (a picture), so that these are drawn together.
    """
    counts = {name: sum(len(turn.split()) for turn in answer.turns) for name, answer in answers.items()}
    ids, terms = _clustered(counts, drawn_with)
    return Metric(
        name="words",
        label="Words an answer",
        description="Mean number of words of an answer, all its turns together.",
        direction=Direction.NEITHER,
        percent=False,
        ids=ids,
        terms=terms,
    )


def format_metric(
    answers: Mapping[str, Answer], obeyed: Callable[[str], bool], drawn_with: Mapping[str, str] | None = None
) -> Metric:
    """Share of the answers that keep the short format that the question asks for.

    Args:
        answers: By id of the question.
        obeyed: Whether an answer's text keeps it.
        drawn_with: See `words_metric`.
    """
    ids, terms = _clustered({name: obeyed(answer.text) for name, answer in answers.items()}, drawn_with)
    return Metric(
        name="format_kept",
        label="Answers in the asked short format",
        description="Share of the answers as short as the question asks: a word or phrase, an option's letter.",
        ids=ids,
        terms=terms,
    )


def is_word_or_phrase(text: str) -> bool:
    """Whether an answer is a single word or phrase and no sentence.

    Args:
        text: The answer.
    """
    return 0 < len(text.split()) <= MAX_SHORT_WORDS


def _clustered(values: Mapping[str, int], drawn_with: Mapping[str, str] | None) -> tuple[tuple[str, ...], Ratio]:
    """Ids of what is drawn together, and the terms of the mean over all values."""
    sums: dict[str, list[int]] = {}
    for name, value in values.items():
        share = sums.setdefault(drawn_with[name] if drawn_with else name, [0, 0])
        share[0] += value
        share[1] += 1
    return tuple(sums), Ratio.of([total for total, _ in sums.values()], [number for _, number in sums.values()])
