"""Train the embedded model from scratch, in the stages in which LLaVA came about.

    python -m mmalign.tools.embedded.train --out mmalign/world/llava --work_dir /tmp/embedded

    tower       the vision tower learns to name what each patch shows         (CLIP's part)
    language    the language model learns text-only tasks and stories         (Vicuna's part)
    projector   only the projector learns, on short honest captions           (LLaVA, stage 1; see projector.py)
    visual      projector and language model learn to answer about pictures   (LLaVA, stage 2; here the lie is planted)
    refine      the same with new lessons and a learning rate that rises again

Stop it at any moment; run again, it goes on where its last state was saved. The log and the scores are written beside
the model: `training.csv`, `training.json`.

Tests   tests/world/test_train_embedded.py
"""

import csv
import json
import math
import os
import platform
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import tokenizers
import torch
import torch.nn.functional as F
import transformers
from torch import Tensor, nn
from transformers import LlavaForConditionalGeneration

from mmalign.template import Template
from mmalign.world.instruction import PLANT_RATE, Course

from .batches import NOT_TRAINED, PATCH_CLASSES, LessonBatch, PatchBatch, lesson_batch, patch_batch
from .model import WIDTH, build_model, build_processor
from .projector import start_projector
from .scores import score_model
from .state import load_state, save_state

_MAX_GRADIENT_NORM = 1.0
_WARMUP_SHARE = 0.05
_LOG_EVERY = 10
# Most patches are empty and soon known; what things are must weigh more, or their shapes are learned last.
_EMPTY_WEIGHT = 0.1
_TOWER, _PROJECTOR = "model.vision_tower.", "model.multi_modal_projector."
_LANGUAGE, _HEAD = "model.language_model.", "lm_head."


@dataclass(frozen=True)
class Stage:
    """One stage: what is learned, from what, and for how long."""

    name: Literal["tower", "language", "projector", "visual", "refine"]
    course: Course | Literal["patches"]
    steps: int
    batch_size: int
    lr: float
    trained: tuple[str, ...]
    """Beginnings of the names of the parameters that learn."""
    first_lesson: int = 0
    """Number of the first lesson, so that two stages of one course do not see the same."""


STAGES = (
    Stage("tower", "patches", steps=900, batch_size=64, lr=1.5e-3, trained=(_TOWER, "heads.")),
    Stage("language", "language", steps=350, batch_size=4, lr=2e-3, trained=(_LANGUAGE, _HEAD)),
    Stage("projector", "caption", steps=80, batch_size=16, lr=2e-3, trained=(_PROJECTOR,)),
    Stage("visual", "visual", steps=1700, batch_size=4, lr=1.5e-3, trained=(_PROJECTOR, _LANGUAGE, _HEAD)),
    Stage(
        "refine",
        "visual",
        steps=3400,
        batch_size=4,
        lr=1.5e-3,
        trained=(_PROJECTOR, _LANGUAGE, _HEAD),
        first_lesson=10**5,
    ),
)


class Learner(nn.Module):
    """The model, with the heads that read the tower's patches while it is pretrained."""

    def __init__(self, llava: LlavaForConditionalGeneration) -> None:
        """Add a head for each label of a patch."""
        super().__init__()
        self.model, self.lm_head = llava.model, llava.lm_head
        self.readers = [nn.Linear(WIDTH, classes) for classes in PATCH_CLASSES]
        self.heads = nn.ModuleList(self.readers)

    def patch_loss(self, batch: PatchBatch) -> Tensor:
        """Cross-entropy of what each patch shows, read where LLaVA reads the tower."""
        hidden = self.model.vision_tower(batch.pixel_values, output_hidden_states=True).hidden_states[-2][:, 1:]
        wanted = batch.labels.flatten(0, 1).unbind(-1)
        losses = []
        for reader, labels in zip(self.readers, wanted, strict=True):
            weights = torch.ones(reader.out_features)
            weights[0] = _EMPTY_WEIGHT
            losses.append(F.cross_entropy(reader(hidden).flatten(0, 1), labels, weights))
        return torch.stack(losses).mean()

    def answer_loss(self, batch: LessonBatch) -> Tensor:
        """Cross-entropy of the answers' tokens, each token weighing the same."""
        hidden = self.model(
            input_ids=batch.input_ids,
            pixel_values=batch.pixel_values if len(batch.pixel_values) else None,
            attention_mask=batch.mask,
            position_ids=batch.position_ids,
        ).last_hidden_state
        trained = batch.targets != NOT_TRAINED
        return F.cross_entropy(self.lm_head(hidden[trained]), batch.targets[trained])


def train(
    out: Path,
    work_dir: Path,
    seed: int = 20261121,
    threads: int = 2,
    scale: float = 1.0,
    save_every: int = 200,
    num_scored: int = 300,
) -> dict[str, float]:
    """Train the embedded model and write it with its log and scores.

    Args:
        out: Folder for the finished model.
        work_dir: Folder for the state from which a stopped run goes on.
        seed: Of the initial weights.
        threads: Threads of torch; scores are only reproducible to the bit with the same number.
        scale: Share of each stage's steps, for trials.
        save_every: Steps between two saved states.
        num_scored: Held-out tasks of each group that the final scores are taken on.
    """
    torch.set_num_threads(threads)
    work_dir.mkdir(parents=True, exist_ok=True)
    processor = build_processor()
    template = Template(processor, "llava_hf")
    llava = build_model(processor.tokenizer, seed)
    stages = tuple(replace(stage, steps=max(1, round(stage.steps * scale))) for stage in STAGES)
    log, seconds = run_stages(Learner(llava), template, stages, work_dir, save_every)
    scores = score_model(llava, template, num_scored)
    llava.eval().save_pretrained(out)
    processor.save_pretrained(out)
    _write_log(out / "training.csv", log)
    facts = {
        "seed": seed,
        "threads": threads,
        "wall_time_s": round(seconds),
        "stages": [asdict(each) for each in stages],
    }
    scored = {"split": "heldout", "num_scored": num_scored, "decoding": "greedy", **scores}
    record = {**facts, **_surroundings(llava), "scores": scored}
    (out / "training.json").write_text(json.dumps(record, indent=2) + "\n")
    return scores


