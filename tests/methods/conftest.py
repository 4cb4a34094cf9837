"""A small shard set of judged answers, and `mmalign fit` on it by the user's door."""

from pathlib import Path

import pytest

from mmalign import cli
from mmalign.data.sample import Response, Sample
from mmalign.data.shards import ShardWriter
from mmalign.messages import ImageSlot, Message, Text

COLORS = ("red", "green", "blue", "yellow")


def judged(text, score):
    ratings = {"helpfulness": score, "correctness": score, "coherence": 4, "complexity": 1, "verbosity": 1}
    return Response(text=text, model="test", ratings=ratings)


@pytest.fixture(scope="session")
def color_shards(tmp_path_factory, png):
    """40 samples: one picture, no picture, two pictures, several turns; two rated answers of different lengths."""
    folder = tmp_path_factory.mktemp("shards") / "colors"
    with ShardWriter(folder, max_samples=16) as writer:
        for i in range(40):
            right, wrong = COLORS[i % 4], COLORS[(i + 1) % 4]
            kind = i % 5
            pictures = () if kind == 3 else (png(right), png(wrong)) if kind == 4 else (png(right),)
            slots = tuple(ImageSlot() for _ in pictures)
            messages = (Message("user", (*slots, Text(f"Which colour, {i}?"))),)
            if kind == 2:
                messages += (Message("assistant", (Text("Let me see."),)), Message("user", (Text("So?"),)))
            answers = (judged(f"It is {right}.", 4), judged(f"It is {wrong}, a very bright {wrong}.", 1))
            writer.write(Sample(key=f"{i:04d}", messages=messages, images=pictures, responses=answers, source="test"))
    return folder


@pytest.fixture(scope="session")
def fit_into(tiny_llava, color_shards):
    """Run `mmalign fit` with dpo.yaml and the tiny overlay on the colour shards; options win over all."""

    def run(run_dir: Path, *options: str):
        return cli.main(
            [
                "fit",
                "--config=dpo.yaml",
                "--config=scale/tiny.yaml",
                f"--model.backbone.checkpoint={tiny_llava}",
                "--model.backbone.lora_rank=4",
                f"--data.shards={color_shards}",
                f"--data.val_shards={color_shards}",
                "--data.batch_size=8",
                "--data.micro_batch_size=4",
                f"--trainer.default_root_dir={run_dir}",
                "--trainer.max_epochs=2",
                "--trainer.enable_progress_bar=false",
                "--trainer.enable_model_summary=false",
                *options,
            ]
        )

    return run


@pytest.fixture
def fit(fit_into, tmp_path):
    """The same, into this test's own directory."""

    def run(*options: str, run_dir: Path = tmp_path / "run"):
        return fit_into(run_dir, *options)

    return run
