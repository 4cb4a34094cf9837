"""`mmalign import`: other people's files -> shards.

    mmalign import llava llava_v1_5_mix665k.json --out shards/sft --images coco.zip
    mmalign import rlhf_v openbmb/RLHF-V-Dataset --out shards/rlhf_v           a dataset of the hub
    mmalign import scigraphqa "rated/*.jsonl" --out shards/figures --text_only true
    mmalign import nlvr ../nlvr/dev --out shards/nlvr --heldout 0.2             shards/nlvr/train and heldout
    mmalign import world --out shards/prompts --num 500                         prompts of the embedded world
    mmalign import index shards/theirs                                          the manifest of tars that lie there

What cannot be used is listed by name and reason. Run again, it writes the same bytes.

Formats   shards/README.md
Tests     tests/tools/test_import.py
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

from jsonargparse import ArgumentParser
from rich.console import Console

from mmalign.data.importers import Skipped, UnreadableError
from mmalign.data.importers.conversations import PictureSource, Row
from mmalign.data.importers.human_pairs import read_human_pairs
from mmalign.data.importers.llava import read_llava
from mmalign.data.importers.lrv import read_lrv
from mmalign.data.importers.mdpo import read_mdpo
from mmalign.data.importers.nlvr import held_out, read_nlvr
from mmalign.data.importers.pictures import Pictures
from mmalign.data.importers.preferences import read_preferences
from mmalign.data.importers.questions import read_questions
from mmalign.data.importers.rlaif_v import read_rlaif_v
from mmalign.data.importers.rlhf_v import read_rlhf_v
from mmalign.data.importers.scigraphqa import join_answers, read_scigraphqa
from mmalign.data.importers.sharegpt import read_sharegpt
from mmalign.data.importers.sources import DEFAULT_SPLIT, Records, open_records
from mmalign.data.importers.vlfeedback import read_vlfeedback
from mmalign.data.sample import Sample
from mmalign.data.shards import write_manifest
from mmalign.world.scene import Split

from .import_engine import Origin, origin_of, write_shards
from .import_likeness import LikenessSettings

CONSOLE = Console(soft_wrap=True, highlight=False)
PLACES = (
    'JSON list, JSON lines or parquet; a folder or a "pattern*" of these; a folder written by `save_to_disk`; or the '
    "name of a dataset of the hub, which needs `pip install 'mmalign[hub]'`."
)
"""What can be imported, besides the formats with options of their own."""


class Reader(Protocol):
    """Makes samples of one format's records."""

    def __call__(
        self, rows: Iterable[Row | Skipped], pictures: PictureSource | None, *, source: str
    ) -> Iterator[Sample | Skipped]:
        """A sample or a reason for each record."""


class Format(NamedTuple):
    """A format whose records stand in files, and its pictures elsewhere or in the records."""

    read: Reader
    about: str
    keyed: bool = False
    """Each file is one object of records."""
    join: Callable[[Iterable[Row | Skipped]], list[Row | Skipped]] | None = None
    """Puts together what belongs to one sample."""


FORMATS = {
    "llava": Format(read_llava, "LLaVA: conversations whose last answer becomes a response by `gold`"),
    "sharegpt": Format(read_sharegpt, "ShareGPT as LLaMA-Factory writes it, v0 and v1: SFT, preferences, KTO"),
    "preferences": Format(read_preferences, "TRL and Hugging Face: images, prompt, chosen, rejected"),
    "rlhf_v": Format(read_rlhf_v, "RLHF-V: answers that people corrected"),
    "rlaif_v": Format(read_rlaif_v, "RLAIF-V: pairs by checked claims"),
    "vlfeedback": Format(read_vlfeedback, "VLFeedback (Silkie): four answers, three aspects rated by GPT-4V"),
    "mdpo": Format(read_mdpo, "mDPO: pairs whose prompt stands in Vicuna's template"),
    "scigraphqa": Format(read_scigraphqa, "SciGraphQA: figures, graded answers of several models", join=join_answers),
    "lrv": Format(read_lrv, "LRV-Instruct: questions about Visual Genome's pictures"),
    "questions": Format(read_questions, "questions without answers, to sample from"),
    "human_pairs": Format(read_human_pairs, "human preferences with GPT-4V's ratings, by the first author", keyed=True),
}


class Nowhere(PictureSource):
    """Where the pictures of a published dataset lie that does not hold them."""

    def read(self, name: str) -> bytes:
        """Refuse."""
        raise UnreadableError(f"no picture {name:.80}: the dataset does not hold it, give its pictures with `--images`")


def main(args: Sequence[str] | None = None) -> None:
    """Import one place, in one of the formats.

    Args:
        args: The command line behind `mmalign import`; None takes it from the shell.
    """
    parser = _parser()
    chosen = parser.instantiate_classes(parser.parse_args(args))
    name = chosen.format
    options = chosen[name].as_dict()
    if name in SPECIAL:
        SPECIAL[name].command(**options)
    else:
        import_format(name, **options)


