"""A run that starts from an adapter: the policy is a copy of it, the reference is base + that adapter, frozen."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file

from mmalign.backbone import PROJECTOR, BackboneSettings, Llava, load_llava
from mmalign.batch import Role
from mmalign.data.collate import Collator
from mmalign.data.rows import Answer, Row, RowEncoder
from mmalign.logps import response_logps
from mmalign.messages import ImageSlot, Message, Text
from mmalign.processor import load_processor
from mmalign.template import Template


@pytest.fixture(scope="module")
def batch(tiny_llava, png):
    """One picture, two answers."""
    messages = (Message("user", (ImageSlot(), Text("What do you see?"))),)
    row = Row("a", messages, (png("red"),), (Answer("A circle.", Role.CHOSEN), Answer("No", Role.REJECTED)))
    encoder = RowEncoder(Template(load_processor(tiny_llava), "llava_hf"), max_length=512)
    return Collator(pad_token_id=0)([encoder(row)])


@pytest.fixture(scope="module")
def settings(tiny_llava):
    def make(**changes) -> BackboneSettings:
        usual = {"dtype": "float32", "lora_rank": 4, "lora_alpha": 8, "lora_dropout": 0.0, "train_projector": True}
        return BackboneSettings(checkpoint=tiny_llava, **(usual | changes))

    return make


def trained(settings: BackboneSettings, seed: int) -> Llava:
    """A LLaVA whose adapters, and projector if it trains, do something."""
    torch.manual_seed(seed)
    llava = Llava(settings)
    for name, p in llava.named_parameters():
        if p.requires_grad and ("lora_B" in name or PROJECTOR in name):
            p.data.add_(torch.randn_like(p), alpha=0.1)
    return llava


@pytest.fixture(scope="module")
def first(settings, tmp_path_factory):
    """Folder of the adapter that runs start from."""
    folder = tmp_path_factory.mktemp("adapters") / "first"
    trained(settings(), 1).save(folder)
    return folder


@pytest.fixture(scope="module")
def other(settings, tmp_path_factory):
    """Folder of an adapter of another rank, without a projector."""
    folder = tmp_path_factory.mktemp("adapters") / "other"
    trained(settings(lora_rank=2, train_projector=False), 2).save(folder)
    return folder


@pytest.fixture
def llava(settings, first):
    return Llava(settings(adapter=str(first)))


@torch.no_grad()
def sums(llava, batch):
    return response_logps(llava, batch).sums


def plain(tiny_llava, folder) -> Llava:
    """Base + an adapter, as PEFT itself loads it."""
    return Llava(PeftModel.from_pretrained(load_llava(tiny_llava, dtype=torch.float32), str(folder)))


def flags(llava):
    return {name: p.requires_grad for name, p in llava.named_parameters()}


def change_policy(llava):
    for p in llava.parameters():
        if p.requires_grad:
            p.data.add_(0.05)


def test_policy_and_reference_start_as_the_adapter_bit_for_bit(llava, tiny_llava, first, settings, batch):
    expected = sums(plain(tiny_llava, first), batch)
    assert torch.equal(sums(llava, batch), expected)
    with llava.reference():
        assert torch.equal(sums(llava, batch), expected)
    assert not torch.equal(sums(Llava(settings()), batch), expected)


def test_training_leaves_the_reference_where_it_was(llava, batch):
    before = sums(llava, batch)
    change_policy(llava)
    assert not torch.equal(sums(llava, batch), before)
    with llava.reference():
        assert torch.equal(sums(llava, batch), before)


def test_only_the_policy_trains(llava, settings):
    assert llava.trainable_names() == Llava(settings()).trainable_names()
    assert not any("reference" in name for name in llava.trainable_names())
    assert any(PROJECTOR in name for name in llava.trainable_names())


@pytest.mark.parametrize("start", ["", "first"])
def test_what_trains_is_the_same_after_a_reference_also_after_an_error(settings, first, start):
    llava = Llava(settings(adapter=str(first) if start else ""))
    frozen = next(p for name, p in llava.named_parameters() if p.requires_grad and "lora_A" in name)
    frozen.requires_grad_(False)  # PEFT would set it again
    before = flags(llava)
    with llava.reference(), llava.reference():
        assert not any(p.requires_grad for p in llava.parameters())
    assert flags(llava) == before
    with pytest.raises(KeyError), llava.reference():
        raise KeyError
    assert llava.model.active_adapter == "default"
    assert flags(llava) == before


def test_gradients_reach_the_policy_around_a_reference_pass(llava, batch):
    policy = response_logps(llava, batch).sums
    with torch.no_grad(), llava.reference():
        reference = response_logps(llava, batch).sums
    (policy - reference).sum().backward()
    assert all((p.grad is not None) == p.requires_grad for p in llava.parameters())


def test_dropout_is_the_runs_and_the_reference_has_none(settings, first, batch):
    llava = Llava(settings(adapter=str(first), lora_dropout=0.5))
    assert not torch.equal(sums(llava, batch), sums(llava, batch))
    with llava.reference():
        assert torch.equal(sums(llava, batch), sums(llava, batch))


def test_saved_is_the_policy_alone_in_pefts_own_format(llava, tiny_llava, batch, tmp_path):
    change_policy(llava)
    llava.save(tmp_path / "out")
    assert not (tmp_path / "out" / "reference").exists()
    assert torch.equal(sums(plain(tiny_llava, tmp_path / "out"), batch), sums(llava, batch))


def test_merged_is_the_policy(llava, batch):
    change_policy(llava)
    prompt = {"input_ids": batch.input_ids[:, :20], "pixel_values": batch.pixel_values}
    with torch.no_grad():
        expected = llava.model(**prompt).logits
        merged = llava.model.merge_and_unload()
        torch.testing.assert_close(merged(**prompt).logits, expected, rtol=1e-5, atol=1e-5)
    assert not any("lora" in name or "reference" in name for name, _ in merged.named_parameters())


@pytest.mark.parametrize("start", ["", "first"])
def test_a_further_reference_is_base_and_that_adapter_and_gone_afterwards(
    settings, tiny_llava, first, other, batch, start
):
    llava = Llava(settings(adapter=str(first) if start else ""))
    change_policy(llava)
    before, policy = flags(llava), sums(llava, batch)
    with llava.reference():
        reference = sums(llava, batch)
    with llava.adapter_as_reference(other):
        assert torch.equal(sums(llava, batch), sums(plain(tiny_llava, other), batch))
    with pytest.raises(KeyError), llava.adapter_as_reference(first):
        raise KeyError
    assert flags(llava) == before
    assert torch.equal(sums(llava, batch), policy)
    with llava.reference():
        assert torch.equal(sums(llava, batch), reference)


def test_a_projector_that_only_the_further_adapter_has(settings, tiny_llava, first, batch):
    llava = trained(settings(train_projector=False), 3)
    names, policy = llava.trainable_names(), sums(llava, batch)
    with llava.adapter_as_reference(first):
        assert torch.equal(sums(llava, batch), sums(plain(tiny_llava, first), batch))
    assert torch.equal(sums(llava, batch), policy)
    assert llava.trainable_names() == names


def test_another_shape_than_the_settings_is_refused_with_what_to_set(settings, first, other):
    with pytest.raises(ValueError, match=r"lora_rank: 4, lora_alpha: 8\.$"):
        Llava(settings(adapter=str(first), lora_rank=8, lora_alpha=4))
    with pytest.raises(ValueError, match=r"lora_rank: 2, train_projector: False\.$"):
        Llava(settings(adapter=str(other)))


def damaged(folder: Path, target: Path, *, config=None, weights=None) -> Path:
    shutil.copytree(folder, target)
    if config:
        path = target / "adapter_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | config))
    if weights:
        path = target / "adapter_model.safetensors"
        save_file(dict(weights(load_file(path))), path, metadata={"format": "pt"})
    return target


WRONG = {
    "bias": ({"bias": "all"}, None),
    "another kind": ({"peft_type": "IA3"}, None),
    "another start": ({"init_lora_weights": "pissa"}, None),
    "other modules": ({"target_modules": "nothing_like_it"}, None),
    "another width": (None, lambda w: {n: torch.zeros(t.shape[0] + 1, *t.shape[1:]) for n, t in w.items()}),
    "one missing": (None, lambda w: list(w.items())[1:]),
    "no projector": (None, lambda w: {n: t for n, t in w.items() if PROJECTOR not in n}),
    "one too many": (None, lambda w: w | {"base_model.model.more.lora_A.weight": torch.zeros(1)}),
}


@pytest.mark.filterwarnings("ignore:Unexpected keyword arguments")  # PEFT's word on another kind's config
@pytest.mark.parametrize("wrong", WRONG)
def test_an_adapter_that_does_not_fit_is_named_and_leaves_nothing_behind(settings, first, batch, tmp_path, wrong):
    config, weights = WRONG[wrong]
    folder = damaged(first, tmp_path / "wrong", config=config, weights=weights)
    with pytest.raises(ValueError, match=r"wrong cannot be used here \(.*\)\. Give one that was trained on"):
        Llava(settings(adapter=str(folder)))
    llava = Llava(settings())
    before, policy = flags(llava), sums(llava, batch)
    with pytest.raises(ValueError, match="cannot be used here"), llava.adapter_as_reference(folder):
        pass
    assert flags(llava) == before
    assert torch.equal(sums(llava, batch), policy)


@pytest.mark.parametrize("cut", ["adapter_config.json", "adapter_model.safetensors"])
def test_a_cut_or_missing_file_is_named(settings, first, tmp_path, cut):
    folder = damaged(first, tmp_path / "cut")
    (folder / cut).write_bytes((folder / cut).read_bytes()[:20])
    with pytest.raises(ValueError, match="cut cannot be used here"):
        Llava(settings(adapter=str(folder)))
    (folder / cut).unlink()
    with pytest.raises(FileNotFoundError, match=f"No adapter in .*cut: {cut} missing"):
        Llava(settings(adapter=str(folder)))


def test_bfloat16_weights_carry_float32_adapters_of_both(settings, first):
    llava = Llava(settings(adapter=str(first), dtype="bfloat16"))
    kinds = {p.dtype for name, p in llava.named_parameters() if ".default." in name or ".reference." in name}
    assert kinds == {torch.float32}
    weights = load_file(first / "adapter_model.safetensors")
    lora = "base_model.model.model.language_model.layers.0.self_attn.q_proj.lora_A"
    for name in ("default", "reference"):
        assert torch.equal(llava.model.state_dict()[f"{lora}.{name}.weight"], weights[f"{lora}.weight"])


def test_without_a_starting_adapter_the_reference_is_the_base(settings, batch):
    llava = trained(settings(), 4)
    with llava.reference():
        found = sums(llava, batch)
    with llava.model.disable_adapter():
        assert torch.equal(found, sums(llava, batch))


@pytest.mark.filterwarnings("ignore:Setting `save_embedding_layers`:UserWarning")
def test_an_adapter_of_the_output_head_is_refused_where_ranks_share_it(settings, tiny_llava, tmp_path, monkeypatch):
    """They would gather the head as often as they have chunks of targets, each another number of times."""
    targets = r".*language_model.*\.q_proj|.*lm_head"
    lora = LoraConfig(r=4, lora_alpha=8, target_modules=targets, task_type="CAUSAL_LM")
    get_peft_model(load_llava(tiny_llava, dtype=torch.float32), lora).save_pretrained(tmp_path)
    start = settings(adapter=str(tmp_path), train_projector=False)
    Llava(start)
    monkeypatch.setattr("mmalign.backbone.is_sharded", lambda module: True)
    with pytest.raises(ValueError, match="it changes the output head"):
        Llava(start)
