"""`mmalign doctor` on the checkpoint: its files, its processor, and the preflight of `fit`."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from mmalign.tools.doctor import command, model
from mmalign.tools.doctor.findings import Check, Status, examine


@pytest.fixture
def own_llava(tiny_llava, tmp_path):
    return Path(shutil.copytree(tiny_llava, tmp_path / "llava"))


def test_a_sound_checkpoint_passes(data, tiny_llava):
    assert model.check_checkpoint(tiny_llava).status == Status.OK
    assert "16 tokens a picture" in model.check_processor(data()).found


def test_weights_that_are_not_here_are_named(own_llava):
    weights = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors", "c": "model-3.safetensors"}}
    (own_llava / "model.safetensors").rename(own_llava / "model-1.safetensors")
    finding = model.check_checkpoint(str(own_llava))
    assert finding.status == Status.FAILED
    assert "no weights here" in finding.found
    (own_llava / "model.safetensors.index.json").write_text(json.dumps(weights))
    finding = model.check_checkpoint(str(own_llava))
    assert finding.status == Status.FAILED
    assert "model-2.safetensors and 1 more weight files are not here" in finding.found


def test_a_hub_checkpoint_is_not_downloaded():
    finding = model.check_checkpoint("llava-hf/llava-1.5-13b-hf")
    assert finding.status == Status.WARNING
    assert not finding.met
    assert "hf download llava-hf/llava-1.5-13b-hf" in finding.remedy


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"image_token_id": 7}, "the image token's id: processor 3, model 7"),
        ({"vision_feature_select_strategy": "full"}, "tokens a picture: processor 16, model 17"),
    ],
)
def test_a_processor_of_another_model_fails(data, own_llava, changes, words):
    path = own_llava / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    finding = model.check_processor(data(checkpoint=str(own_llava)))
    assert finding.status == Status.FAILED
    assert words in finding.found


def preflight_line(run):
    run.data.setup("fit")
    [found] = examine([Check("preflight", lambda: command.check_preflight(run))])
    return found


def test_the_preflight_of_fit_runs_without_a_store(subject):
    found = preflight_line(subject())
    assert found.status == Status.OK
    assert "loss 0.6931 at the reference" in found.found


def test_damaged_weights_fail_the_preflight(subject, own_llava):
    weights = own_llava / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    found = preflight_line(subject(f"--model.backbone.checkpoint={own_llava}"))
    assert found.status == Status.FAILED
    assert "No usable LLaVA" in found.found


def test_weights_that_do_not_fit_are_not_loaded(monkeypatch, subject):
    monkeypatch.setattr(model, "host_memory", lambda: 1000)
    found = preflight_line(subject())
    assert found.status == Status.WARNING
    assert "do not fit" in found.found


def test_without_the_gpus_the_preflight_says_that_it_was_skipped(monkeypatch, subject):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    found = preflight_line(subject("--trainer.accelerator=gpu", "--trainer.devices=4"))
    assert found.status == Status.WARNING
    assert found.found == "skipped: needs 4 GPUs"
