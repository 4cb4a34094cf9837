"""`mmalign inspect`: what a shard set holds, what is wrong with it, and its rows as the model gets them.

    mmalign inspect world --limit 2                              # statistics, two rows
    mmalign inspect shards/mine --validate true                  # reads all; exit code 1 where there is an error
    mmalign inspect shards/mine --html mine.html --limit 0       # one page to browse

Prompts are grey, pictures stand as `[image x16]`, trained tokens are green (chosen), red (rejected), cyan (answer) or
magenta (the chosen ones behind another picture); another prompt's answer, from which nothing is learned, is dim.
"""

import json
import sys
from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from pathlib import Path

from jsonargparse import auto_cli, set_parsing_settings
from rich.console import Console
from rich.text import Text

from mmalign.data.lineage import Step, lineage_of
from mmalign.data.reader import ShardSet
from mmalign.data.rows import Overlong, RowEncoder
from mmalign.data.rowset import Source, summarize
from mmalign.data.sample import GoneError, SampleError, ShardError
from mmalign.data.views import Pairs, View
from mmalign.processor import load_processor
from mmalign.template import Template, TemplateName, own_template

from ..progress import progress_bars
from . import terminal
from .judges import Judges
from .page import Page, card_maker, write_page
from .pairs import PairStatistics, evenly, pair_statistics
from .rows import RowReader, row_text
from .seen import seen
from .statistics import Statistics, statistics_of
from .validation import Findings, Validator, check_all

CONSOLE = Console(soft_wrap=True, highlight=False)
READ = 100
"""Samples that are read to say who judged, where not all are."""
SHOWN_PROBLEMS = 5
"""Places of each kind of problem on the terminal."""


def main(args: Sequence[str] | None = None) -> None:
    """Show counts, problems and rows; exit with 1 where `--validate` finds an error.

    Args:
        args: The command line behind `mmalign inspect`; None takes it from the shell.
    """
    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    errors = auto_cli(inspect, args=None if args is None else list(args), prog="mmalign inspect")
    if errors:
        sys.exit(1)


def inspect(
    shards: str,
    view: View | None = None,
    checkpoint: str = "embedded",
    template: TemplateName | None = None,
    pad_images: bool = True,
    max_length: int = 3000,
    overlong: Overlong = "refuse",
    limit: int = 5,
    verify: bool = False,
    validate: bool = False,
    problems: Path | None = None,
    html: Path | None = None,
    html_samples: int = 200,
) -> int:
    """Say what a shard set holds and show its first rows with the tokens that are trained.

    Args:
        shards: Folder or address of shards, or `world`, which ships with mmalign.
        view: What makes rows of samples: `Pairs` by default, or `ImagePairs`, `BestOfN`, `Gold`, `Steer`, `Unpaired`,
            `Prompts`, with their settings, for instance `--view Pairs --view.margin 3`.
        checkpoint: Whose tokenizer and image processor to use.
        template: Conversation format; left out, the one of the checkpoint's own chat template.
        pad_images: Pad pictures to a square, or crop their centre.
        max_length: See `data.max_length`.
        overlong: See `data.overlong`.
        limit: Rows to show; 0 shows the counts alone.
        verify: Hash every shard whole, too.
        validate: Read every sample, decode its pictures, and list what is wrong.
        problems: With `validate`: a file for the whole list, one JSON record a line.
        html: A file for one page to browse; it needs no network.
        html_samples: Samples on the page, at most, evenly spread.

    Returns:
        Number of errors that `validate` found.
    """
    if problems is not None and not validate:
        raise ValueError("`--problems` lists what `--validate true` finds. Give both, or neither.")
    if limit < 0:
        raise ValueError(f"`--limit` must be 0 or more, got {limit}. 0 shows the counts alone.")
    if html_samples < 1:
        raise ValueError(f"`--html_samples` must be at least 1, got {html_samples}. For no page, leave `--html` out.")
    shard_set = _open(shards)
    view = view or Pairs()
    lineage = lineage_of(shard_set.manifest)
    found = statistics_of(shard_set.manifest)
    pairs = pair_statistics(shard_set.manifest, view)
    show_counts(shards, shard_set, lineage, found, pairs)
    if verify:
        shard_set.verify()
        CONSOLE.print("Every shard hashes to what the manifest says.")
    if not (validate or limit or html):
        show_judges(shard_set)
        return 0
    processor = load_processor(checkpoint, pad_images=pad_images)
    speak = Template(processor, template or own_template(processor))
    validator = Validator(speak, max_length=max_length, overlong=overlong)
    findings = validated(shard_set, validator, problems) if validate else None
    if findings is None:
        show_judges(shard_set)
    reader = RowReader(shard_set, view, speak, RowEncoder(speak, max_length=max_length, overlong=overlong))
    show_rows(reader, pairs, limit)
    if html is not None:
        page = Page(shards.rstrip("/").rpartition("/")[2], shard_set, lineage, found, pairs, findings)
        numbers = evenly(len(shard_set), html_samples)
        maker = card_maker(page, numbers, reader, validator)
        with progress_bars(CONSOLE) as progress:
            cards = [maker.card(number) for number in progress.track(numbers, description="page")]
        size = write_page(html, page, cards)
        CONSOLE.print(f"{html}: {len(cards):,} of {len(shard_set):,} samples, {size / 1e6:.1f} MB", markup=False)
    return findings.total("error") if findings else 0


