"""A model and how it is spoken to: as it was trained, unless somebody says otherwise."""

import json
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file

from mmalign.backbone import LANGUAGE_LINEARS, load_llava
from mmalign.sampling.policy import Policy, load_policy, own_device

WANTED = {"helpfulness": 4, "correctness": 4, "coherence": 4, "complexity": 2, "verbosity": 2}


@pytest.fixture(scope="module")
def adapter(tiny_llava, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "adapter"
    lora = LoraConfig(r=2, target_modules=LANGUAGE_LINEARS, init_lora_weights=False)
    get_peft_model(load_llava(tiny_llava, dtype=torch.float32), lora).save_pretrained(folder)
    return folder


@pytest.fixture
def trained(adapter, tmp_path):
    """`trained(lineage)`: the adapter with what an export says of its training."""

    def copy(lineage):
        for path in adapter.iterdir():
            (tmp_path / path.name).write_bytes(path.read_bytes())
        (tmp_path / "lineage.json").write_text(json.dumps(lineage))
        return tmp_path

    return copy


def test_a_checkpoint_speaks_by_its_own_chat_template():
    """The embedded model's is that of llava-hf, with which its shipped shards were sampled."""
    policy = load_policy("embedded")
    assert policy.template.name == "llava_hf"
    assert policy.identity["checkpoint_hash"].startswith("sha256 ")
    assert (policy.name, policy.context, policy.steering) == ("embedded", 2048, None)


def test_an_adapter_speaks_as_it_was_trained_unless_told(tiny_llava, trained):
    folder = trained({"template": "vicuna_v1", "pad_images": False})
    policy = load_policy(tiny_llava, folder)
    assert policy.template.name == "vicuna_v1"
    assert policy.template.processor.image_processor.do_pad is False
    told = load_policy(tiny_llava, folder, template="llava_hf", pad_images=True)
    assert (told.template.name, told.template.processor.image_processor.do_pad) == ("llava_hf", True)
    assert told.identity["adapter_hash"] == policy.identity["adapter_hash"]
    assert told.identity != policy.identity


def test_a_merged_model_is_spoken_to_as_its_adapter(tiny_llava, tmp_path):
    """Its lineage lies beside its weights."""
    for path in Path(tiny_llava).iterdir():
        (tmp_path / path.name).symlink_to(path)
    lineage = {"template": "vicuna_v1", "steer": {"form": "nemo", "attributes": WANTED}}
    (tmp_path / "lineage.json").write_text(json.dumps(lineage))
    policy = load_policy(str(tmp_path))
    assert policy.template.name == "vicuna_v1"
    assert policy.steering.form == "nemo"


def test_what_a_model_is_asked_for_is_part_of_its_identity(tiny_llava, trained):
    folder = trained({"steer": {"form": "likert", "attributes": WANTED}})
    assert "verbosity 2" in load_policy(tiny_llava, folder).identity["attributes"]
    terse = load_policy(tiny_llava, folder, attributes={"verbosity": 0})
    assert terse.identity["attributes"].endswith("complexity 2, verbosity 0")
    with pytest.raises(ValueError, match="none of SteerLM"):
        load_policy(tiny_llava, attributes={"verbosity": 0})


def test_names_say_checkpoint_and_run(tiny_llava, adapter, tmp_path):
    """An export lies at `RUN/adapter`, others anywhere."""
    assert load_policy(tiny_llava, adapter).name == f"{Path(tiny_llava).name}+{adapter.parent.name}"
    (tmp_path / "mine").symlink_to(adapter)
    assert load_policy(tiny_llava, tmp_path / "mine").name == f"{Path(tiny_llava).name}+{adapter.parent.name}"


def test_weights_are_read_when_they_are_asked_for(tiny_llava, adapter, monkeypatch):
    """What is made already is found without them."""
    monkeypatch.setattr("mmalign.sampling.policy.load_llava", lambda *_, **__: pytest.fail("read"))
    assert load_policy(tiny_llava, adapter).identity


def test_an_adapter_that_lacks_a_tensor_is_refused(tiny_llava, trained):
    """PEFT would leave it as it was drawn."""
    folder = trained({"base": "elsewhere"})
    weights = load_file(folder / "adapter_model.safetensors")
    save_file(dict(sorted(weights.items())[1:]), folder / "adapter_model.safetensors")
    with pytest.raises((ValueError, UserWarning), match=r"does not fit .*elsewhere|missing"):
        _ = load_policy(tiny_llava, folder).model


def test_an_adapter_that_is_not_there_is_named(tiny_llava, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"No adapter in .*absent.*mmalign export"):
        load_policy(tiny_llava, tmp_path / "absent")


def test_a_rank_takes_its_own_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert own_device() == "cuda:1"
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(ValueError, match="Rank 2 of this machine has no GPU: there are 2"):
        own_device()


def test_a_policy_says_its_context(tiny_llava):
    assert isinstance(policy := load_policy(tiny_llava), Policy)
    assert policy.context == 2048
