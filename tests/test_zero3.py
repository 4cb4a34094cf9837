"""ZeRO-3 on CPU ranks: the production strategy's class trains what one plain process trains, and nothing stays whole.

Ranks are forked from a preloaded process (`ranks.py`); each runs the real command line.
"""

import json
import math
import os
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from mmalign.checkpoint import newest_checkpoint

pytestmark = pytest.mark.slow

STEPS = 5


@pytest.fixture(scope="module")
def options(tiny_args, color_shards):
    """Of all runs: mixed and text-only batches, a projector that trains, recomputed layers, clipping that bites."""
    standing = [
        *("--model.backbone.train_projector=true", "--model.backbone.gradient_checkpointing=true"),
        *(f"--data.val_shards={color_shards}", "--data.micro_batch_size=1", "--checkpoint.every_n_steps=2"),
        *("--trainer.max_epochs=1", "--trainer.gradient_clip_val=0.05"),
    ]
    return ["fit", *tiny_args(*standing)]


def zero3(devices, run_dir):
    return [f"--trainer.devices={devices}", "--trainer.strategy=zero3_cpu", f"--trainer.default_root_dir={run_dir}"]


@pytest.fixture(scope="module")
def plain(ranks, options, tmp_path_factory):
    """The same run in one plain process."""
    run_dir = tmp_path_factory.mktemp("plain")
    ranks.run(1, *options, f"--trainer.default_root_dir={run_dir}")
    return run_dir


def adapter(run_dir):
    return load_file(newest_checkpoint(run_dir) / "adapter.safetensors")


def assert_equal_runs(logged, found, expected, tolerance=5e-6, steps=STEPS):
    losses, wanted = (list(logged(run_dir).values())[:steps] for run_dir in (found, expected))
    assert len(wanted) == steps
    assert losses == pytest.approx(wanted, abs=tolerance)


def assert_equal_adapters(found, expected):
    for name, weights in adapter(expected).items():
        torch.testing.assert_close(adapter(found)[name], weights, rtol=1e-3, atol=1e-5)


def train_and_look(arguments, report):
    """In each rank: train, then look at what is left in memory, and validate in the same process."""
    from mmalign import cli

    run = cli.main(arguments)
    parameters = list(run.model.named_parameters())
    cut = [p for _, p in parameters if hasattr(p, "ds_id")]
    seen = {
        "parameters": len(parameters),
        "cut": len(cut),
        "resident": sum(p.data.numel() for p in cut),
        "held": sum(p.ds_tensor.numel() for p in cut),
        "whole": sum(p.ds_numel for p in cut),
        "in_fit": float(run.trainer.callback_metrics["val/loss"]),
    }
    (scores,) = run.trainer.validate(run.model, datamodule=run.datamodule, verbose=False)
    seen["after_fit"] = scores["val/loss"]
    Path(f"{report}-{os.environ.get('RANK', '0')}").write_text(json.dumps(seen))


@pytest.fixture(scope="module")
def four(ranks, options, tmp_path_factory):
    """The same run on four ranks."""
    folder = tmp_path_factory.mktemp("four")
    ranks.run(4, train_and_look, [*options, *zero3(4, folder / "run")], str(folder / "seen"))
    return folder


def assert_cut(seen, devices):
    """Every parameter is cut, none is whole between steps, and each rank holds its part."""
    assert seen["cut"] == seen["parameters"] > 0
    assert seen["resident"] == 0
    assert seen["held"] <= seen["whole"] / devices + seen["cut"]  # the last part is padded
    assert seen["after_fit"] == pytest.approx(seen["in_fit"], abs=1e-6)


def test_four_ranks_train_what_one_process_trains_and_hold_a_part_only(four, plain, logged):
    """Losses to 5e-6 in float32, ln 2 at first; between steps nothing is whole; validation after fit works."""
    assert logged(four / "run")[0] == pytest.approx(math.log(2), abs=1e-6)
    assert_equal_runs(logged, four / "run", plain)
    assert_equal_adapters(four / "run", plain)
    for rank in range(4):
        assert_cut(json.loads((four / f"seen-{rank}").read_text()), devices=4)
    before, after = (next(iter(logged(run_dir, "val/loss").values())) for run_dir in (four / "run", plain))
    assert before == pytest.approx(after, abs=5e-6)


@pytest.mark.parametrize("devices", [2, 1])
def test_a_checkpoint_of_four_ranks_goes_on_on_fewer(ranks, options, four, plain, logged, tmp_path, devices):
    """From step 2, in the middle of the epoch, moments included: losses and adapter as without a stop."""
    run_dir = tmp_path / "run"
    shutil.copytree(four / "run", run_dir)
    for later in (4, STEPS):
        shutil.rmtree(run_dir / "checkpoints" / f"step-{later:06d}")
    cut = zero3(devices, run_dir) if devices > 1 else [f"--trainer.default_root_dir={run_dir}"]
    ranks.run(devices, train_and_look, [*options, *cut, "--ckpt_path=last"], str(tmp_path / "seen"))
    assert_equal_runs(logged, run_dir, plain)
    assert_equal_adapters(run_dir, plain)
    if devices > 1:
        assert_cut(json.loads((tmp_path / "seen-0").read_text()), devices)


