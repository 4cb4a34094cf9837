"""Adapters that cannot be served are refused without a trace, and the reason is told."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from mmalign.serve.messages import AddAdapter, Ended, RemoveAdapter


def rewritten(folder: Path, new: Path, change, **config) -> Path:
    """A copy with other weights or another config."""
    shutil.copytree(folder, new)
    weights = load_file(new / "adapter_model.safetensors")
    save_file(change(weights), new / "adapter_model.safetensors", metadata={"format": "pt"})
    file = new / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | config))
    return new


def odd_adapters(save_adapter, plain, folder):
    """Everything an adapter can be and not fit, by name."""

    def same(weights):
        return weights

    empty = folder / "empty"
    empty.mkdir()
    yield "no adapter", empty
    yield "nowhere", folder / "nowhere"
    yield "a tensor less", rewritten(plain, folder / "less", lambda w: dict(list(w.items())[1:]))
    yield "a tensor more", rewritten(plain, folder / "more", lambda w: w | {"base_model.model.x": torch.zeros(1)})
    yield "another shape", rewritten(plain, folder / "shape", lambda w: {k: v[:1, :4].clone() for k, v in w.items()})
    yield "another rank", rewritten(plain, folder / "rank", same, r=16)
    yield "no such layers", rewritten(plain, folder / "layers", same, target_modules="nothing_like_it")
    yield "no weights", (folder / "cut")
    dora = save_adapter(folder / "dora", use_dora=True)
    yield "DoRA", dora
    yield "an embedding", save_adapter(folder / "embedding", target_modules=["embed_tokens"])
    yield "a layer of another kind", rewritten(plain, folder / "kind", same, target_modules=r".*(q_proj|norm)")
    yield "a rank in words", rewritten(plain, folder / "words", same, r="8")
    yield "a number for names", rewritten(plain, folder / "number", same, target_modules=5)
    yield "prompt tuning", rewritten(plain, folder / "prompt", same, peft_type="PROMPT_TUNING", num_virtual_tokens=2)
    steer = {"form": "likert", "attributes": {"helpfulness": 9}}
    lineages = {"another template": {"template": "llava_hf"}, "impossible attributes": {"steer": steer},
                "a number for steering": {"steer": 5}, "a list for lineage": [1, 2]}  # fmt: skip
    for what, lineage in lineages.items():
        other = rewritten(plain, folder / what.replace(" ", "_"), same)
        (other / "lineage.json").write_text(json.dumps(lineage))
        yield what, other


TOLD = {
    "no adapter": "missing or cannot be read",
    "no weights": "missing or cannot be read",
    "another shape": "does not fit the base",
    "a tensor less": "does not fit the base",
    "no such layers": "does not fit the base",
    "a layer of another kind": "does not fit the base",
    "a number for names": "",
    "a list for lineage": "missing or cannot be read",
    "DoRA": "of this kind",
    "an embedding": "of this kind",
    "prompt tuning": "of this kind",
    "another template": "trained with another template",
    "impossible attributes": "steering cannot be asked for",
    "a number for steering": "steering cannot be asked for",
}
"""What the one who adds it is told of some."""


@pytest.mark.parametrize("first", [True, False], ids=["first", "second"])
def test_an_adapter_that_does_not_fit_leaves_nothing_behind(
    engine_of, prompts, tiny_adapters, save_adapter, tmp_path, first, recwarn
):
    driven = engine_of({} if first else {"dpo": tiny_adapters["dpo"]})
    before = driven.answer(prompts.ask(max_new_tokens=20)).texts
    models = driven.engine._writing.model
    places = [name for name, _ in models.llava.named_modules()]

    def logits():
        with torch.no_grad(), models.rows(["base"]):
            return models.llava(input_ids=torch.arange(4, 40)[None]).logits

    expected = logits()
    cut = rewritten(tiny_adapters["dpo"], tmp_path / "cut", lambda w: w)
    (cut / "adapter_model.safetensors").write_bytes(b"cut")
    parameters = {name for name, _ in driven.engine._writing.model.llava.named_parameters() if "lora" in name}
    for what, folder in odd_adapters(save_adapter, tiny_adapters["dpo"], tmp_path):
        end = driven.answer(AddAdapter("odd", folder)).end
        assert (end.status, end.param) == (400, "folder"), what
        assert str(tmp_path) not in end.message
        assert TOLD.get(what, "") in end.message, what
        assert [name for name, _ in models.llava.named_modules()] == places, what
        assert torch.equal(logits(), expected), what
        left = {name for name, _ in driven.engine._writing.model.llava.named_parameters() if "lora" in name}
        assert left == parameters, what
        assert driven.answer(prompts.ask(model="odd")).end.status == 404
    assert driven.answer(prompts.ask(max_new_tokens=20)).texts == before
    assert driven.answer(AddAdapter("good", tiny_adapters["dpo-v1.5"])).end == Ended()
    assert driven.answer(prompts.ask(max_new_tokens=20)).texts == before
    assert driven.answer(prompts.ask(model="good", max_new_tokens=20)).texts != before


@pytest.mark.parametrize(
    ("order", "status"),
    [
        (AddAdapter("dpo", Path("anywhere")), 409),
        (AddAdapter("base", Path("anywhere")), 409),
        (AddAdapter("no/name", Path("anywhere")), 400),
        (RemoveAdapter("base"), 400),
        (RemoveAdapter("nobody"), 404),
    ],
)
def test_orders_that_are_refused(driven, order, status):
    assert driven.answer(order).end.status == status


def test_a_merged_model_takes_no_adapters(engine_of, tiny_adapters):
    driven = engine_of({"dpo": tiny_adapters["dpo"]}, merged=True)
    assert driven.answer(AddAdapter("new", tiny_adapters["dpo"])).end.status == 400
    assert driven.answer(RemoveAdapter("dpo")).end.status == 400


def test_merging_needs_one_adapter(engine_of, tiny_adapters):
    with pytest.raises(ValueError, match="--merged needs one --adapter, got 2"):
        engine_of(tiny_adapters, merged=True)