def import_format(
    name: str,
    place: str,
    out: Path,
    images: Path | None = None,
    text_only: bool = False,
    source: str | None = None,
    split: str = DEFAULT_SPLIT,
    likeness: LikenessSettings = LikenessSettings(),  # noqa: B008, frozen
) -> None:
    """Records of a file, a folder, a pattern or a dataset of the hub -> one shard set.

    Args:
        name: Of the format.
        place: See `PLACES`.
        out: Folder for the shards.
        images: Folder, .zip or .tar of the pictures that records only name; the folder of the records by default.
        text_only: Leave all pictures out, and their places in the questions: for sets that come without them. Such
            samples can be compared and judged as text; training on them as they are would teach to answer blindly.
        source: Name of the data set, kept in every sample; the name of the file or folder by default.
        split: Part of a saved or published dataset.
        likeness: How pictures that look alike are found.
    """
    if text_only and images is not None:
        raise ValueError("--text_only leaves all pictures out, but --images names some. Give one of the two.")
    form = FORMATS[name]
    records = open_records(place, split=split, keyed=form.keyed)
    source = source or Path(place).stem.strip("*?[]_") or name
    rows, joined = _joined(records, form)
    pictures = None if text_only else _pictures(images, records)
    write_shards(
        form.read(rows, pictures, source=source),
        lambda _: out,
        total=joined.get("questions", records.total),
        origin=origin_of(Path(place), records.files) if records.files else Origin(place, records.revision),
        command=f"import {name}",
        settings={"source": source, "split": split, "text_only": text_only, "images": str(images or "")} | joined,
        out=out,
        likeness=likeness,
    )
    if text_only:
        CONSOLE.print("Imported as text only: no sample has its picture. Compare and judge them; do not train on them.")


def nlvr(
    place: Path,
    out: Path,
    heldout: float = 0.2,
    likeness: LikenessSettings = LikenessSettings(),  # noqa: B008, frozen
) -> None:
    """NLVR: sentences with pictures and labels; the label says which of "Yes." and "No." is preferred.

    Args:
        place: Folder with `dev.json` and `images/`.
        out: Folder for the shard sets `train` and `heldout`.
        heldout: Fraction of the pictures held out, by their hash; no picture is in both. 0 holds out none.
        likeness: How pictures that look alike are found.
    """
    if not 0 <= heldout < 1:
        raise ValueError(f"--heldout is a fraction in [0, 1), got {heldout}. Usually 0.2.")
    file = place / "dev.json"
    records = open_records(str(file))
    parts = {True: out / "heldout", False: out / "train"}
    write_shards(
        read_nlvr(records.rows, Pictures(place)),
        lambda sample: parts[held_out(sample.id, heldout)],
        total=records.total,
        origin=origin_of(file),
        command="import nlvr",
        settings={"heldout": heldout},
        out=out,
        likeness=likeness,
    )


def world(out: Path, num: int = 500, split: Split = "preference", mix: str = "preference", skip: int = 0) -> None:
    """Prompts of the embedded picture world, without answers, to sample from.

    Args:
        out: Folder for the shards.
        num: How many.
        split: Which scenes. The preference split made the shipped shards `world`, `heldout` their validation set.
        mix: Kind of questions, or a mix: "preference", "text".
        skip: How many to leave out before them.
    """
    from mmalign.world.prompts import world_prompts

    write_shards(
        world_prompts(split, mix, num, skip),
        lambda _: out,
        total=num,
        origin=Origin(f"world/{split}/{mix}", ""),
        command="import world",
        settings={"num": num, "split": split, "mix": mix, "skip": skip},
        out=out,
        likeness=LikenessSettings(duplicates=False),  # scenes of few shapes look alike, and are told apart by their ids
    )


def index(place: Path) -> None:
    """Write the manifest of the tars in a folder, whoever made them; shards/README.md says what must be in them.

    Args:
        place: Folder with `*.tar`.
    """
    manifest = write_manifest(place)
    CONSOLE.print(f"{place}: {len(manifest)} samples in {len(manifest.shards)} shards, manifest {manifest.hash[:16]}.")


class Special(NamedTuple):
    """A format with options of its own."""

    command: Callable[..., None]
    about: str
    positional: bool = True


SPECIAL = {
    "nlvr": Special(nlvr, "NLVR: sentences that are true or false of a picture"),
    "world": Special(world, "prompts of the embedded picture world", positional=False),
    "index": Special(index, "the manifest of tars that lie in a folder"),
}


def _parser() -> ArgumentParser:
    parser = ArgumentParser(prog="mmalign import", description="Other people's files -> shards.")
    commands = parser.add_subcommands(dest="format", metavar="FORMAT")
    for name, form in FORMATS.items():
        description = f"{form.about}. See mmalign/data/importers/{name}.py for a record and what becomes of it."
        commands.add_subcommand(name, _command_parser(import_format, description, ["name"]), help=form.about)
    for name, special in SPECIAL.items():
        parser_ = _command_parser(special.command, special.about, [], positional=special.positional)
        commands.add_subcommand(name, parser_, help=special.about)
    return parser


def _command_parser(
    command: Callable[..., None], description: str, skipped: list[str], *, positional: bool = True
) -> ArgumentParser:
    """The options of a command; the place to read stands before them, unnamed."""
    parser = ArgumentParser(description=description)
    if positional:
        kind, about = (str, PLACES) if command is import_format else (Path, "A folder.")
        parser.add_argument("place", type=kind, metavar="SOURCE", help=about)
    parser.add_function_arguments(command, as_positional=False, skip={*skipped, "place"})
    return parser


def _joined(records: Records, form: Format) -> tuple[Iterable[Row | Skipped], dict[str, int]]:
    """The rows as samples are made of them; where several make one sample, how many of how many."""
    if form.join is None:
        return records.rows, {}
    rows = form.join(records.rows)
    CONSOLE.print(f"{records.total} records of {len(records.files)} files are about {len(rows)} questions.")
    return rows, {"records": records.total or len(rows), "questions": len(rows)}


def _pictures(images: Path | None, records: Records) -> PictureSource:
    if images is not None:
        return Pictures(images)
    return Pictures(records.files[0].parent) if records.files else Nowhere()