def test_bfloat16_stays_near(ranks, options, plain, logged, tmp_path):
    """Frozen weights in bfloat16, adapters in float32 under autocast: losses to 1e-2."""
    half = ["--model.backbone.dtype=bfloat16", "--trainer.precision=bf16-mixed"]
    ranks.run(2, *options, *half, *zero3(2, tmp_path / "run"))
    assert_equal_runs(logged, tmp_path / "run", plain, tolerance=1e-2)
    assert all(weights.dtype == torch.float32 for weights in adapter(tmp_path / "run").values())


POISONED = '''
import math

from mmalign.methods.dpo import DPO


class Poisoned(DPO):
    """On rank 1 the loss of one micro-batch of step 2 is not a number."""

    def compute_loss(self, batch):
        loss, metrics = super().compute_loss(batch)
        poison = self.training and self.global_rank == 1 and self.global_step == 2
        return (loss * math.nan if poison else loss), metrics
'''


def test_a_loss_that_is_no_number_on_one_rank_leaves_the_step_out_on_all(ranks, options, plain, logged, tmp_path):
    """Two ranks as one process up to there; then the weights stay, bit by bit; the rows are named; on with the next."""
    (tmp_path / "poisoned.py").write_text(POISONED)
    more = [*zero3(2, tmp_path / "run"), "--checkpoint.every_n_steps=1", "--checkpoint.keep_last=4"]
    ranks.run(2, run_poisoned, str(tmp_path), [*options, *more, "--model.class_path=poisoned.Poisoned"])
    assert_equal_runs(logged, tmp_path / "run", plain, steps=2)
    at = {step: load_file(tmp_path / f"run/checkpoints/step-{step:06d}/adapter.safetensors") for step in (2, 3, 4)}
    assert all(torch.equal(at[2][name], at[3][name]) for name in at[2])
    assert any(not torch.equal(at[3][name], at[4][name]) for name in at[3])
    (written,) = (tmp_path / "run/nonfinite").iterdir()
    assert written.name == "step-000002-rank-1.json"
    assert len(json.loads(written.read_text())["keys"]) == 4


def run_poisoned(folder, arguments):
    import sys

    from mmalign import cli

    sys.path.insert(0, folder)
    cli.main(arguments)


def test_the_reference_pass_gives_the_same_store(ranks, options, color_shards, tmp_path):
    """Blocks dealt unevenly to three ranks, text-only samples among them: to 1e-5 what one process computes."""
    from mmalign.data.store import ScoreFile

    stores = {}
    for devices in (1, 3):
        shards = tmp_path / f"shards-{devices}"
        shutil.copytree(color_shards, shards, ignore=shutil.ignore_patterns("reference*"))
        cut = zero3(devices, tmp_path / f"run-{devices}") if devices > 1 else []
        more = [f"--data.shards={shards}", "--data.val_shards=", "--data.batch_size=6", *cut]
        ranks.run(devices, "reference", *options[1:], *more)
        stores[devices] = sorted(shards.rglob("*.arrow"))
    for one, three in zip(stores[1], stores[3], strict=True):
        if one.name == "manifest.arrow":
            continue
        mine, theirs = ScoreFile(three), ScoreFile(one)
        assert len(mine) == len(theirs) > 0
        for number in range(len(mine)):
            for values, expected in zip(mine[number].logps, theirs[number].logps, strict=True):
                torch.testing.assert_close(torch.tensor(values), torch.tensor(expected), rtol=0, atol=1e-5)


def answer_at_the_start(arguments, out):
    """In each rank: before the first step, three prompts on rank 0, none with a picture on the others; then train."""
    from mmalign import cli
    from mmalign.generate import Sampling, generate
    from mmalign.methods.dpo import DPO

    def answer(self):
        asked = prompts() if self.global_rank == 0 else prompts()[:1]
        template = self.trainer.datamodule.template
        answers = generate(self.llava.model, template, asked, Sampling(max_new_tokens=8), batch_size=1)
        Path(f"{out}-{self.global_rank}").write_text(json.dumps(answers))

    DPO.on_train_start = answer
    cli.main(arguments)


def prompts():
    from PIL import Image

    from mmalign.generate import Prompt
    from mmalign.messages import ImageSlot, Message, Text

    red = Image.new("RGB", (64, 64), "red")
    text = Prompt((Message("user", (Text("Sort b a."),)),))
    return [text, *(Prompt((Message("user", (ImageSlot(), Text(said))),), (red,)) for said in ("What?", "Which one?"))]


def test_ranks_generate_together_whatever_each_is_asked(ranks, options, tiny_llava, plain, logged, tmp_path):
    """Unequal numbers of prompts and answers of unequal length: those of the whole model, and training goes on."""
    from mmalign.backbone import load_llava
    from mmalign.generate import Sampling, generate
    from mmalign.processor import load_processor
    from mmalign.template import Template

    arguments = [*options, *zero3(2, tmp_path / "run")]
    ranks.run(2, answer_at_the_start, arguments, str(tmp_path / "answers"))
    whole = load_llava(tiny_llava, dtype=torch.float32), Template(load_processor(tiny_llava), "llava_hf")
    expected = [generate(*whole, [prompt], Sampling(max_new_tokens=8))[0] for prompt in prompts()]
    assert json.loads((tmp_path / "answers-0").read_text()) == expected
    assert json.loads((tmp_path / "answers-1").read_text()) == expected[:1]
    assert_equal_runs(logged, tmp_path / "run", plain)
