"""What a suite's numbers say in plain words: what was gained, what was lost, the alignment tax, lost formats.

Tests   tests/evaluation/suite/test_words.py
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

from mmalign.evaluation.paired import Comparison, Verdict
from mmalign.evaluation.suite.paper import TAXED, TAXED_PARTS
from mmalign.evaluation.suite.results import Bench, SuiteResults
from mmalign.evaluation.table import difference, interval, number, value

NAMED = 3
"""Benchmarks that the headline names of each sort."""
QUOTED = 2
"""Whose numbers the summary gives, of each sort."""
LONGER = 0.10
"""By which share answers must have grown or shrunk for the report to speak of it."""

Judged = Sequence[tuple[Bench, Comparison]]


class Words(NamedTuple):
    """The top of the report."""

    headline: str
    summary: str
    """The numbers of the headline."""
    tax: str
    """One line."""
    tax_verdict: Verdict
    """Worse: there is one."""
    warnings: list[str]
    """What a reader must know before believing the numbers: lost formats, longer answers, what cannot be compared."""
    better: list[str]
    worse: list[str]
    unclear: list[str]


def words_of(results: SuiteResults) -> Words:
    """Everything the report says in words."""
    sorted_by = {
        verdict: [(bench, each) for bench, each in results.judged if each.verdict is verdict] for verdict in Verdict
    }
    gained, lost = sorted_by[Verdict.BETTER], sorted_by[Verdict.WORSE]
    tax, tax_verdict = _tax(results)
    return Words(
        headline=_headline(gained, lost, len(results.judged)),
        summary=_summary(gained, lost, results),
        tax=tax,
        tax_verdict=tax_verdict,
        warnings=[*_lost_formats(results), *_lengths(results), *_yes_ratios(results), *_incomparable(results)],
        better=[_change(*each) for each in gained],
        worse=[_change(*each) for each in lost],
        unclear=[_change(*each) for each in sorted_by[Verdict.UNCLEAR]],
    )


def listed(names: Sequence[str], most: int | None = None) -> str:
    """`A, B and C`; what is more than `most` is counted."""
    kept = list(names) if most is None or len(names) <= most else [*names[:most], f"{len(names) - most} more"]
    return kept[0] if len(kept) == 1 else f"{', '.join(kept[:-1])} and {kept[-1]}"


def points(comparison: Comparison, amount: float) -> str:
    """An amount by which a measure moved, without its sign: `1.9 points`, `0.35`."""
    size = number(abs(amount), percent=comparison.percent)
    return f"{size}\N{NO-BREAK SPACE}points" if comparison.percent else size


def moved(comparison: Comparison) -> str:
    """`5.99 to 6.73 (+0.74, +0.41 to +1.08)`."""
    base, aligned = (value(comparison, each) for each in (comparison.base, comparison.aligned))
    spread = interval(comparison, comparison.difference, signed=True)
    return f"{base} to {aligned} ({difference(comparison)}, {spread})"


def _headline(gained: Judged, lost: Judged, num_judged: int) -> str:
    better, worse = (listed([bench.title for bench, _ in each], NAMED) if each else "" for each in (gained, lost))
    if not num_judged:
        return "Base and aligned could not be compared on any benchmark"
    if lost and not gained:
        return f"Alignment did harm: it lost on {worse}, and gained on none"
    if len(lost) > len(gained):
        return f"Alignment did more harm than good: it lost on {worse}, and gained on {better}"
    if lost:
        return f"Alignment gained on {better}, and lost on {worse}"
    if gained and len(gained) == num_judged:
        return f"Alignment gained on all {num_judged} benchmarks" if num_judged > 1 else f"Alignment gained on {better}"
    if gained:
        return f"Alignment gained on {better}, and measurably lost on none"
    which = f"any of the {num_judged} benchmarks" if num_judged > 1 else "the one benchmark"
    return f"Alignment made no measurable difference on {which}"


def _summary(gained: Judged, lost: Judged, results: SuiteResults) -> str:
    if not results.judged:
        return "Below is why, benchmark by benchmark."
    level = f"{100 * results.level:.0f} %"
    quoted = [*lost[:QUOTED], *gained[:QUOTED]] if len(lost) > len(gained) else [*gained[:QUOTED], *lost[:QUOTED]]
    told = [
        f"{bench.title} {'rose' if each.difference.value > 0 else 'fell'} from {moved(each)}" for bench, each in quoted
    ]
    number = len(results.judged)
    counts = f"Of {number} benchmark{'s' * (number > 1)}, {len(gained)} gained, {len(lost)} lost, and " + (
        f"{number - len(gained) - len(lost)} cannot be told from no change at {level}."
    )
    return f"{counts} {'; '.join(told)}." if told else counts


def _tax(results: SuiteResults) -> tuple[str, Verdict]:
    """What was lost of what the model could do before, in one line."""
    level = f"{100 * results.level:.0f} %"
    taxed = [(TAXED[bench.name], each) for bench, each in results.judged if bench.name in TAXED]
    for (of, metric), name in TAXED_PARTS.items():
        taxed += [(name, each) for bench in results.benches if bench.name == of and (each := bench.get(metric))]
    measured = {name for name, _ in taxed}
    absent = [name for name in TAXED.values() if name not in measured]
    if not taxed:
        return f"Not measured: no comparison of {listed(absent)}.", Verdict.UNCLEAR
    is_lost = any(each.verdict is Verdict.WORSE for _, each in taxed)
    taxed.sort(key=lambda pair: pair[1].verdict is not Verdict.WORSE)
    told = "; ".join(_paid(name, each) for name, each in taxed)
    start = "" if is_lost else "None measurable. "
    rest = f" Not measured: {listed(absent)}." if absent else ""
    return f"{start}{told[0].upper()}{told[1:]}; {level} intervals.{rest}", (
        Verdict.WORSE if is_lost else Verdict.UNCLEAR
    )


def _paid(name: str, each: Comparison) -> str:
    spread = interval(each, each.difference, signed=True)
    match each.verdict:
        case Verdict.WORSE:
            return f"{name} lost {points(each, each.difference.value)} ({spread})"
        case Verdict.BETTER:
            return f"{name} gained {points(each, each.difference.value)} ({spread})"
        case _:
            known = not math.isnan(each.difference.low)
            excluded = f", a loss of more than {points(each, each.difference.low)} is excluded" if known else ""
            return f"{name} {difference(each)} ({spread}{excluded})"


def _lost_formats(results: SuiteResults) -> list[str]:
    """Named where it happens: a chatty model fails a benchmark that asks for one word, whatever it knows."""
    told = []
    for bench in results.benches:
        kept = bench.get("format_kept")
        if kept is None or kept.verdict is not Verdict.WORSE:
            continue
        headline = bench.headline
        form = headline is not None and headline.verdict is Verdict.WORSE
        told.append(
            f"{bench.title} lost the short-answer format: {value(kept, kept.aligned)} of the aligned model's answers "
            f"obey it, before {value(kept, kept.base)}."
            + (" What it lost there may be form, not knowledge: read its answers below." if form else "")
        )
    return told


def _lengths(results: SuiteResults) -> list[str]:
    """Answers that became longer or shorter, and whether a judge's gain may come from that."""
    changed = [
        (bench, each)
        for bench in results.benches
        if (each := bench.get("words")) is not None
        and each.verdict is not Verdict.UNCLEAR
        and abs(each.relative) >= LONGER
        and abs(each.difference.value) >= 1
    ]
    told = []
    for verdict, how in ((Verdict.INCREASED, "longer"), (Verdict.DECREASED, "shorter")):
        some = [(bench, each) for bench, each in changed if each.verdict is verdict]
        if some:
            sizes = listed([f"{bench.title} {_words(each)}" for bench, each in some], NAMED)
            told.append(f"Answers became {how}: {sizes}.{_length_bias(some) if how == 'longer' else ''}")
    return told


