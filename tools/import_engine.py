"""The writing half of `mmalign import`: samples, as an importer yields them -> shard sets, with what is said of them.

    write_shards(read_llava(records.rows, Pictures(images), source="lrv"), lambda _: out, out=out,
                 total=records.total, origin=origin_of(file), command="import llava", settings={"source": "lrv"})

writes, into every shard set that a sample belongs to,

    000000.tar ... manifest.arrow    the samples
    lineage.json                     what they were made of, and how many of the records were used
    skipped.jsonl                    {"name": "gone", "reason": "no picture coco/gone.png in coco"}, where there are any
    likeness.json                    pictures seen twice, see import_likeness.py

Where pictures are compared, they are read, checked and decoded in threads ahead of the writing. An import that is
stopped leaves nothing, and run again it starts over: it is quick, and the same files give the same bytes. Each set
appears whole or not at all; what lay there before stays until then; a set that was sampled or judged is never replaced.

Tests   tests/tools/test_import_engine.py
"""

import json
import shutil
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple, TextIO

from PIL import Image
from rich.console import Console

from mmalign.data.importers import Skipped
from mmalign.data.likeness import picture_hash
from mmalign.data.lineage import Step, lineage_of
from mmalign.data.manifest import MANIFEST_NAME, Manifest, short_hash
from mmalign.data.remote import file_sha256
from mmalign.data.replacing import LIKENESS_NAME, SKIPPED_NAME
from mmalign.data.sample import Sample, SampleError
from mmalign.data.shards import ShardWriter

from .import_likeness import Comparison, LikenessSettings, Report, Seen, open_others
from .progress import progress_bars
from .read_ahead import ahead

CONSOLE = Console(soft_wrap=True, highlight=False)
SHOWN = 20
"""Skipped records on the terminal; all stand in `skipped.jsonl`."""


class Origin(NamedTuple):
    """What was imported, as the lineage names it."""

    name: str
    """The file or folder as the user gave it; of a world, its split."""
    hash: str
    """sha256 of the file; of several, of their names and hashes. Empty where nothing was read."""


class Looked(NamedTuple):
    """A sample and its pictures as they look; none where nobody asked."""

    sample: Sample
    pictures: tuple[Seen, ...]


def origin_of(place: Path, files: Sequence[Path] | None = None) -> Origin:
    """Name and hash of a file, or of several.

    Args:
        place: File or folder, as the user gave it.
        files: What was read of it; `place` itself if None.
    """
    if files is None or len(files) == 1:
        (file,) = files or (place,)
        return Origin(str(place), file_sha256(file))
    lines = (f"{file_sha256(file)}  {file.name}\n" for file in files)
    return Origin(str(place), sha256("".join(lines).encode()).hexdigest() if files else "")


def write_shards(
    samples: Iterable[Sample | Skipped],
    folder_of: Callable[[Sample], Path],
    *,
    total: int | None,
    origin: Origin,
    command: str,
    settings: Mapping[str, Any],
    out: Path,
    likeness: LikenessSettings | None = None,
) -> None:
    """Write samples into the folders they belong to, and say what was written, skipped and seen twice.

    Args:
        samples: As an importer yields them, one for each record. May be run in a thread, ahead of the writing.
        folder_of: The shard set that a sample belongs to.
        total: Number of records, for the progress bar; None where nobody knows.
        origin: What was imported.
        command: `import llava`.
        settings: What the result depends on besides, in JSON's types.
        out: Folder that was asked for: where nothing can be used, `OUT.skipped.jsonl` beside it says why.
        likeness: How pictures are compared; the defaults if None.

    Raises:
        ValueError: Nothing could be used, or a folder holds a set that no import made.
    """
    likeness = likeness or LikenessSettings()
    with ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("error", Image.DecompressionBombWarning)  # of it, as of an error, a record is skipped
        others = open_others(likeness)
        comparison = Comparison(likeness, others) if likeness.duplicates or others else None
        spool = stack.enter_context(tempfile.TemporaryFile("w+", encoding="utf-8"))
        work = _Import(stack, folder_of, comparison, _SkippedList(spool))
        with progress_bars() as progress:
            bar = progress.add_task(f"Importing {Path(origin.name).name}", total=total)
            # Threads pay for themselves where pictures are decoded; to copy them, one is a third quicker than many.
            for item in ahead(samples, work.look, _size) if comparison else map(work.look, samples):
                work.take(item)
                progress.update(bar, advance=1)
        if not work.written:
            work.skipped.refuse(origin.name, out.with_name(f"{out.name}.{SKIPPED_NAME}"))
        work.skipped.say(next(iter(work.written)) / SKIPPED_NAME)
        report = comparison.report() if comparison else None
        work.finish(Step(command, *origin, {**settings, "likeness": vars(likeness)}), report)
    _say(work, report)


