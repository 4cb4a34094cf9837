"""Values that run through the steps (BCO's and MPO's shift, KTO's baseline) and means over a whole step.

They must not depend on how a step is cut into micro-batches, and must survive a stop.
"""

import math
import shutil
from pathlib import Path

import pytest
import torch

from mmalign.metrics import Mean, RunningMean, StepMean

RUNNING = ["bco.yaml", "mpo.yaml", "kto.yaml"]
STEP_MEANS = [*RUNNING, "sft.yaml", "steerlm.yaml"]
EXTRA = {"sft.yaml": ["--data.view.model=test"]}


@pytest.mark.slow
@pytest.mark.parametrize("config", STEP_MEANS)
def test_the_cut_into_micro_batches_changes_nothing(fit, logged, adapter_of, tmp_path, config):
    """8 rows at once or 4 times 2, over two epochs: the same losses and weights to float32 rounding."""
    whole, parts = (
        fit(
            *(f"--data.micro_batch_size={size}", "--data.val_shards=", *EXTRA.get(config, [])),
            config=config,
            run_dir=tmp_path / str(size),
        )
        for size in (8, 2)
    )
    a, b = logged(tmp_path / "8"), logged(tmp_path / "2")
    assert a.keys() == b.keys()
    assert all(math.isclose(a[step], b[step], rel_tol=1e-3) for step in a)
    expected, found = adapter_of(whole), adapter_of(parts)
    for name in expected:
        torch.testing.assert_close(expected[name], found[name], rtol=1e-2, atol=5e-4)


@pytest.mark.slow
@pytest.mark.parametrize("config", ["bco.yaml", "mpo.yaml"])
def test_the_shift_is_the_mean_reward_of_the_steps_before(fit, logged, tmp_path, config):
    """Worked from the log: after the run it is the mean over all steps of the mean over chosen and rejected."""
    trained = fit(config=config)
    chosen, rejected = (logged(tmp_path / "run", f"train/{role}_rewards") for role in ("chosen", "rejected"))
    rewards = [(chosen[step] + rejected[step]) / 2 for step in chosen]
    assert abs(sum(rewards)) > 1e-3, "otherwise this shows nothing"
    assert float(trained.model.shift.value) == pytest.approx(sum(rewards) / len(rewards), rel=1e-4)


@pytest.mark.slow
def test_the_baseline_is_that_of_the_step_before(fit, logged, tmp_path):
    """Never below 0, 0 at the start."""
    fit("--trainer.max_epochs=3", config="kto.yaml")
    baseline, ratios = (logged(tmp_path / "run", f"train/{name}") for name in ("baseline", "mismatched_log_ratio"))
    steps = sorted(baseline)
    assert baseline[steps[0]] == 0
    assert [baseline[step] for step in steps[1:]] == pytest.approx([max(0, ratios[step]) for step in steps[:-1]])
    assert any(ratios.values())


@pytest.mark.slow
@pytest.mark.parametrize("config", RUNNING)
def test_stopped_and_resumed_equals_never_stopped(fit, logged, adapter_of, tmp_path, config):
    """The running value is part of the checkpoint."""
    options = ("--checkpoint.every_n_steps=1", "--checkpoint.keep_last=20", "--model.backbone.lora_dropout=0.1")
    whole = fit(*options, config=config, run_dir=tmp_path / "whole")
    stopped = Path(shutil.copytree(tmp_path / "whole", tmp_path / "cut")) / "checkpoints/step-000004"
    for path in tmp_path.glob("cut/logs/*/metrics.csv"):  # or what the resumed run does not log would be found there
        lines = path.read_text().splitlines(keepends=True)
        step = lines[0].strip().split(",").index("step")
        path.write_text("".join([lines[0], *(line for line in lines[1:] if int(line.split(",")[step]) < 4)]))
    resumed = fit(*options, f"--ckpt_path={stopped}", config=config, run_dir=tmp_path / "cut")
    assert logged(tmp_path / "cut") == logged(tmp_path / "whole")
    expected, found = whole.model.state_dict(), resumed.model.state_dict()
    assert any(not name.startswith("llava.") for name in expected)
    assert all(torch.equal(expected[name], found[name]) for name in expected)


def test_a_step_mean_weighs_its_parts():
    """1 of weight 1 and 3 of weight 9: 2.8, not 2; a part of weight 0 counts nothing."""
    mean = StepMean()
    for value, weight in ((1.0, 1.0), (3.0, 9.0), (100.0, 0.0)):
        mean.update(Mean(torch.tensor(value), torch.tensor(weight)))
    assert float(mean.compute()) == pytest.approx(2.8)
    nothing = StepMean()
    nothing.update(Mean(torch.tensor(0.0), torch.tensor(0.0)))
    assert math.isnan(nothing.compute())


def test_a_running_mean_by_hand():
    """1, then 2, then a step where nothing counted, then 6: means 1, 1.5, 1.5, 3."""
    mean, seen = RunningMean(), []
    for value in (1.0, 2.0, math.nan, 6.0):
        mean.update(torch.tensor(value))
        seen.append(float(mean.value))
    assert seen == [1.0, 1.5, 1.5, 3.0]
