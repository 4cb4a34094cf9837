"""`mmalign plan` on a machine without the GPUs that it plans for."""

import json

import pytest

from mmalign import cli
from mmalign.tools.plan.duration import logged_rate


@pytest.fixture
def plan(tmp_path, monkeypatch, capsys):
    """Run the command; its text, its JSON and its exit code."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)

    def run(*options):
        code = 0
        try:
            cli.main(["plan", *options, f"--json={tmp_path / 'plan.json'}"])
        except SystemExit as stop:
            code = stop.code
        return capsys.readouterr().out, json.loads((tmp_path / "plan.json").read_text()), code

    return run


def test_four_gpus_are_planned_without_one(plan):
    text, found, code = plan("--config=dpo.yaml", "--config=scale/four_gpus.yaml", "--trainer.max_steps=100")
    assert code == 0
    assert found["placement"] == {"sharding": "zero3", "ranks": 4}
    assert found["parameters"]["frozen"] == 13_351_494_656
    for part in ("gpu", "host", "disk"):
        assert found[part]["sum"] == sum(item["bytes"] for item in found[part]["items"])
    assert found["gpu"]["sum"] < found["gpu"]["there"] == 80e9
    assert found["time"]["hours"] == pytest.approx(100 * found["time"]["step_s"] / 3600)
    assert "mmalign's description" in text
    assert "supposed" in text


def test_too_small_a_gpu_ends_with_an_error_and_what_to_change(plan):
    text, found, code = plan("--config=dpo.yaml", "--config=scale/one_gpu.yaml", "--gpu_gb=40")
    assert code == 1
    (lack,) = found["lacks"]
    assert "has 40.0 GB" in lack
    assert "--data.micro_batch_size 1" in lack
    assert "does not fit" in text


def test_the_embedded_run_is_planned_by_its_rows_and_a_measured_speed(plan, tmp_path):
    logs = tmp_path / "trial/logs/version_0"
    logs.mkdir(parents=True)
    (logs / "metrics.csv").write_text("step,train/flops_per_s\n0,1e9\n1,\n2,3e9\n3,2e9\n")
    options = ["--config=dpo.yaml", "--config=scale/tiny.yaml", f"--measured={tmp_path / 'trial'}"]
    text, found, code = plan(*options, f"--trainer.default_root_dir={tmp_path / 'run'}")
    assert (code, found["time"]["flops_per_s"]) == (0, 2e9)
    assert found["time"]["steps"] == 2 * 18, "278 rows in steps of 16, two epochs"
    assert "longest of 278 rows" in text


def test_a_run_without_logs_has_no_speed(tmp_path):
    with pytest.raises(FileNotFoundError, match="--mfu"):
        logged_rate(tmp_path)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--trainer.strategy=xla"], "No plan is known for `trainer.strategy` xla"),
        (["--model.beeta=1"], "beeta"),
        (["--mfu=40"], r"\(0, 1\], got 40"),
        (["--data.batch_size=100"], "100"),
    ],
)
def test_bad_input_is_told(plan, options, told):
    with pytest.raises(ValueError, match=told):
        plan("--config=dpo.yaml", "--config=scale/four_gpus.yaml", *options)
