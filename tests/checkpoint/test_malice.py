"""Nothing that another machine may have sent is unpickled: a canary file says if it ever was."""

import json
import pickle
import shutil

import pytest
import torch

from mmalign import cli
from mmalign.adapters import WEIGHTS_FILE
from mmalign.backbone import BackboneSettings, Llava
from mmalign.checkpoint import CheckpointError, newest_checkpoint
from mmalign.checkpoint.disk import fingerprint
from mmalign.serve.settings import EngineSettings
from mmalign.serve.worker.engine import Engine
from mmalign.tools.export import export

pytestmark = pytest.mark.slow


@pytest.fixture
def canary(tmp_path):
    """What a bomb makes when it goes off; at the end of the test none has."""
    path = tmp_path / "canary"
    yield path
    assert not path.exists()


@pytest.fixture
def bomb(canary):
    """An object whose unpickling runs code."""

    class Bomb:
        def __reduce__(self):
            return (canary.touch, ())

    return Bomb()


def test_the_bomb_works(bomb, canary):
    """Otherwise nothing below would prove anything."""
    pickle.loads(pickle.dumps(bomb))
    assert canary.exists()
    canary.unlink()


@pytest.fixture(scope="module")
def begun(fit_into, tmp_path_factory):
    """A run of one step."""
    run = tmp_path_factory.mktemp("begun")
    fit_into(run, "--trainer.max_steps=1", "--data.val_shards=")
    return run


@pytest.fixture
def run(begun, tmp_path):
    """A copy of it."""
    return shutil.copytree(begun, tmp_path / "run")


@pytest.fixture
def load(fit_into, tiny_llava, color_shards, run):
    """`load(how, checkpoint)`: every command that takes one."""

    def by(how, checkpoint):
        if how == "fit":
            fit_into(run, "--trainer.max_steps=1", "--data.val_shards=", f"--ckpt_path={checkpoint}")
        elif how == "export":
            export(run=run, out=run / "out", checkpoint=checkpoint)
        else:
            cli.main(
                [
                    *("validate", "--config=dpo.yaml", "--config=scale/tiny.yaml", f"--ckpt_path={checkpoint}"),
                    f"--model.backbone.checkpoint={tiny_llava}",
                    *("--model.backbone.lora_rank=4", "--trainer.enable_progress_bar=false"),
                    *(f"--data.val_shards={color_shards}", f"--trainer.default_root_dir={run}"),
                ]
            )

    return by


def plant(checkpoint, name, obj):
    """Put a pickle in the place of a file, as torch saves it, with a manifest that says it belongs there."""
    torch.save(obj, checkpoint / name)
    manifest = json.loads((checkpoint / "manifest.json").read_text())
    manifest["files"][name] = fingerprint(checkpoint / name)
    (checkpoint / "manifest.json").write_text(json.dumps(manifest))


COMMANDS = ["fit", "validate", "export"]


@pytest.mark.parametrize("how", COMMANDS)
@pytest.mark.parametrize("name", ["evil.ckpt", "optimizer.bin"])
def test_a_file_is_no_checkpoint(load, bomb, canary, tmp_path, how, name):
    """Whatever it is called, and whether torch or pickle wrote it."""
    content = {"state_dict": {}, "optimizer_states": [bomb]}
    if name == "evil.ckpt":
        torch.save(content, tmp_path / name)
    else:
        (tmp_path / name).write_bytes(pickle.dumps(content))
    with pytest.raises(CheckpointError, match="is no mmalign checkpoint"):
        load(how, tmp_path / name)


@pytest.mark.parametrize("how", COMMANDS)
def test_a_bomb_within_our_own_format_does_not_go_off(load, run, bomb, canary, how):
    """With a hash that is right: whoever can write a checkpoint can write its manifest. An export never looks there."""
    checkpoint = newest_checkpoint(run)
    plant(checkpoint, "state.pt", {"global_step": 1, "loops": bomb, "callbacks": bomb, "optimizer_states": [bomb]})
    if how == "export":
        load(how, checkpoint)
    else:
        with pytest.raises(CheckpointError, match="holds more than tensors and plain values"):
            load(how, checkpoint)


@pytest.mark.parametrize("how", COMMANDS)
def test_weights_are_safetensors_or_nothing(load, run, bomb, canary, how):
    checkpoint = newest_checkpoint(run)
    plant(checkpoint, "adapter.safetensors", {"llava.lora_A": bomb})
    with pytest.raises(CheckpointError, match=r"adapter\.safetensors cannot be read"):
        load(how, checkpoint)


@pytest.fixture
def adapter(run):
    """An exported adapter."""
    export(run=run, out=run / "adapter")
    return run / "adapter"


def test_a_served_adapter_is_never_unpickled(adapter, bomb, canary, tiny_llava):
    """A `.bin` beside the weights is not looked at; called `.safetensors` it cannot be read; alone it is refused."""
    torch.save({"weights": bomb}, adapter / "adapter_model.bin")
    settings = EngineSettings(base=tiny_llava, template="llava_hf", adapters={"x": adapter})
    Engine.load(settings, "cpu")
    shutil.copy(adapter / "adapter_model.bin", adapter / WEIGHTS_FILE)
    with pytest.raises(ValueError, match="does not fit the base: Error while deserializing header"):
        Engine.load(settings, "cpu")
    (adapter / WEIGHTS_FILE).unlink()
    with pytest.raises(ValueError, match="Only safetensors are loaded"):
        cli.main(["serve", f"--base={tiny_llava}", f"--adapter=x={adapter}", "--insecure=true"])


def test_an_adapter_to_start_from_is_never_unpickled(adapter, bomb, canary, tiny_llava):
    settings = BackboneSettings(checkpoint=tiny_llava, adapter=str(adapter), lora_rank=4, lora_alpha=32)
    torch.save({"weights": bomb}, adapter / WEIGHTS_FILE)
    with pytest.raises(ValueError, match="cannot be used here"):
        Llava(settings)
    shutil.move(adapter / WEIGHTS_FILE, adapter / "adapter_model.bin")
    with pytest.raises(FileNotFoundError, match=r"adapter_model\.safetensors missing"):
        Llava(settings)
