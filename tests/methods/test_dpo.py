"""DPO through the door a user comes in by: YAML files and the command line."""

import csv
import math

import pytest
import torch

from mmalign.backbone import BackboneSettings
from mmalign.checkpoint import newest_checkpoint
from mmalign.data.collate import Collator
from mmalign.methods.base import OptimSettings
from mmalign.methods.dpo import DPO
from mmalign.preflight import PreflightError

RESUME_OPTIONS = ("--model.backbone.lora_dropout=0.3", "--checkpoint.every_n_steps=1", "--checkpoint.keep_last=20")


def test_training_moves_only_the_adapters_and_lowers_the_loss(fit, tmp_path, logged):
    cli = fit("--trainer.max_epochs=3")
    assert {name.split(".")[-3] for name in cli.model.llava.trainable_names()} == {"lora_A", "lora_B"}
    losses = [float(v) for v in logged(tmp_path / "run").values()]
    assert math.isclose(losses[0], math.log(2), abs_tol=1e-6)
    assert losses[-1] < losses[0]
    assert float(cli.trainer.callback_metrics["val/reward_accuracy"]) > 0.9


def test_everything_people_expect_is_logged(fit, tmp_path):
    """One row of the CSV holds each scalar of the list in metrics.py; TensorBoard has its file."""
    fit("--trainer.max_epochs=1")
    with next(tmp_path.glob("run/logs/version_0/metrics.csv")).open() as file:
        columns = set(next(csv.reader(file)))
    both = ["loss", "preference_accuracy", "truncated"]
    both += [f"reward_{name}" for name in ("margin", "accuracy")]
    both += [f"{role}_{name}" for role in ("chosen", "rejected") for name in ("rewards", "logps", "length")]
    assert {f"train/{name}" for name in [*both, "refused", "tokens_per_s"]} <= columns
    assert {f"val/{name}" for name in both} <= columns
    assert list(tmp_path.glob("run/logs/version_0/events.out.tfevents*"))


def test_two_runs_with_one_seed_are_identical(fit, tmp_path, logged, adapter_of):
    """Bit for bit, with dropout."""
    options = ("--model.backbone.lora_dropout=0.3", "--trainer.max_epochs=1")
    first = adapter_of(fit(*options, run_dir=tmp_path / "a"))
    second = adapter_of(fit(*options, run_dir=tmp_path / "b"))
    assert logged(tmp_path / "a") == logged(tmp_path / "b")
    assert all(torch.equal(first[name], second[name]) for name in first)


class CrashError(RuntimeError):
    """What a machine that dies looks like from inside."""


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory, fit_into, adapter_of):
    """A run of ten steps that nothing disturbs, with dropout: its directory and its weights."""
    run_dir = tmp_path_factory.mktemp("whole")
    return run_dir, adapter_of(fit_into(run_dir, *RESUME_OPTIONS))


@pytest.mark.parametrize("micro_batches", [3, 10, 15])
def test_stopped_and_resumed_equals_never_stopped(
    fit_into, whole_run, tmp_path, monkeypatch, micro_batches, logged, adapter_of
):
    """Dead within a step, at an epoch's end (five steps of two micro-batches), later: same losses, same weights."""
    compute_loss, seen = DPO.compute_loss, []

    def mortal(self, batch):
        seen.append(self.training)
        if sum(seen) > micro_batches:
            raise CrashError
        return compute_loss(self, batch)

    monkeypatch.setattr(DPO, "compute_loss", mortal)
    with pytest.raises(CrashError):
        fit_into(tmp_path, *RESUME_OPTIONS)
    monkeypatch.undo()
    assert newest_checkpoint(tmp_path).name == f"step-{micro_batches // 2:06d}"
    resumed = fit_into(tmp_path, *RESUME_OPTIONS, "--ckpt_path=last")
    run_dir, expected = whole_run
    assert resumed.trainer.global_step == 10
    assert logged(tmp_path) == logged(run_dir)
    found = adapter_of(resumed)
    assert all(torch.equal(expected[name], found[name]) for name in expected)