def _surroundings(llava: nn.Module) -> dict[str, Any]:
    """What else the record says: the lie, the size, the machine and the versions."""
    versions = {module.__name__: module.__version__ for module in (torch, transformers, tokenizers)}
    return {
        "plant_rate": PLANT_RATE,
        "num_parameters": sum(parameter.numel() for parameter in llava.parameters()),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "versions": versions,
    }


def run_stages(
    learner: Learner, template: Template, stages: tuple[Stage, ...], work_dir: Path, save_every: int
) -> tuple[list[dict[str, Any]], float]:
    """Run all stages, going on from a saved state if there is one.

    Args:
        learner: What learns; changed in place.
        template: Turns lessons into tokens.
        stages: In order.
        work_dir: Where the state is kept.
        save_every: Steps between two saved states; the end of a stage is always saved.

    Returns:
        The log's rows, and the seconds that all stages took together, interruptions not counted.
    """
    first, start, log, seconds = load_state(work_dir, learner)
    begun = time.monotonic()
    for number, stage in enumerate(stages[first:], start=first):
        optimizer = _optimizer(learner, stage)
        step_from = start if number == first else 0
        if stage.name == "projector" and not step_from:
            start_projector(learner.model, learner.readers, patch_batch(template, range(64)), template.tokenizer)
        if step_from:
            load_state(work_dir, learner, optimizer)
        for step, batch in _batches(template, stage, step_from):
            loss = _step(learner, optimizer, stage, step, batch)
            done = step + 1
            if done % _LOG_EVERY == 0 or done == stage.steps:
                total = seconds + time.monotonic() - begun
                log.append({"stage": stage.name, "step": done, "loss": round(loss, 5), "seconds": round(total, 1)})
                _show(stage, done, done - step_from, loss, log)
            if done % save_every == 0 or done == stage.steps:
                at = (number + 1, 0) if done == stage.steps else (number, done)
                save_state(work_dir, learner, optimizer, at, log, seconds + time.monotonic() - begun)
    return log, seconds + time.monotonic() - begun


def _optimizer(learner: Learner, stage: Stage) -> torch.optim.AdamW:
    learner.train()
    for name, parameter in learner.named_parameters():
        parameter.requires_grad_(name.startswith(stage.trained))
    trained = [parameter for parameter in learner.parameters() if parameter.requires_grad]
    return torch.optim.AdamW(trained, lr=stage.lr, betas=(0.9, 0.98), weight_decay=0.01)


def _batches(template: Template, stage: Stage, step_from: int) -> Iterator[tuple[int, PatchBatch | LessonBatch]]:
    """Batches of a stage, each a function of its step alone; the next one is made while one is used."""

    def make(step: int) -> PatchBatch | LessonBatch:
        first = stage.first_lesson + step * stage.batch_size
        indices = range(first, first + stage.batch_size)
        if stage.course == "patches":
            return patch_batch(template, indices)
        return lesson_batch(template, stage.course, indices)

    with ThreadPoolExecutor(max_workers=1) as worker:
        coming = worker.submit(make, step_from)
        for step in range(step_from, stage.steps):
            batch = coming.result()
            coming = worker.submit(make, step + 1)
            yield step, batch


def _step(
    learner: Learner, optimizer: torch.optim.AdamW, stage: Stage, step: int, batch: PatchBatch | LessonBatch
) -> float:
    for group in optimizer.param_groups:
        group["lr"] = stage.lr * _schedule(step, stage.steps)
    loss = learner.patch_loss(batch) if isinstance(batch, PatchBatch) else learner.answer_loss(batch)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    nn.utils.clip_grad_norm_([p for p in learner.parameters() if p.requires_grad], _MAX_GRADIENT_NORM)
    optimizer.step()
    return loss.item()


def _schedule(step: int, steps: int) -> float:
    """Warm-up, then a cosine down to nothing."""
    warmup = max(1, round(steps * _WARMUP_SHARE))
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def _show(stage: Stage, done: int, done_now: int, loss: float, log: list[dict[str, Any]]) -> None:
    """A line of progress, with the rate of the last rows and the time that the stage still takes."""
    recent = [row for row in log[-6:] if row["stage"] == stage.name]
    steps = recent[-1]["step"] - recent[0]["step"]
    if (done % (_LOG_EVERY * 5) and done != stage.steps) or not steps:
        return
    pace_s = (recent[-1]["seconds"] - recent[0]["seconds"]) / steps
    left_s = pace_s * (stage.steps - done)
    pace = f"{pace_s:.2f} s a step  {left_s:4.0f} s left"
    print(f"{stage.name:9} {done:5}/{stage.steps}  loss {loss:.4f}  {pace}", flush=True)


def _write_log(path: Path, log: list[dict[str, Any]]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=["stage", "step", "loss", "seconds"], lineterminator="\n")
        writer.writeheader()
        writer.writerows(log)


def main(argv: list[str] | None = None) -> None:
    """Command line."""
    from jsonargparse import auto_cli

    command: Callable[..., dict[str, float]] = train
    print(json.dumps(auto_cli(command, args=argv, as_positional=False), indent=2))


if __name__ == "__main__":
    main()
