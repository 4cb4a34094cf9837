"""The base checkpoint: loaded whole, or refused in words that name it and say what to do."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from mmalign.backbone import load_llava
from mmalign.processor import EMBEDDED, load_processor

REMEDY = "Copy or save it anew, or point `model.backbone.checkpoint` at"


@pytest.fixture
def folder(tiny_llava, tmp_path) -> Path:
    """A copy of the tiny LLaVA, to be damaged."""
    return Path(shutil.copytree(tiny_llava, tmp_path / "llava"))


def refusal(load, folder: Path) -> str:
    """What is said of this folder: one line, which names it and what to do."""
    with pytest.raises((FileNotFoundError, ValueError)) as refused:
        load(str(folder))
    said = str(refused.value)
    assert f"No usable LLaVA at {str(folder)!r} (" in said
    assert REMEDY in said
    assert "\n" not in said
    return said


def load(checkpoint: str):
    return load_llava(checkpoint, dtype=torch.float32)


@pytest.mark.parametrize("what", [load, load_processor], ids=["model", "processor"])
def test_a_missing_folder(tmp_path, what):
    assert "no such folder or hub name" in refusal(what, tmp_path / "nowhere")


@pytest.mark.parametrize("what", [load, load_processor], ids=["model", "processor"])
def test_an_empty_folder(tmp_path, what):
    assert "incomplete or damaged" in refusal(what, tmp_path)


@pytest.mark.parametrize("left", [0, 4, 10_000])
def test_cut_weights(folder, left):
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:left])
    assert "incomplete or damaged; SafetensorError" in refusal(load, folder)


def rewrite(folder: Path, change) -> None:
    weights = folder / "model.safetensors"
    kept = [(name, change(name, value)) for name, value in load_file(weights).items()]
    save_file({name: value for name, value in kept if value is not None}, weights, metadata={"format": "pt"})


def test_missing_weights_are_named_and_not_drawn_at_random(folder):
    rewrite(folder, lambda name, value: None if "projector" in name else value)
    said = refusal(load, folder)
    for linear in ("linear_1.weight", "linear_1.bias", "linear_2.weight", "linear_2.bias"):
        assert f"model.multi_modal_projector.{linear}" in said


def test_weights_of_another_shape_are_named(folder):
    rewrite(folder, lambda name, value: value[:1].clone() if name.endswith("projector.linear_2.bias") else value)
    said = refusal(load, folder)
    assert "another shape: model.multi_modal_projector.linear_2.bias)" in said


@pytest.mark.parametrize("text", ["", '{"version": "1', "{}"])
def test_a_broken_tokenizer(folder, text):
    (folder / "tokenizer.json").write_text(text)
    assert "incomplete or damaged; " in refusal(load_processor, folder)


def test_whole_checkpoints_miss_nothing(tiny_llava):
    for checkpoint in (tiny_llava, EMBEDDED):
        assert not load(checkpoint).training


def test_a_head_tied_to_the_embeddings_is_not_missed(folder):
    """Saved once, loaded into both: not a missing weight."""
    model = load(str(folder))
    model.config.tie_word_embeddings = True
    model.tie_weights()
    model.save_pretrained(folder)
    assert "lm_head.weight" not in load_file(folder / "model.safetensors")
    tied = load(str(folder))
    assert tied.get_output_embeddings().weight is tied.get_input_embeddings().weight