def _words(each: Comparison) -> str:
    share = number(each.relative, percent=True, signed=True).partition(".")[0]
    return f"from {each.base.value:.0f} to {each.aligned.value:.0f} words ({share}\N{NO-BREAK SPACE}%)"


def _length_bias(longer: Judged) -> str:
    suspect = [
        bench.title
        for bench, _ in longer
        if bench.base and bench.base.scored.judge and bench.headline and bench.headline.verdict is Verdict.BETTER
    ]
    return f" Judges tend to favour long answers: part of the gain on {listed(suspect)} may be that." if suspect else ""


def _yes_ratios(results: SuiteResults) -> list[str]:
    told = []
    for bench in results.benches:
        each = bench.get("yes_ratio")
        if each is not None and each.verdict is not Verdict.UNCLEAR:
            often = "more" if each.verdict is Verdict.INCREASED else "less"
            told.append(f"{bench.title} is answered with yes {often} often: {moved(each)}.")
    return told


def _incomparable(results: SuiteResults) -> list[str]:
    return [
        bench.problem if bench.problem.startswith(f"{bench.title}: ") else f"{bench.title}: {bench.problem}"
        for bench in results.benches
        if bench.problem
    ]


def _change(bench: Bench, comparison: Comparison) -> str:
    return f"{bench.title}: {moved(comparison)}"
