"""Answers a second of `mmalign sample` on the embedded model, at several batch sizes, and whether any answer differs.

    python benchmarks/sampling.py [--prompts 50] [--batch_sizes 1,8,50]

All batch sizes in one run, in turn, so that they share what else the machine does; the ratios are what counts.

Prints a line for each: seconds, answers a second, how many answers differ from those of the first.
"""

import argparse
import tempfile
import time
from pathlib import Path

import torch

from mmalign.data.reader import ShardSet
from mmalign.data.shards import ShardWriter
from mmalign.sampling.answers import Answerer, Drawing, make_batches
from mmalign.sampling.policy import Policy, load_policy
from mmalign.world.prompts import world_prompts


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=50)
    parser.add_argument("--batch_sizes", default="1,8,50")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    options = parser.parse_args()
    policy = load_policy("embedded", dtype=getattr(torch, options.dtype))
    with tempfile.TemporaryDirectory() as folder:
        with ShardWriter(Path(folder) / "prompts") as writer:
            for sample in world_prompts("preference", "preference", options.prompts):
                writer.write(sample)
        source = ShardSet(f"{folder}/prompts")
        answers(policy, source, 8)  # warms up
        first: dict[str, str] = {}
        for size in map(int, options.batch_sizes.split(",")):
            began = time.perf_counter()
            found = answers(policy, source, size)
            seconds = time.perf_counter() - began
            first = first or found
            differing = sum(found[name] != text for name, text in first.items())
            print(
                f"{policy.device}, {options.dtype}, batch size {size}: {len(found)} answers in {seconds:.1f} s, "
                f"{len(found) / seconds:.1f}/s; {differing} differ from the first"
            )


def answers(policy: Policy, source: ShardSet, batch_size: int) -> dict[str, str]:
    """All answers to a shard set, by id."""
    answerer = Answerer(policy, Drawing(model="embedded"))
    batches = make_batches(source.manifest, answerer.drawing.num, batch_size, policy.template.num_image_tokens)
    return {each.id: each.text for batch in batches for each in answerer.answer(source, batch)}


if __name__ == "__main__":
    main()
