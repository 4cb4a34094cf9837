"""`mmalign inspect`: what a shard set holds, and its rows as the model gets them.

    mmalign inspect --shards world --limit 2

Prompts are grey, pictures stand as `[image x16]`, trained tokens are green (chosen), red (rejected), cyan (answer) or
magenta (the chosen ones behind another picture); another prompt's answer, from which nothing is learned, is dim.
"""

from itertools import groupby

from jsonargparse import auto_cli
from rich.console import Console
from rich.text import Text

from mmalign.batch import Batch, Role
from mmalign.data.collate import Collator
from mmalign.data.rows import Overlong, RowEncoder
from mmalign.data.rowset import RowSet, Source
from mmalign.data.variants import Variant
from mmalign.data.views import Pairs, View
from mmalign.processor import load_processor
from mmalign.template import Template, TemplateName

CONSOLE = Console(soft_wrap=True, highlight=False)
PROMPT_STYLE = "bright_black"
IMAGE_STYLE = "magenta"
ANSWER_STYLES = {
    Role.ANSWER: "cyan",
    Role.CHOSEN: "green",
    Role.REJECTED: "red",
    Role.OTHER_IMAGE: "magenta",
    Role.MISMATCHED: "dim",
}


def main(args: list[str] | None = None) -> None:
    """Show counts and rows.

    Args:
        args: The command line behind `mmalign inspect`; None takes it from the shell.
    """
    auto_cli(inspect, args=args, prog="mmalign inspect")


def inspect(
    shards: str = "world",
    view: View | None = None,
    checkpoint: str = "embedded",
    template: TemplateName = "vicuna_v1",
    pad_images: bool = True,
    max_length: int = 3000,
    overlong: Overlong = "refuse",
    limit: int = 5,
    verify: bool = False,
) -> None:
    """Say what a shard set holds and show its first rows with the tokens that are trained.

    Args:
        shards: Folder or address of shards, or `world`, which ships with mmalign.
        view: What makes rows of samples: `Pairs` by default, or `ImagePairs`, `BestOfN`, `Gold`, `Steer`, `Unpaired`,
            `Prompts`, with their settings, for instance `--view Pairs --view.margin 3`.
        checkpoint: Whose tokenizer and image processor to use.
        template: Conversation format.
        pad_images: Pad pictures to a square, or crop their centre.
        max_length: See `data.max_length`.
        overlong: See `data.overlong`.
        limit: Rows to show; 0 shows the counts alone.
        verify: Hash every shard whole, too.
    """
    rows = RowSet([Source(path=shards)], view or Pairs(), config_key="--shards")
    show_counts(rows, verify=verify)
    if not limit:
        return
    speak = Template(load_processor(checkpoint, pad_images=pad_images), template)
    encode = RowEncoder(speak, max_length=max_length, overlong=overlong)
    collate = Collator(pad_token_id=speak.tokenizer.pad_token_id)
    for number in range(min(limit, len(rows))):
        group = rows[number]
        for row, encoded in zip(group, encode.group(group), strict=True):
            CONSOLE.print()
            CONSOLE.print(row_text(collate([encoded]), speak, row.variant))


def show_counts(rows: RowSet, *, verify: bool) -> None:
    """Print what the manifest knows; with `verify`, hash the shards, too."""
    (shard_set,) = rows.sets
    manifest = shard_set.manifest
    size = sum(shard.size for shard in manifest.shards)
    CONSOLE.print(f"{manifest.location}: {len(manifest.shards)} shards, {size / 1e6:.1f} MB", markup=False)
    CONSOLE.print(f"manifest {manifest.hash}")
    CONSOLE.print(rows.summary(), markup=False)
    if verify:
        shard_set.verify()
        CONSOLE.print("Every shard hashes to what the manifest says.")


def row_text(batch: Batch, template: Template, variant: Variant | None = None) -> Text:
    """One collated row, coloured; taken from the batch, so it is what a method trains on.

    Args:
        batch: Of one row.
        template: Decodes its tokens.
        variant: What was done to its pictures.
    """
    text = Text(f"{batch.keys[0]}\n", style="bold")
    if variant is not None:
        text.append(f"pictures changed by {variant!r}\n", style=IMAGE_STYLE)
    if batch.refusals[0]:
        text.append(f"a stand-in takes its place: {batch.refusals[0]}\n", style="yellow")
    elif not batch.row_weights[0]:
        text.append("counts nothing, there is no picture to change\n", style="yellow")
    prompt = batch.input_ids[0][batch.segment_ids[0] == 0].tolist()
    for is_image, ids in _runs(prompt, template.image_token_id):
        if is_image:
            count = len(ids) // template.num_image_tokens
            text.append(f"[image x{template.num_image_tokens}]" * count, style=IMAGE_STYLE)
        else:
            text.append(template.tokenizer.decode(ids), style=PROMPT_STYLE)
    for number, role in enumerate(batch.roles.tolist()):
        ids = batch.targets[batch.response_index == number].tolist()
        verb = "scored" if role == Role.MISMATCHED else "trained"
        cut = " (truncated)" if batch.truncated[number] else ""
        text.append(f"\n  {Role(role).name.lower()}, {len(ids)} {verb} tokens{cut}:", style="default")
        text.append(template.tokenizer.decode(ids), style=ANSWER_STYLES[Role(role)])
    return text


def _runs(ids: list[int], image_token_id: int) -> list[tuple[bool, list[int]]]:
    """Stretches of image tokens and of others: `[5, I, I, 7]` -> `[(False, [5]), (True, [I, I]), (False, [7])]`."""
    return [(key, list(group)) for key, group in groupby(ids, key=lambda token: token == image_token_id)]
