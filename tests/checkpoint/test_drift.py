"""A checkpoint goes on as the run it is of, or says which fields differ."""

import inspect
import json
import shutil

import pytest

from mmalign.backbone import BackboneSettings
from mmalign.checkpoint import CheckpointError, newest_checkpoint, read_run
from mmalign.checkpoint.drift import FREE, check_drift, check_names, description, differences, identity
from mmalign.data.datamodule import ShardData
from mmalign.data.shards import write_manifest
from mmalign.methods.base import OptimSettings

CONFIG = {
    "seed_everything": 0,
    "model": {"class_path": "DPO", "init_args": {"beta": 0.1, "backbone": {"checkpoint": "a", "lora_rank": 4}}},
    "data": {"shards": "world", "batch_size": 8, "micro_batch_size": 4, "num_workers": 0},
    "trainer": {"max_epochs": 2, "devices": 1, "precision": "32-true"},
    "checkpoint": {"keep_last": 3},
}
BASE = "model.init_args.backbone.checkpoint"


def test_a_run_is_what_decides_about_its_steps():
    assert identity(CONFIG, {BASE: "sha256 12", "processor": "34"}) == {
        "seed_everything": 0,
        "model.class_path": "DPO",
        "model.init_args.beta": 0.1,
        BASE: "sha256 12",
        "model.init_args.backbone.lora_rank": 4,
        "data.shards": "world",
        "data.batch_size": 8,
        "trainer.max_epochs": 2,
        "trainer.precision": "32-true",
        "processor": "34",
    }


def test_what_may_change_exists():
    """Or a setting that was renamed would be compared, silently."""
    arguments = {"data": ShardData.__init__, "backbone": BackboneSettings, "optim": OptimSettings}
    for name in FREE:
        *_, owner, setting = name.split(".")
        assert setting in inspect.signature(arguments[owner]).parameters, name


def test_every_difference_is_listed_with_both_values():
    found = differences({"a": 1, "b": [1, 2], "c": None}, {"a": 2, "b": [1, 2], "d": 3})
    assert found == {
        "a": "1 in the checkpoint, 2 here",
        "c": "None in the checkpoint, nothing here",
        "d": "nothing in the checkpoint, 3 here",
    }


def test_what_is_allowed_by_name_passes_and_the_rest_is_refused():
    saved, here = {"a": 1, "b": 1}, {"a": 2, "b": 2}
    assert check_drift("x", saved, here, ["a", "b"]).keys() == {"a", "b"}
    with pytest.raises(CheckpointError) as refused:
        check_drift("x", saved, here, ["a"])
    assert "b: 1 in the checkpoint, 2 here" in str(refused.value)
    assert "a: 1" not in str(refused.value)
    assert "--checkpoint.allow_drift '[b]'" in str(refused.value)


def test_a_name_that_nothing_has_is_a_mistake():
    with pytest.raises(ValueError, match=r"names model\.beta, and nothing of this run is called so"):
        check_names(["model.beta"], {"model.init_args.beta": 0.1})


def test_what_only_the_checkpoint_has_may_be_allowed(tmp_path, monkeypatch):
    """A setting that the other method, or a later mmalign, does not have: allowed by the name that the refusal says."""
    saved = {"global_step": 3, "identity": identity(CONFIG, {}) | {"model.init_args.gamma": 1.0}}
    monkeypatch.setattr("mmalign.checkpoint.drift.read_run", lambda folder: saved)
    with pytest.raises(CheckpointError, match=r"allow_drift '\[model\.init_args\.gamma\]'"):
        description(CONFIG, {}, resume=tmp_path, allowed=[])
    run = description(CONFIG, {}, resume=tmp_path, allowed=["model.init_args.gamma"])
    assert run["allowed_drift"][0]["model.init_args.gamma"] == "1.0 in the checkpoint, nothing here"


@pytest.fixture(scope="module")
def begun(fit_into, tmp_path_factory):
    """A run of two steps."""
    run = tmp_path_factory.mktemp("begun")
    fit_into(run, "--trainer.max_steps=2", "--data.val_shards=", "--checkpoint.every_n_steps=1")
    return run


