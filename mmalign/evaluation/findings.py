"""What the numbers say, in plain words, also where alignment does not help.

Tests   tests/evaluation/test_findings.py
"""

from typing import NamedTuple

from mmalign.evaluation.paired import Comparison, Direction, Verdict
from mmalign.evaluation.scores import Scores
from mmalign.evaluation.table import difference, interval, number, value

WORTHWHILE = 1 / 3
"""The share by which alignment is meant to lower hallucination; less is said to be less."""


class Findings(NamedTuple):
    """The top of the report."""

    headline: str
    summary: str
    """One or two sentences with the numbers of the headline."""
    caution: str
    """The next thing that a doubting reader should know."""
    better: list[str]
    worse: list[str]
    unclear: list[str]
    """Measures with a better side whose difference cannot be told from zero."""
    shifted: list[str]
    """Measures without a better side that moved."""


def findings(scores: Scores) -> Findings:
    """Everything the report says in words."""
    by_verdict: dict[Verdict, list[Comparison]] = {verdict: [] for verdict in Verdict}
    for comparison in scores.comparisons:
        if comparison.verdict is Verdict.UNCLEAR and comparison.direction is Direction.NEITHER:
            continue
        by_verdict[comparison.verdict].append(comparison)
    headline, summary = _preference_headline(scores) if scores.suite == "preferences" else _world_headline(scores)
    return Findings(
        headline=headline,
        summary=summary,
        caution=_caution(scores),
        better=[_change(each) for each in by_verdict[Verdict.BETTER]],
        worse=[_change(each) for each in by_verdict[Verdict.WORSE]],
        unclear=[_change(each) for each in by_verdict[Verdict.UNCLEAR]],
        shifted=[_change(each) for each in by_verdict[Verdict.INCREASED] + by_verdict[Verdict.DECREASED]],
    )


def _world_headline(scores: Scores) -> tuple[str, str]:
    if "chair_i" not in scores:
        return (
            "Base and aligned, compared on the same tasks",
            "No descriptions were asked for, so nothing on made-up objects.",
        )
    made_up = scores["chair_i"]
    level = f"{100 * scores.level:.0f} %"
    base, aligned = (number(e.value, percent=True) for e in (made_up.base, made_up.aligned))
    numbers = (
        f"Of every 100 objects that it names, the base model makes up {base}, the aligned model {aligned}: a "
        f"difference of {difference(made_up)}, {level} interval {interval(made_up, made_up.difference, signed=True)}."
    )
    match made_up.verdict:
        case Verdict.BETTER:
            share = f"{-100 * made_up.relative:.0f} %"
            less = (
                "" if -made_up.relative >= WORTHWHILE else " That is clear of zero, but less than the third hoped for."
            )
            return f"After alignment the model makes up {share} fewer objects", numbers + less
        case Verdict.WORSE:
            share = f"{100 * made_up.relative:.0f} %"
            return f"Alignment did harm: the model makes up {share} more objects than before", numbers
        case _:
            return "Alignment did not measurably change how many objects the model makes up", numbers


def _preference_headline(scores: Scores) -> tuple[str, str]:
    share = scores["preference_accuracy"]
    level = f"{100 * scores.level:.0f} %"
    summary = (
        f"On {share.num_samples} pairs, the base model finds the chosen answer likelier in {value(share, share.base)}, "
        f"the aligned model in {value(share, share.aligned)}: a difference of {difference(share)}, {level} interval "
        f"{interval(share, share.difference, signed=True)}."
    )
    match share.verdict:
        case Verdict.BETTER:
            return "The aligned model agrees with the preferences more often than before", summary
        case Verdict.WORSE:
            return "The aligned model agrees with the preferences less often than before", summary
        case _:
            return "Alignment did not measurably change how often the model agrees with the preferences", summary


def _caution(scores: Scores) -> str:
    """What was paid for it: recall first, then yes/no questions, then the alignment tax on text."""
    if scores.suite == "preferences":
        share = scores["preference_accuracy"]
        if share.aligned.low <= 0.5 <= share.aligned.high:
            return "The aligned model's share cannot be told from one half, which is what guessing gives."
        return ""
    sentences = []
    watched = {
        "object_recall": "recall of true objects",
        "yes_no_accuracy": "accuracy on yes/no questions",
        "text_accuracy": "accuracy on text-only tasks",
    }
    for name, words in watched.items():
        if name not in scores:
            continue
        each = scores[name]
        spread = interval(each, each.difference, signed=True)
        verdict = {
            Verdict.BETTER: f"{words} rose by {difference(each).lstrip('+')} ({spread})",
            Verdict.WORSE: f"it cost {words}: {difference(each)} ({spread})",
        }.get(each.verdict, f"{words} shows no measurable change: {difference(each)} ({spread})")
        sentences.append(verdict)
    if not sentences:
        return ""
    joined = "; ".join(sentences)
    return f"{joined[0].upper()}{joined[1:]}."


def _change(comparison: Comparison) -> str:
    base, aligned = value(comparison, comparison.base), value(comparison, comparison.aligned)
    return f"{comparison.label}: {base} to {aligned} ({difference(comparison)})"
