"""Build the embedded world's preference shards: prompts, four sampled answers each, exact ratings; and the teacher's.

    python -m mmalign.tools.build_world_shards --checkpoint embedded --shards shards

Writes `world` (the training set of the demo) and `world-heldout` (its validation set). Answers are sampled at the
paper's temperature, each with a seed made from its task's id and its number, so a second build gives the same bytes.
Last of each sample stands the teacher's answer, right and in a foreign style, for SFT. It has no ratings, so every view
that goes by ratings passes over it.

Tests   tests/world/test_build_world_shards.py
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch

from mmalign.data.sample import Response, Sample
from mmalign.data.shards import ShardWriter
from mmalign.generate import Prompt, Sampling, generate
from mmalign.processor import open_image
from mmalign.sampling.policy import Policy, load_policy
from mmalign.sampling.seeds import answer_seed
from mmalign.world.judge import WorldJudge
from mmalign.world.measures import describe_counts
from mmalign.world.prompts import prompt_of
from mmalign.world.scene import Split
from mmalign.world.tasks import Task, task, tasks
from mmalign.world.teacher import TEACHER, teacher_answer

NUM_ANSWERS = 4
PAIR_MARGIN = 2
"""Points of helpfulness + correctness + coherence between chosen and rejected, the paper's rule."""
_SAMPLING = Sampling(max_new_tokens=160, temperature=0.7)


class ShardSet(NamedTuple):
    """A folder of shards to build."""

    name: str
    split: Split
    num_prompts: int


SETS = (ShardSet("world", "preference", 500), ShardSet("world-heldout", "heldout", 100))


def build(
    shards: Path, checkpoint: str = "embedded", threads: int = 2, scale: float = 1.0, num_held_back: int = 2000
) -> None:
    """Sample, judge and write both shard sets.

    Args:
        shards: Folder that gets `world` and `world-heldout`.
        checkpoint: The model that answers.
        threads: Threads of torch; the same number gives the same bytes.
        scale: Share of the prompts, for trials.
        num_held_back: First held-out task used; the ones before are for the evaluation.
    """
    torch.set_num_threads(threads)
    policy = load_policy(checkpoint)
    for each in SETS:
        num = max(1, round(each.num_prompts * scale))
        skipped = num_held_back if each.split == "heldout" else 0
        asked = [task(task_id) for task_id in tasks(each.split, "preference", skipped + num)[skipped:]]
        answers = sample_answers(policy, asked)
        samples = [judged_sample(*pair, model=checkpoint) for pair in zip(asked, answers, strict=True)]
        with ShardWriter(shards / each.name) as writer:
            for sample in samples:
                writer.write(sample)
        print(f"{each.name}: {len(samples)} prompts; {_summary(asked, samples)}", flush=True)


def sample_answers(policy: Policy, asked: Sequence[Task]) -> list[list[str]]:
    """`NUM_ANSWERS` answers to each task."""
    prompts = []
    for sample in map(prompt_of, asked):
        images = tuple(open_image(data, where=sample.id) for data in sample.images)
        prompts += [Prompt(sample.messages, images, seed) for seed in answer_seeds(sample.id)]
    answers = generate(policy.model, policy.template, prompts, _SAMPLING, batch_size=32)
    return [answers[start : start + NUM_ANSWERS] for start in range(0, len(answers), NUM_ANSWERS)]


def answer_seeds(task_id: str) -> list[int]:
    """The seeds of a task's answers."""
    return [answer_seed(task_id, number) for number in range(NUM_ANSWERS)]


def judged_sample(each: Task, answers: Sequence[str], model: str) -> Sample:
    """The record of a task with its answers, their ratings, and the teacher's answer."""
    responses = []
    for text, seed in zip(answers, answer_seeds(each.id), strict=True):
        ratings = WorldJudge().rate(each, text)
        sampling = {"temperature": _SAMPLING.temperature, "seed": seed}
        responses.append(
            Response(text=text, model=model, sampling=sampling, ratings=ratings.scores(), rationale=ratings.rationale)
        )
    responses.append(Response(text=teacher_answer(each), model=TEACHER))
    return replace(prompt_of(each), responses=tuple(responses))


def _summary(asked: Sequence[Task], samples: Sequence[Sample]) -> str:
    """Whether alignment has something to mend: prompts with a pair, and what tells chosen from rejected."""
    described = [pair for pair in zip(asked, samples, strict=True) if pair[0].form == "describe"]
    gaps = [(each, *_best_and_worst(sample)) for each, sample in described]
    pairs = [gap for gap in gaps if _quality(gap[1]) - _quality(gap[2]) >= PAIR_MARGIN]
    fewer = sum(_num_false(t, chosen) < _num_false(t, rejected) for t, chosen, rejected in pairs)
    share = len(pairs) / max(1, len(described))
    return f"{share:.0%} of descriptions have a pair; in {fewer} of {len(pairs)} the chosen one claims less falsely"


def _best_and_worst(sample: Sample) -> tuple[Response, Response]:
    ranked = sorted((response for response in sample.responses if response.ratings), key=_quality)
    return ranked[-1], ranked[0]


def _quality(response: Response) -> float:
    return float(sum(response.ratings[name] for name in ("helpfulness", "correctness", "coherence")))


def _num_false(each: Task, response: Response) -> int:
    return describe_counts(each, response.text).num_false


def main(argv: list[str] | None = None) -> None:
    """Command line."""
    from jsonargparse import auto_cli

    auto_cli(build, args=argv, as_positional=False)


if __name__ == "__main__":
    main()
