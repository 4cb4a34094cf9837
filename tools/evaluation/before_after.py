"""`mmalign evaluate`: base against aligned on the same tasks, paired, with 95 % intervals.

    mmalign evaluate --adapter runs/demo/adapter --out runs/demo/evaluation
    mmalign evaluate --adapter runs/nlvr/adapter --out runs/nlvr/evaluation --suite preferences --shards shards/nlvr

Writes into the folder: `answers.jsonl` (both answers to every task), `scores.json` (every measure with intervals and a
verdict). Stopped and run again, it goes on where it was. Several adapters of one base share its answers:

    mmalign evaluate --adapter runs/dpo/adapter --out runs/dpo/evaluation --base_answers runs/base
    mmalign evaluate --adapter runs/sft/adapter --out runs/sft/evaluation --base_answers runs/base    # half the time
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal

import jsonargparse
import torch
from filelock import FileLock
from rich.console import Console
from rich.progress import Progress

from mmalign.data.records import RecordFile
from mmalign.evaluation.answers import ANSWERS_FILE, BASE_ANSWERS_FILE, Answer, BaseAnswer
from mmalign.evaluation.models import BaseAndAligned
from mmalign.evaluation.paired import LEVEL, Measure, compare
from mmalign.evaluation.preferences import preference_measures, score_pairs
from mmalign.evaluation.scores import Scores, Suite
from mmalign.evaluation.table import scores_table
from mmalign.evaluation.world import WorldSizes, held_out_ids, measures
from mmalign.generate import Prompt, Sampling
from mmalign.messages import parse_messages
from mmalign.template import TemplateName
from mmalign.world.tasks import Task, task

from ..progress import progress_bars

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
    base_answers: Path | None = None,
    attributes: dict[str, int] | None = None,
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
        base_answers: For `world`: a folder where the base's answers are kept, for the evaluations of other adapters to
            share. What is missing there is answered and added; several evaluations may use it at once.
        attributes: For `world`: what to ask an adapter of SteerLM for, such as `{verbosity: 0}`, instead of what its
            export says; those left out stay.
        sizes: For `world`: how many tasks of each sort.
        batch_size: Prompts or pairs that run together; results are written after each batch.
        resamples: Bootstrap draws for the intervals.
        seed: Of the bootstrap.
        overwrite: Drop answers of another model or adapter found in `out` or `base_answers`, instead of refusing to
            mix them.

    Raises:
        FileNotFoundError: No checkpoint, adapter or shards.
        ValueError: They do not fit one another, or `out` holds another evaluation.
    """
    console = Console()
    _check_suite(suite, shards, base_answers, attributes)
    models = BaseAndAligned(
        checkpoint,
        adapter,
        template=template,
        pad_images=pad_images,
        dtype=getattr(torch, dtype),
        attributes=attributes,
    )
    lineage = models.lineage() | {"bootstrap": f"{resamples} resamples, seed {seed}"}
    began = time.perf_counter()
    with progress_bars(console) as progress:
        if shards is not None:
            found = _preference_measures(models, out, shards, batch_size, progress, overwrite=overwrite)
            lineage |= {"shards": shards, "decoding": "none: log-probabilities"}
        else:
            found = _world_measures(models, out, base_answers, sizes, batch_size, progress, overwrite=overwrite)
            lineage |= models.decoding(_greedy()) | {"tasks": "world/heldout"}
        comparisons = [
            compare(measure, resamples=resamples, seed=seed)
            for measure in progress.track(found, description="intervals")
        ]
    scores = Scores(suite=suite, comparisons=tuple(comparisons), lineage=lineage, resamples=resamples, level=LEVEL)
    path = scores.write(out)
    console.print(scores_table(scores))
    console.print(f"{path} and its neighbours, in {time.perf_counter() - began:.0f} s", highlight=False)
    return scores