@pytest.fixture
def resume(fit_into, begun, tmp_path):
    """`resume(*options)`: go on with a copy of it."""

    def go_on(*options, config="dpo.yaml"):
        shutil.copytree(begun, tmp_path / "run", dirs_exist_ok=True)
        own = ("--trainer.max_steps=2", "--data.val_shards=", f"--ckpt_path={tmp_path}/run/checkpoints/step-000001")
        return fit_into(tmp_path / "run", *own, *options, config=config)

    return go_on


@pytest.fixture
def other_base(tiny_llava, tmp_path):
    """`other_base(file, change)`: a copy of the model with one file changed; None changes nothing."""

    def copy(name, change):
        folder = tmp_path / "other-base"
        shutil.copytree(tiny_llava, folder)
        if name:
            (folder / name).write_bytes(change((folder / name).read_bytes()))
        return f"--model.backbone.checkpoint={folder}"

    return copy


@pytest.mark.slow
@pytest.mark.parametrize(
    ("field", "options", "config"),
    [
        ("model.init_args.beta: 0.1 in the checkpoint, 0.2 here", ["--model.beta=0.2"], "dpo.yaml"),
        ("model.class_path: mmalign.methods.dpo.DPO in the checkpoint, mmalign.methods.ipo.IPO here", [], "ipo.yaml"),
        ("lora_rank: 4 in the checkpoint, 8 here", ["--model.backbone.lora_rank=8"], "dpo.yaml"),
        ("backbone.template: llava_hf .* here", ["--model.backbone.template=vicuna_v1"], "dpo.yaml"),
        ("seed_everything: 0 in the checkpoint, 1 here", ["--seed_everything=1"], "dpo.yaml"),
        ("data.window: 4 in the checkpoint, 2 here", ["--data.window=2"], "dpo.yaml"),
        ("data.view.init_args.margin: 2.* in the checkpoint, 1.* here", ["--data.view.margin=1"], "dpo.yaml"),
    ],
)
def test_another_run_is_refused_by_the_field_that_differs(resume, field, options, config):
    """Before any weights are loaded."""
    with pytest.raises(CheckpointError, match=field):
        resume(*options, config=config)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "change", "field"),
    [
        ("model.safetensors", lambda data: data[:-1] + bytes([data[-1] ^ 1]), r"backbone\.checkpoint: sha256 \w+ in"),
        ("tokenizer.json", lambda data: data.replace(b'"<pad>"', b'"<pod>"'), r"processor: \w+ in"),
    ],
)
def test_another_base_or_tokenizer_under_the_same_settings_is_refused(resume, other_base, name, change, field):
    """By content: one bit of a weight, one name of a token."""
    with pytest.raises(CheckpointError, match=field):
        resume(other_base(name, change))


@pytest.mark.slow
def test_other_data_in_the_same_place_is_refused(resume, color_shards, tmp_path):
    """By its manifest."""
    (tmp_path / "fewer").mkdir()
    for shard in sorted(color_shards.glob("*.tar"))[:2]:
        shutil.copy(shard, tmp_path / "fewer")
    write_manifest(tmp_path / "fewer")
    with pytest.raises(CheckpointError, match=r"data\.shards: manifest \w+ weight 1 in the checkpoint, manifest"):
        resume(f"--data.shards={tmp_path / 'fewer'}")


@pytest.mark.slow
def test_what_decides_nothing_may_change(resume, other_base):
    """The cut of a step, workers, recomputation, the place of the model: no word about them."""
    trained = resume(
        other_base(None, None),
        "--data.micro_batch_size=2",
        "--data.num_workers=1",
        "--model.backbone.gradient_checkpointing=true",
        "--checkpoint.keep_last=5",
        "--trainer.log_every_n_steps=5",
    )
    assert trained.trainer.global_step == 2


@pytest.mark.slow
def test_allowed_drift_is_recorded_in_later_checkpoints(resume, tmp_path):
    resume("--model.beta=0.2", "--checkpoint.allow_drift=[model.init_args.beta]")
    newest = newest_checkpoint(tmp_path / "run")
    assert newest.name == "step-000002"
    run = read_run(newest)
    assert run["identity"]["model.init_args.beta"] == 0.2
    assert run["allowed_drift"] == [{"step": 1, "model.init_args.beta": "0.1 in the checkpoint, 0.2 here"}]
    assert "sha256" in json.dumps(run["identity"])