def show_counts(
    name: str, shard_set: ShardSet, lineage: Sequence[Step], found: Statistics, pairs: PairStatistics
) -> None:
    """Print what the manifest knows."""
    manifest = shard_set.manifest
    size = f"{found.num_bytes / 1e6:.1f} MB"
    CONSOLE.print(f"{manifest.location}: {found.num_shards:,} shards, {size}", markup=False)
    CONSOLE.print(f"manifest {manifest.hash}")
    _print_lines(f"made by {line}" for line in terminal.lineage_lines(lineage))
    CONSOLE.print()
    CONSOLE.print(terminal.statistics_table(found))
    CONSOLE.print()
    CONSOLE.print(f"{name}: {summarize(pairs.usable)}", markup=False)
    CONSOLE.print(terminal.pairs_line(pairs))


def show_judges(shard_set: ShardSet) -> None:
    """Print who judged, from some samples: a manifest does not know. Remote shards would have to be fetched whole."""
    if shard_set.is_remote:
        CONSOLE.print("judges: `--validate true` counts them; it fetches every shard")
        return
    judges, unreadable = Judges(), list[str]()
    numbers = evenly(len(shard_set), READ)
    for number in numbers:
        try:
            judges.add(shard_set[number])
        except (SampleError, ShardError, GoneError) as error:
            unreadable.append(str(error))
    _print_lines(terminal.judges_lines(judges, len(shard_set)))
    if unreadable:
        more = f"{len(unreadable)} of {len(numbers)} samples cannot be read, `--validate true` lists all. The first: "
        CONSOLE.print(Text(more + unreadable[0], style="red"))


def validated(shard_set: ShardSet, validator: Validator, problems: Path | None) -> Findings:
    """Read all samples, print what is wrong, and write the whole list where it is wanted."""
    judges, findings, total = Judges(), Findings(SHOWN_PROBLEMS), len(shard_set)
    with progress_bars(CONSOLE) as progress, problems.open("w") if problems else nullcontext() as file:
        for checked in progress.track(check_all(shard_set, validator, range(total)), total, description="validate"):
            findings.add(checked)
            if checked.sample is not None:
                judges.add(checked.sample)
            if file is not None:
                file.writelines(f"{json.dumps(checked.place._asdict() | p._asdict())}\n" for p in checked.problems)
    _print_lines(terminal.judges_lines(judges, total))
    terminal.show_findings(CONSOLE, findings)
    return findings


def show_rows(reader: RowReader, pairs: PairStatistics, limit: int) -> None:
    """Print the first rows; one that cannot be made says why."""
    for number, row in pairs.usable.rows[:limit].tolist():
        CONSOLE.print()
        try:
            group = reader.groups(number, reader.shard_set[number])[row]
        except (SampleError, ShardError, GoneError) as error:
            CONSOLE.print(Text(seen(str(error)), style="red"))
            continue
        for each in group:
            CONSOLE.print(row_text(each, reader.template.num_image_tokens))


def _print_lines(lines: Iterable[str]) -> None:
    for line in lines:
        CONSOLE.print(line, markup=False)


def _open(shards: str) -> ShardSet:
    try:
        return ShardSet(Source(path=shards).resolve())
    except FileNotFoundError as error:
        raise FileNotFoundError(f"`mmalign inspect`: {error}") from error
