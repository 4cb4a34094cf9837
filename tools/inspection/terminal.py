"""Statistics and problems on the terminal: tables without borders, and small bars.

    answers    2,500   5 a prompt; 2,000 rated, 470 repeat another one of their prompt
    rating        mean   0     1     2     3     4
    helpfulness   2.80   ▁▂▂▃█   134   342   242   356   926

Tests   tests/tools/inspection/test_command.py
"""

from collections.abc import Iterator, Sequence

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from mmalign.data.lineage import Step

from .judges import Judges
from .pairs import PairStatistics
from .seen import seen
from .statistics import Counts, Histogram, Statistics
from .validation import Findings

BLOCKS = " ▁▂▃▄▅▆▇█"
MOST_NAMES = 6
"""Models and sources that are named; the others are counted."""


def bars(histogram: Histogram) -> str:
    """`▁▂▂▃█`: heights relative to the highest, and whatever occurs is seen."""
    top = max(histogram.counts, default=0) or 1
    return "".join(BLOCKS[-(-count * (len(BLOCKS) - 1) // top)] for count in histogram.counts)


def names(counts: Counts) -> str:
    """`embedded 2,000, teacher 500`."""
    said = [f"{seen(name) or '(none)'} {count:,}" for name, count in counts[:MOST_NAMES]]
    return ", ".join([*said, *([f"and {len(counts) - MOST_NAMES} more"] if len(counts) > MOST_NAMES else [])])


def several(histogram: Histogram, of: str) -> str:
    """`a prompt: 5`, or `a prompt: 1 (20), 4 (480)`."""
    found = [(label, count) for label, count in zip(*histogram, strict=True) if count]
    if len(found) == 1:
        return f"{of}: {found[0][0]}"
    return f"{of}: " + ", ".join(f"{label} ({count:,})" for label, count in found)


def statistics_table(found: Statistics) -> RenderableType:
    """Counts, then a line for each aspect."""
    table = _table()
    for name, value, text in _statistics_lines(found):
        table.add_row(name, value, Text(text))
    if not found.ratings:
        return table
    ratings = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bright_black")
    for heading in ("rating", "mean", "", "how often"):
        ratings.add_column(heading, justify="right" if heading == "mean" else "left")
    for each in found.ratings:
        counts = "  ".join(f"{label}: {count:,}" for label, count in zip(*each.histogram, strict=True) if count)
        ratings.add_row(Text(seen(each.name)), f"{each.mean:.2f}", Text(bars(each.histogram), style="cyan"), counts)
    return Group(table, "", ratings)


def _statistics_lines(found: Statistics) -> Iterator[tuple[str, str, str]]:
    yield "samples", f"{found.num_samples:,}", f"from {names(found.sources)}"
    yield (
        "prompts",
        "",
        f"{several(found.turns, 'turns a prompt')}; {found.prompt_lengths.median:.0f} characters in the median",
    )
    shared = f"; {found.shared_pictures:,} stand in several places, in {found.sharing_samples:,} samples"
    per_sample = several(found.pictures_per_sample, "a sample")
    yield "pictures", f"{found.num_pictures:,}", per_sample + (shared if found.shared_pictures else "")
    if found.answer_lengths is None:
        yield "answers", "0", "prompts alone: `mmalign sample` makes answers"
        return
    notes = [several(found.answers_per_prompt, "a prompt"), f"{found.rated_answers:,} rated"]
    notes += [f"{found.empty_answers:,} empty"] if found.empty_answers else []
    notes += [f"{found.repeated_answers:,} repeat another one of their prompt"] if found.repeated_answers else []
    yield "answers", f"{found.num_answers:,}", "; ".join(notes)
    low, median, high = found.answer_lengths
    yield (
        "",
        "",
        f"{median:.0f} characters in the median, 90 % from {low:.0f} to {high:.0f}  {bars(found.answer_histogram)}",
    )
    yield "models", f"{len(found.models):,}", names(found.models)
    if found.direct_preferences:
        yield "preferences", f"{found.direct_preferences:,}", "chosen directly, by a person or a published set"


def lineage_lines(steps: Sequence[Step]) -> Iterator[str]:
    """`import nlvr of nlvr/dev.json (samples 400)`, the oldest first."""
    for step in steps:
        counts = ", ".join(f"{name} {value:,}" for name, value in step.counts.items())
        yield seen(f"{step.command} of {step.made_from}" + (f" ({counts})" if counts else ""))


def judges_lines(judges: Judges, total: int) -> Iterator[str]:
    """Who judged, in the samples that were read."""
    read = "all samples" if judges.samples == total else f"{judges.samples:,} of {total:,} samples, evenly spread"
    if not judges.found:
        yield f"judges, in {read}: none"
    for name, each in sorted(judges.found.items()):
        invalid = f", {each.invalid:,} invalid" if each.invalid else ""
        yield f"judge {seen(name)}, in {read}: {each.ratings:,} rated, {each.reasons:,} with reasons{invalid}"


def pairs_line(pairs: PairStatistics) -> str:
    """Ties, and how long the chosen answers are."""
    said = [f"{pairs.ties:,} samples whose best score several answers share"]
    if pairs.longer is not None and pairs.difference is not None:
        low, median, high = (f"{round(each):+,}" for each in pairs.difference)
        said.append(
            f"chosen is longer in {100 * pairs.longer:.0f} % of the pairs, by {median} characters in the median, "
            f"90 % from {low} to {high}"
        )
    if pairs.counted < pairs.of:
        said.append(f"counted in {pairs.counted:,} of {pairs.of:,} samples, evenly spread")
    return "; ".join(said)


def show_findings(console: Console, findings: Findings) -> None:
    """Each kind of problem with its places, errors first."""
    for (level, kind), count in sorted(findings.counts.items()):
        console.print(Text(f"\n{level}: {kind}: {count:,}", style="bold red" if level == "error" else "bold yellow"))
        places = findings.places[kind]
        for place, detail in places:
            console.print(Text(seen(f"  {place.shard}/{place.key}  {detail}")))
        if count > len(places):
            console.print(
                Text(f"  and {count - len(places):,} more; `--problems FILE` lists all", style="bright_black")
            )
    errors, warnings = findings.total("error"), findings.total("warning")
    console.print(
        f"\n{findings.samples:,} samples read: {errors:,} errors in {findings.faulty:,} samples, {warnings:,} warnings."
    )


def _table() -> Table:
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(style="bright_black")
    table.add_column(justify="right")
    table.add_column()
    return table