class _Import:
    """One import on its way."""

    def __init__(
        self,
        stack: ExitStack,
        folder_of: Callable[[Sample], Path],
        comparison: Comparison | None,
        skipped: "_SkippedList",
    ) -> None:
        """Begin.

        Args:
            stack: Its end puts the sets in place.
            folder_of: The set of a sample.
            comparison: Of the pictures, if that is wanted.
            skipped: Where what cannot be used is noted.
        """
        self.written: Counter[Path] = Counter()
        self.skipped = skipped
        self._stack = stack
        self._folder_of = folder_of
        self._comparison = comparison
        self._writers: dict[Path, ShardWriter] = {}

    def look(self, item: Sample | Skipped) -> Looked | Skipped:
        """Hash the pictures of a sample, in any thread; one that cannot be decoded cannot be used."""
        if isinstance(item, Skipped) or self._comparison is None:
            return item if isinstance(item, Skipped) else Looked(item, ())
        seen = list[Seen]()
        for number, picture in enumerate(item.images):
            name = short_hash(picture)
            try:
                seen.append(self._comparison.known(name) or Seen(name, picture_hash(picture)))
            except ValueError as error:
                return Skipped(item.id, f"picture {number}: {error}")
        return Looked(item, tuple(seen))

    def take(self, item: Looked | Skipped) -> None:
        """Write a sample where it belongs, or note why not."""
        if isinstance(item, Skipped):
            self.skipped.add(item)
            return
        folder = self._folder_of(item.sample)
        if folder not in self._writers:
            _check_replaceable(folder)
            self._writers[folder] = self._stack.enter_context(ShardWriter(folder))
        try:
            self._writers[folder].write(item.sample)
        except SampleError as error:
            self.skipped.add(Skipped(item.sample.id, str(error)))
            return
        self.written[folder] += 1
        if self._comparison is not None:
            self._comparison.add(folder, item.sample.key, item.pictures)

    def finish(self, step: Step, report: Report | None) -> None:
        """Lay beside the shards of each set what is to be said of all.

        Args:
            step: What was done, without its counts.
            report: Of the pictures, if they were compared.
        """
        for folder, number in self.written.items():
            writer = self._writers[folder]
            elsewhere = {"elsewhere": self.written.total() - number} if len(self.written) > 1 else {}
            counts = {"records": self.written.total() + self.skipped.count, "samples": number, **elsewhere}
            counts |= {"skipped": self.skipped.count} | dict(report.counts if report else {})
            writer.lineage = (step._replace(counts=counts),)
            if self.skipped.count:
                self.skipped.copy_to(writer.beside(SKIPPED_NAME))
            if report:
                writer.beside(LIKENESS_NAME).write_text(
                    f"{json.dumps(report.content, indent=1, ensure_ascii=False)}\n", encoding="utf-8"
                )


class _SkippedList:
    """Records that cannot be used: the first of them at hand, all of them on disk."""

    def __init__(self, file: TextIO) -> None:
        self.count = 0
        self._first: list[Skipped] = []
        self._file = file

    def add(self, skipped: Skipped) -> None:
        self.count += 1
        if self.count <= SHOWN:
            self._first.append(skipped)
        self._file.write(json.dumps(skipped._asdict()) + "\n")

    def refuse(self, name: str, path: Path) -> None:
        """Raise `ValueError`: nothing could be used. Where they are many, the list of all is left at the path."""
        if not self.count:
            raise ValueError(f"{name} holds no record. Give one that does.")
        if self.count > SHOWN:
            path.parent.mkdir(parents=True, exist_ok=True)
            self.copy_to(path)
        self.say(path)
        raise ValueError(
            f"{name}: none of {self.count} records could be imported, see the reasons above. Are they of this format, "
            "and do their pictures lie where `--images` says? `mmalign import -h` lists the formats."
        )

    def say(self, path: Path) -> None:
        """Show the first, and say where all of them stand."""
        for name, reason in self._first:
            CONSOLE.print(f"skipped {name}: {reason}", markup=False)
        if self.count > SHOWN:
            CONSOLE.print(f"... and {self.count - SHOWN} more: {path} lists all.", markup=False)

    def copy_to(self, path: Path) -> None:
        self._file.seek(0)
        with path.open("w", encoding="utf-8") as target:
            shutil.copyfileobj(self._file, target)


def _check_replaceable(folder: Path) -> None:
    """Raise where a set lies that no import made: what was sampled or judged has cost something."""
    if not (folder / MANIFEST_NAME).is_file():
        return
    steps = lineage_of(Manifest.load(folder))
    if not steps or not steps[-1].command.startswith("import "):
        maker = f"`mmalign {steps[-1].command}`" if steps else "somebody else"
        raise ValueError(
            f"{folder} holds shards made by {maker}, and an import would replace them. Give another `--out`, or remove "
            "that folder."
        )


def _size(item: Sample | Skipped) -> int:
    return 0 if isinstance(item, Skipped) else sum(map(len, item.images))


def _say(work: _Import, report: Report | None) -> None:
    imported, skipped = work.written.total(), work.skipped.count
    CONSOLE.print(f"{imported + skipped} records: {imported} imported, {skipped} skipped.")
    for folder, count in sorted(work.written.items()):
        CONSOLE.print(f"  {folder}: {count} samples", markup=False)
    if report is not None:
        for line in report.lines:
            CONSOLE.print(line, markup=False)
        if report.lines:
            CONSOLE.print(f"All of them: {min(work.written) / LIKENESS_NAME}", markup=False)