def _check_suite(
    suite: Suite, shards: str | None, base_answers: Path | None, attributes: Mapping[str, int] | None
) -> None:
    """Raise where an option does not fit `--suite`."""
    if suite == "preferences" and shards is None:
        raise ValueError("`--suite preferences` needs `--shards DIR`: a shard set with pairs to score.")
    if suite == "world" and shards is not None:
        raise ValueError(
            "`--shards` is for `--suite preferences`; the world's tasks are made, not read. Leave one out."
        )
    for name, given in (("--base_answers", base_answers), ("--attributes", attributes)):
        if suite == "preferences" and given is not None:
            raise ValueError(f"`{name}` is for `--suite world`: pairs are scored, not answered. Leave it out.")


def _world_measures(
    models: BaseAndAligned,
    out: Path,
    base_answers: Path | None,
    sizes: WorldSizes,
    batch_size: int,
    progress: Progress,
    *,
    overwrite: bool,
) -> list[Measure]:
    """Let both models answer what is not answered yet, then measure."""
    ids = held_out_ids(sizes)
    identity = models.identity() | models.decoding(_greedy())
    file = RecordFile(out / ANSWERS_FILE, Answer, identity, overwrite=overwrite)
    todo = [task_id for task_id in ids if task_id not in file.records]
    shared: Mapping[str, BaseAnswer] = {}
    if base_answers is not None and todo:
        base_answers.mkdir(parents=True, exist_ok=True)
        with FileLock(base_answers / "lock"):  # whoever comes first answers, the others wait and read
            base_identity = models.base_identity() | {"decoding": _greedy()}
            base_file = RecordFile(base_answers / BASE_ANSWERS_FILE, BaseAnswer, base_identity, overwrite=overwrite)
            _answer_base(models, base_file, todo, batch_size, progress)
            shared = base_file.records
    bar = progress.add_task(
        "answers of the aligned model" if shared else "answers of both models",
        total=len(ids),
        completed=len(ids) - len(todo),
    )
    for chunk in _chunks(todo, batch_size):
        asked = [task(task_id) for task_id in chunk]
        base = [shared[task_id].base for task_id in chunk] if shared else _answers(models, "base", asked, batch_size)
        aligned = _answers(models, "aligned", asked, batch_size)
        file.append(
            [
                Answer(each.id, each.kind, each.question.text, *both)
                for each, *both in zip(asked, base, aligned, strict=True)
            ]
        )
        progress.advance(bar, len(chunk))
    return measures([file.records[task_id] for task_id in ids])


def _greedy() -> str:
    return f"greedy, at most {ANSWER_TOKENS} tokens"


def _answer_base(
    models: BaseAndAligned, file: RecordFile[BaseAnswer], ids: Sequence[str], batch_size: int, progress: Progress
) -> None:
    """Add the base's answers that the file lacks."""
    todo = [task_id for task_id in ids if task_id not in file.records]
    bar = progress.add_task("answers of the base", total=len(ids), completed=len(ids) - len(todo))
    for chunk in _chunks(todo, batch_size):
        answers = _answers(models, "base", [task(task_id) for task_id in chunk], batch_size)
        file.append([BaseAnswer(*both) for both in zip(chunk, answers, strict=True)])
        progress.advance(bar, len(chunk))


def _answers(
    models: BaseAndAligned, who: Literal["base", "aligned"], asked: Sequence[Task], batch_size: int
) -> list[str]:
    prompts = [Prompt(parse_messages(each.messages), tuple(each.images)) for each in asked]
    return models.answer(who, prompts, Sampling(max_new_tokens=ANSWER_TOKENS), batch_size=batch_size)


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


def _chunks(ids: Sequence[str], size: int) -> Iterator[Sequence[str]]:
    for start in range(0, len(ids), size):
        yield ids[start : start + size]


def main(args: Sequence[str] | None = None) -> None:
    """Entry point of `mmalign evaluate`."""
    jsonargparse.set_parsing_settings(docstring_parse_attribute_docstrings=True)
    jsonargparse.auto_cli(
        evaluate, args=None if args is None else list(args), as_positional=False, prog="mmalign evaluate"
    )
