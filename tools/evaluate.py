"""`mmalign evaluate`: base against aligned on the same tasks, paired, with 95 % intervals.

    mmalign evaluate --adapter runs/demo/adapter --out runs/demo/evaluation
    mmalign evaluate --adapter runs/nlvr/adapter --out runs/nlvr/evaluation --suite preferences --shards shards/nlvr

Writes into the folder: `answers.jsonl` (both answers to every task), `scores.json` (every measure with intervals and a
verdict). Stopped and run again, it goes on where it was.
"""

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

import jsonargparse
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from mmalign.evaluation.answers import ANSWERS_FILE, Answer
from mmalign.evaluation.models import BaseAndAligned
from mmalign.evaluation.paired import LEVEL, Measure, compare
from mmalign.evaluation.preferences import preference_measures, score_pairs
from mmalign.evaluation.records import RecordFile
from mmalign.evaluation.scores import Scores, Suite
from mmalign.evaluation.table import scores_table
from mmalign.evaluation.world import WorldSizes, held_out_ids, measures
from mmalign.generate import Prompt, Sampling
from mmalign.messages import parse_messages
from mmalign.template import TemplateName
from mmalign.world.tasks import task

ANSWER_TOKENS = 160
"""The longest gold answer of the world has about a hundred."""


def evaluate(
    adapter: Path,
    out: Path,
    suite: Suite = "world",
    checkpoint: str = "embedded",
    template: TemplateName | None = None,
    pad_images: bool | None = None,
    dtype: Literal["float32", "bfloat16"] = "float32",
    shards: str | None = None,
    sizes: WorldSizes = WorldSizes(),  # noqa: B008, frozen
    batch_size: int = 50,
    resamples: int = 10_000,
    seed: int = 0,
    overwrite: bool = False,
) -> Scores:
    """Compare a model before and after alignment.

    Args:
        adapter: The aligned model's PEFT directory, as `mmalign export` writes it.
        out: Where answers and scores go. Run again with the same folder to go on.
        suite: `world`: descriptions, yes/no questions, text-only and other tasks on held-out scenes of the embedded
            world, answered greedily. `preferences`: does either model find the chosen answer of held-out pairs
            likelier? Any shard set with pairs, see `shards`.
        checkpoint: The base: `embedded`, a folder, or a hub name.
        template: Chat format; left out, the one that the adapter was trained with.
        pad_images: Pad pictures to a square; left out, as the adapter was trained.
        dtype: Of the base's weights.
        shards: For `preferences`: the shard set whose pairs are scored.
        sizes: For `world`: how many tasks of each sort.
        batch_size: Prompts or pairs that run together; results are written after each batch.
        resamples: Bootstrap draws for the intervals.
        seed: Of the bootstrap.
        overwrite: Drop answers of another model or adapter found in `out`, instead of refusing to mix them.

    Raises:
        FileNotFoundError: No checkpoint, adapter or shards.
        ValueError: They do not fit one another, or `out` holds another evaluation.
    """
    console = Console()
    _check_suite(suite, shards)
    models = BaseAndAligned(checkpoint, adapter, template=template, pad_images=pad_images, dtype=getattr(torch, dtype))
    lineage = models.lineage() | {"bootstrap": f"{resamples} resamples, seed {seed}"}
    began = time.perf_counter()
    with _progress(console) as progress:
        if shards is not None:
            found = _preference_measures(models, out, shards, batch_size, progress, overwrite=overwrite)
            lineage |= {"shards": shards, "decoding": "none: log-probabilities"}
        else:
            found = _world_measures(models, out, sizes, batch_size, progress, overwrite=overwrite)
            lineage |= {"decoding": f"greedy, at most {ANSWER_TOKENS} tokens", "tasks": "world/heldout"}
        comparisons = [
            compare(measure, resamples=resamples, seed=seed)
            for measure in progress.track(found, description="intervals")
        ]
    scores = Scores(suite=suite, comparisons=tuple(comparisons), lineage=lineage, resamples=resamples, level=LEVEL)
    path = scores.write(out)
    console.print(scores_table(scores))
    console.print(f"{path} and its neighbours, in {time.perf_counter() - began:.0f} s", highlight=False)
    return scores


def _check_suite(suite: Suite, shards: str | None) -> None:
    """Raise where `--shards` and `--suite` do not fit."""
    if suite == "preferences" and shards is None:
        raise ValueError("`--suite preferences` needs `--shards DIR`: a shard set with pairs to score.")
    if suite == "world" and shards is not None:
        raise ValueError(
            "`--shards` is for `--suite preferences`; the world's tasks are made, not read. Leave one out."
        )


def _world_measures(
    models: BaseAndAligned, out: Path, sizes: WorldSizes, batch_size: int, progress: Progress, *, overwrite: bool
) -> list[Measure]:
    """Let both models answer what is not answered yet, then measure."""
    ids = held_out_ids(sizes)
    identity = models.identity() | {"decoding": f"greedy, at most {ANSWER_TOKENS} tokens"}
    file = RecordFile(out / ANSWERS_FILE, Answer, identity, overwrite=overwrite)
    todo = [task_id for task_id in ids if task_id not in file.records]
    bar = progress.add_task("answers of both models", total=len(ids), completed=len(ids) - len(todo))
    for chunk in _chunks(todo, batch_size):
        asked = [task(task_id) for task_id in chunk]
        prompts = [Prompt(parse_messages(each.messages), tuple(each.images)) for each in asked]
        base, aligned = models.answer(prompts, Sampling(max_new_tokens=ANSWER_TOKENS), batch_size=batch_size)
        file.append(
            [
                Answer(each.id, each.kind, each.question.text, *both)
                for each, *both in zip(asked, base, aligned, strict=True)
            ]
        )
        progress.advance(bar, len(chunk))
    return measures([file.records[task_id] for task_id in ids])


def _preference_measures(
    models: BaseAndAligned, out: Path, shards: str, batch_size: int, progress: Progress, *, overwrite: bool
) -> list[Measure]:
    """Score the pairs that are not scored yet, then measure."""
    bar = progress.add_task("pairs under both models", total=None)
    scored = score_pairs(
        models,
        shards,
        out,
        batch_size=batch_size,
        overwrite=overwrite,
        progress=lambda done, total: progress.update(bar, completed=done, total=total),
    )
    return preference_measures(scored)


class RateColumn(ProgressColumn):
    """Steps a second, or seconds a step where they are slow."""

    def render(self, task: Task) -> Text:
        """The rate over the last half minute."""
        speed = task.finished_speed or task.speed
        if not speed:
            return Text("")
        return Text(f"{speed:.1f}/s" if speed >= 1 else f"{1 / speed:.1f} s each")


def _progress(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        RateColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console,
    )


def _chunks(ids: Sequence[str], size: int) -> Iterator[Sequence[str]]:
    for start in range(0, len(ids), size):
        yield ids[start : start + size]


def main(args: Sequence[str] | None = None) -> None:
    """Entry point of `mmalign evaluate`."""
    jsonargparse.set_parsing_settings(docstring_parse_attribute_docstrings=True)
    jsonargparse.auto_cli(
        evaluate, args=None if args is None else list(args), as_positional=False, prog="mmalign evaluate"
    )
