"""`mmalign import`: other people's files -> shards.

    mmalign import nlvr ../nlvr/dev shards/nlvr --heldout 0.2     shards/nlvr/train, shards/nlvr/heldout
    mmalign import llava llava_v1_5_mix665k.json shards/sft --images coco
    mmalign import questions questions.jsonl shards/prompts
    mmalign import index shards/theirs                            the manifest of tars that lie there

What cannot be used is listed by name and reason. Run again, it writes the same bytes.
"""

from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from pathlib import Path

from jsonargparse import auto_cli
from rich.console import Console
from rich.progress import track

from mmalign.data.importers import Skipped, load_records
from mmalign.data.importers.llava import read_llava
from mmalign.data.importers.nlvr import held_out, read_nlvr
from mmalign.data.importers.questions import read_questions
from mmalign.data.sample import Sample, SampleError
from mmalign.data.shards import ShardWriter, write_manifest

CONSOLE = Console(soft_wrap=True, highlight=False)


def main(args: list[str] | None = None) -> None:
    """Import one file, in one of the formats.

    Args:
        args: The command line behind `mmalign import`; None takes it from the shell.
    """
    auto_cli({"llava": llava, "nlvr": nlvr, "questions": questions, "index": index}, args=args, prog="mmalign import")


def llava(file: Path, out: Path, images: Path | None = None, source: str | None = None) -> None:
    """LLaVA-style JSON: conversations whose last answer becomes a response by the model `gold`.

    Args:
        file: A JSON list (or JSON lines) of `{id, image, conversations: [{from: human|gpt, value}]}`.
        out: Folder for the shards.
        images: Folder of the pictures; that of the file by default.
        source: Name of the data set, kept in every sample; the file's name by default.
    """
    records = load_records(file)
    samples = read_llava(records, images or file.parent, source=source or file.stem)
    write_shards(samples, lambda _: out, total=len(records), file=file)


def nlvr(folder: Path, out: Path, heldout: float = 0.2) -> None:
    """NLVR: sentences with pictures and labels; the label says which of "Yes." and "No." is preferred.

    Args:
        folder: With `dev.json` and `images/`.
        out: Folder for the shard sets `train` and `heldout`.
        heldout: Fraction of the pictures held out, by their hash; no picture is in both. 0 holds out none.
    """
    if not 0 <= heldout < 1:
        raise ValueError(f"--heldout is a fraction in [0, 1), got {heldout}. Usually 0.2.")
    records = load_records(folder / "dev.json")
    parts = {True: out / "heldout", False: out / "train"}
    write_shards(
        read_nlvr(records, folder),
        lambda sample: parts[held_out(sample.id, heldout)],
        total=len(records),
        file=folder / "dev.json",
    )


def questions(file: Path, out: Path, images: Path | None = None, source: str | None = None) -> None:
    """Questions without answers, to sample from.

    Args:
        file: JSON lines (or a list) of `{image_path, question}`.
        out: Folder for the shards.
        images: Folder of the pictures; that of the file by default.
        source: Name of the data set, kept in every sample; the file's name by default.
    """
    records = load_records(file)
    samples = read_questions(records, images or file.parent, source=source or file.stem)
    write_shards(samples, lambda _: out, total=len(records), file=file)


def index(folder: Path) -> None:
    """Write the manifest of the tars in a folder, whoever made them; shards/README.md says what must be in them.

    Args:
        folder: With `*.tar`.
    """
    manifest = write_manifest(folder)
    CONSOLE.print(f"{folder}: {len(manifest)} samples in {len(manifest.shards)} shards, manifest {manifest.hash[:16]}.")


def write_shards(
    samples: Iterable[Sample | Skipped], folder_of: Callable[[Sample], Path], *, total: int, file: Path
) -> None:
    """Write samples into the folders they belong to, and say what was written and what was skipped.

    Raises:
        ValueError: Nothing could be used.
    """
    skipped, written = list[Skipped](), Counter[Path]()
    with ExitStack() as stack:
        writers: dict[Path, ShardWriter] = {}
        for sample in track(samples, f"Importing {file.name}", total=total, console=Console(stderr=True)):
            if isinstance(sample, Skipped):
                skipped.append(sample)
                continue
            folder = folder_of(sample)
            if folder not in writers:
                writers[folder] = stack.enter_context(ShardWriter(folder))
            try:
                writers[folder].write(sample)
                written[folder] += 1
            except SampleError as error:
                skipped.append(Skipped(sample.id, str(error)))
    for name, reason in skipped:
        CONSOLE.print(f"skipped {name}: {reason}", markup=False)
    if not written:
        raise ValueError(f"{file}: none of {total} records could be imported, see the reasons above. Check --help.")
    CONSOLE.print(f"{total} records: {written.total()} imported, {len(skipped)} skipped.")
    for folder, count in sorted(written.items()):
        CONSOLE.print(f"  {folder}: {count} samples", markup=False)
