"""What is exported is what was trained: read in another process by plain transformers and PEFT, without mmalign."""

import json
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

from mmalign.backbone import BackboneSettings, Llava
from mmalign.checkpoint import newest_checkpoint
from mmalign.cli import main
from mmalign.messages import ImageSlot, Message, Text
from mmalign.processor import load_processor, open_image, pixel_values
from mmalign.template import Template
from mmalign.tools.export import export

pytestmark = pytest.mark.slow

PLAIN = """
import sys, torch
from PIL import Image
from peft import PeftModel
from transformers import AutoProcessor, LlavaForConditionalGeneration

base, adapter, picture, out = sys.argv[1:]
processor = AutoProcessor.from_pretrained(adapter)
messages = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Which colour?"}]}]
text = processor.apply_chat_template(messages)
inputs = processor(text=text, images=Image.open(picture), add_special_tokens=False, return_tensors="pt")
model = LlavaForConditionalGeneration.from_pretrained(base, dtype=torch.float32)
if base != adapter:
    model = PeftModel.from_pretrained(model, adapter)
with torch.no_grad():
    torch.save({"ids": inputs["input_ids"], "logits": model.eval()(**inputs).logits}, out)
assert "mmalign" not in sys.modules
"""


@pytest.fixture(scope="module", params=["llava_hf", "vicuna_v1"])
def exported(request, fit_into, tmp_path_factory, tiny_llava, png):
    """A short run, its export with merged weights, and the trainer's own ids and logits for one prompt."""
    run = tmp_path_factory.mktemp("run")
    fit_into(run, "--trainer.max_epochs=1", f"--model.backbone.template={request.param}", "--model.optim.lr=1e-2")
    out = run / "adapter"
    export(run=run, out=out, merge=True)
    settings = BackboneSettings(
        checkpoint=tiny_llava, template=request.param, dtype="float32", lora_rank=4, lora_alpha=32, lora_dropout=0.0
    )
    llava = Llava(settings)
    weights = load_file(newest_checkpoint(run) / "adapter.safetensors")
    llava.load_state_dict({name.removeprefix("llava."): tensor for name, tensor in weights.items()}, strict=False)
    processor = load_processor(tiny_llava)
    ids = Template(processor, request.param).encode_prompt([Message("user", (ImageSlot(), Text("Which colour?")))])
    picture = run / "picture.png"
    picture.write_bytes(png("green", (80, 40)))
    pixels = pixel_values(processor, [open_image(picture.read_bytes(), where="test")])
    with torch.no_grad():
        logits = llava.model.eval()(input_ids=torch.tensor([ids]), pixel_values=pixels).logits
    return out, picture, ids, logits


def read_plainly(base, adapter, picture, out):
    done = subprocess.run(
        [sys.executable, "-c", PLAIN, str(base), str(adapter), str(picture), str(out)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return torch.load(out, weights_only=True)


def test_adapter_and_merged_weights_give_the_trainers_logits(exported, tiny_llava, tmp_path):
    """To 1e-5, tokens and padded picture included, from the files alone."""
    adapter, picture, ids, logits = exported
    for base, folder in ((tiny_llava, adapter), (adapter / "merged", adapter / "merged")):
        plain = read_plainly(base, folder, picture, tmp_path / "out.pt")
        assert plain["ids"][0].tolist() == ids
        torch.testing.assert_close(plain["logits"], logits, rtol=1e-5, atol=1e-5)


def test_the_adapter_does_something(exported, tiny_llava, tmp_path):
    """Otherwise the comparison above would prove nothing."""
    adapter, picture, _, logits = exported
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (adapter / name).is_file()
    base = read_plainly(tiny_llava, tiny_llava, picture, tmp_path / "base.pt")["logits"]
    if base.shape == logits.shape:
        assert (base - logits).abs().max() > 1e-2


def test_lineage_says_what_was_trained_from_what(exported, tiny_llava):
    lineage = json.loads((exported[0] / "lineage.json").read_text())
    assert (lineage["base"], lineage["method"], lineage["global_step"]) == (tiny_llava, "mmalign.methods.dpo.DPO", 5)
    assert lineage["pad_images"] is True
    assert {"mmalign", "torch", "transformers", "peft"} <= lineage["versions"].keys()
    assert json.loads((exported[0] / "merged" / "lineage.json").read_text()) == lineage


def test_a_run_without_checkpoints_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="No usable checkpoint"):
        export(run=tmp_path, out=tmp_path / "out")


def test_a_folder_that_no_export_wrote_is_left_alone(tmp_path):
    """Before any work: there is not even a run here."""
    precious = tmp_path / "home" / "thesis.tex"
    precious.parent.mkdir()
    precious.write_text("all of it")
    for out in (precious.parent, precious):
        with pytest.raises(ValueError, match=r"is no export of mmalign\. Choose another"):
            export(run=tmp_path / "run", out=out)
    assert precious.read_text() == "all of it"


@pytest.mark.parametrize("run", ["", "runs/dpo", "../out/run"])
def test_an_export_does_not_replace_its_own_run(tmp_path, run):
    out = tmp_path / "out"
    out.mkdir()
    (out / "lineage.json").write_text("{}")
    with pytest.raises(ValueError, match="holds the run"):
        export(run=out / run, out=out)


def test_an_earlier_export_is_replaced_and_validate_leaves_the_runs_config(fit, tmp_path):
    """`validate` with another template, in the run's own folder: what is exported is still what was trained."""
    run, out = tmp_path / "run", tmp_path / "adapter"
    fit("--trainer.max_epochs=1", "--model.backbone.pad_images=false")
    out.mkdir()
    (out / "lineage.json").write_text("{}")
    (out / "stale").touch()
    config = run / "logs/version_0/config.yaml"
    main(["validate", f"--config={config}", "--model.backbone.template=vicuna_v1"])
    assert list(run.glob("logs/version_*/config.yaml")) == [config]
    export(run=run, out=out)
    assert not (out / "stale").exists()
    lineage = json.loads((out / "lineage.json").read_text())
    assert (lineage["template"], lineage["pad_images"]) == ("llava_hf", False)


@pytest.mark.parametrize("form", ["likert", "nemo"])
def test_a_steered_run_tells_what_to_ask_for(tiny_llava, color_shards, tmp_path, form):
    """Form and target values, as they stood in the run's config; no other method's export has any."""
    run, out = tmp_path / "run", tmp_path / "adapter"
    options = [
        f"--model.backbone.checkpoint={tiny_llava}",
        "--model.backbone.lora_rank=4",
        f"--data.shards={color_shards}",
        "--data.val_shards=",
        f"--data.view.form={form}",
        "--data.view.attributes.verbosity=2",
        f"--trainer.default_root_dir={run}",
        "--trainer.max_steps=1",
        "--trainer.enable_progress_bar=false",
    ]
    main(["fit", "--config=steerlm.yaml", "--config=scale/tiny.yaml", *options])
    export(run=run, out=out)
    wanted = {"helpfulness": 4, "correctness": 4, "coherence": 4, "complexity": 4, "verbosity": 2}
    assert json.loads((out / "lineage.json").read_text())["steer"] == {"form": form, "attributes": wanted}


def test_only_steered_runs_are_steered(exported):
    assert "steer" not in json.loads((exported[0] / "lineage.json").read_text())