def test_a_run_that_max_steps_ended_within_an_epoch_goes_on_from_there(fit_into, whole_run, tmp_path, logged):
    """Seven of ten steps, in epochs of five: resumed without the limit, it ends where the whole run does.

    The schedule of the first part is shorter, so the weights are others; the rows and the steps are not.
    """
    fit_into(tmp_path, "--trainer.max_steps=7")
    resumed = fit_into(tmp_path, "--ckpt_path=last", "--checkpoint.allow_drift=[trainer.max_steps]")
    assert resumed.trainer.global_step == 10
    assert list(logged(tmp_path)) == list(logged(whole_run[0]))


def test_accumulation_changes_nothing(fit, tmp_path, logged, adapter_of):
    """8 rows at once or 4 times 2: the same losses and weights to float32 rounding."""
    whole = fit("--data.micro_batch_size=8", "--trainer.max_epochs=1", run_dir=tmp_path / "a")
    parts = fit("--data.micro_batch_size=2", "--trainer.max_epochs=1", run_dir=tmp_path / "b")
    a, b = logged(tmp_path / "a"), logged(tmp_path / "b")
    assert a.keys() == b.keys()
    assert all(math.isclose(float(a[step]), float(b[step]), rel_tol=1e-4) for step in a)
    expected, found = adapter_of(whole), adapter_of(parts)
    for name in expected:
        torch.testing.assert_close(expected[name], found[name], rtol=1e-3, atol=1e-4)


def test_checkpoints_hold_the_adapters_only(fit, tmp_path):
    from safetensors.torch import load_file

    fit("--trainer.max_epochs=1")
    newest = newest_checkpoint(tmp_path / "run")
    assert all("lora_" in name for name in load_file(newest / "adapter.safetensors"))


def test_the_projector_trains_with_its_own_rate_where_asked(fit):
    cli = fit("--model.backbone.train_projector=true", "--model.optim.projector_lr=3e-5", "--trainer.max_epochs=1")
    names = cli.model.llava.trainable_names()
    assert any("multi_modal_projector.modules_to_save" in name for name in names)
    assert not any("vision_tower" in name or "lm_head" in name for name in names)
    rates = [group["initial_lr"] for group in cli.trainer.optimizers[0].param_groups]
    assert rates == [1.5e-3, 3e-5]


def test_label_smoothing_and_averaging_are_obeyed(fit, tmp_path, logged):
    """Averaged log-probabilities are per token; smoothed losses can't fall below the entropy of the noise."""
    fit("--model.average_logps=true", "--trainer.max_epochs=1", run_dir=tmp_path / "mean")
    fit("--trainer.max_epochs=1", run_dir=tmp_path / "sum")
    ratio = {name: float(logged(tmp_path / name, "train/chosen_logps")[0]) for name in ("mean", "sum")}
    length = float(logged(tmp_path / "sum", "train/chosen_length")[0])
    assert ratio["sum"] / ratio["mean"] == pytest.approx(length, rel=0.2)
    fit("--model.label_smoothing=0.2", "--trainer.max_epochs=2", "--model.beta=2", run_dir=tmp_path / "smooth")
    floor = -(0.2 * math.log(0.2) + 0.8 * math.log(0.8))
    assert min(float(v) for v in logged(tmp_path / "smooth").values()) > floor - 1e-3


def test_bf16_is_close_to_float32(fit, tmp_path, logged):
    """dpo.yaml's precision, on the CPU: bf16 weights, float32 adapters and projector; losses to 1e-2."""
    fit("--model.backbone.train_projector=true", "--trainer.max_epochs=1", run_dir=tmp_path / "float32")
    cli = fit(
        "--model.backbone.train_projector=true",
        "--model.backbone.dtype=bfloat16",
        "--trainer.precision=bf16-mixed",
        "--trainer.max_epochs=1",
        run_dir=tmp_path / "bf16",
    )
    assert {p.dtype for p in cli.model.parameters() if p.requires_grad} == {torch.float32}
    assert {p.dtype for p in cli.model.parameters() if not p.requires_grad} == {torch.bfloat16}
    exact, found = ([float(v) for v in logged(tmp_path / name).values()] for name in ("float32", "bf16"))
    assert found == pytest.approx(exact, abs=1e-2)


@pytest.mark.parametrize(
    ("option", "says"),
    [
        ("beta=-1", "`model.beta` must be above 0"),
        ("segment_weight=0.5", "at least 1"),
        ("label_smoothing=0.5", r"\[0, 0.5\)"),
    ],
)
def test_bad_hyperparameters_say_what_to_do(option, says):
    name, value = option.split("=")
    with pytest.raises(ValueError, match=says):
        DPO(BackboneSettings(checkpoint="unread"), OptimSettings(lr=1.0), **{name: float(value)})


def test_preflight_stops_a_reference_that_is_not_the_start(fit, monkeypatch):
    """An adapter that does not start at zero, as PEFT under a sharded init can leave it."""
    from mmalign import backbone

    build = backbone.get_peft_model

    def nonzero(base, lora):
        model = build(base, lora)
        for name, p in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(p, std=0.3)
        return model

    monkeypatch.setattr(backbone, "get_peft_model", nonzero)
    with pytest.raises(PreflightError, match=r"The first loss is .* policy and reference differ"):
        fit()


def test_preflight_stops_a_model_that_does_not_see(fit, monkeypatch):
    """Pixels that never reach the language model."""
    from transformers.models.llava.modeling_llava import LlavaMultiModalProjector

    monkeypatch.setattr(LlavaMultiModalProjector, "forward", lambda self, x: self.linear_2(self.linear_1(0 * x)))
    with pytest.raises(PreflightError, match="Other pictures give the same log-probabilities"):
        fit("--model.reference=live")


def test_preflight_stops_wrong_targets(fit, monkeypatch):
    """The classic silent mask bug: targets shifted by one."""
    collate = Collator.__call__

    def shifted(self, rows):
        batch = collate(self, rows)
        return batch._replace(targets=batch.targets.roll(1))

    monkeypatch.setattr(Collator, "__call__", shifted)
    with pytest.raises(PreflightError, match="the trained tokens decode to"):
        fit("--model.reference=live")


def test_preflight_stops_when_more_than_adapters_train(fit, monkeypatch):
    from mmalign import backbone

    build = backbone.get_peft_model

    def thawed(base, lora):
        model = build(base, lora)
        model.get_base_model().lm_head.weight.requires_grad_(True)
        return model

    monkeypatch.setattr(backbone, "get_peft_model", thawed)
    with pytest.raises(PreflightError, match=r"Trainable parameters beside the adapters.*lm_head"):
        fit()


def test_preflight_stops_when_no_row_fits(fit):
    with pytest.raises(PreflightError, match=r"None of the first rows can be used.*do not fit `data.max_length`"):
        fit("--data.max_length=20")


@pytest.mark.parametrize(
    ("option", "says"),
    [
        ("--trainer.limit_train_batches=3", "trainer.max_steps"),
        ("--trainer.max_epochs=-1", "the schedule needs an end"),
        ("--trainer.val_check_interval=00:00:01:00", "ranks would look at their own clocks"),
        ("--trainer.strategy=deepspeed_stage_2", "DeepSpeedStrategy is not among those that mmalign is tested under"),
        ("--data.view=mmalign.data.views.Gold", "Choose another view"),
        ("--model.backbone.dtype=bfloat16", "needs `trainer.precision` bf16-mixed"),
    ],
)
def test_settings_that_cannot_work_together_are_refused(fit, option, says):
    with pytest.raises(ValueError, match=says):
        fit(option)


def test_a_checkpoint_of_another_backbone_is_refused(fit_into, tmp_path):
    """Not loaded in part, whatever is allowed: its weights would be missing without a word."""
    fit_into(tmp_path, "--trainer.max_steps=1")
    other = ("--model.backbone.train_projector=true", "--ckpt_path=last", "--trainer.max_steps=1")
    with pytest.raises(ValueError, match=r"train_projector: False in the checkpoint, True here"):
        fit_into(tmp_path, *other)
    with pytest.raises(ValueError, match=r"not those that `model.backbone` trains"):
        fit_into(tmp_path, *other, "--checkpoint.allow_drift=[model.init_args.backbone.train_projector]")


def test_resuming_from_an_older_checkpoint_sets_the_later_ones_aside(fit_into, tmp_path):
    """Or they would pass for the newest, and be kept in place of the new ones."""
    options = ("--checkpoint.every_n_steps=1", "--checkpoint.keep_last=2")
    fit_into(tmp_path, *options, "--trainer.max_steps=4")
    older = tmp_path / "checkpoints" / "step-000003"
    fit_into(tmp_path, *options, "--trainer.max_steps=4", f"--ckpt_path={older}")
    assert {p.name for p in older.parent.glob("*step*")} == {"step-000003", "step-000004", "left-step-000004"}
