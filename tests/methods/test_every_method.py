"""Every shipped config, through the door a user comes in by: it trains, and what it says of itself is there."""

import re
from pathlib import Path

import pytest
import torch
import yaml

from mmalign.backbone import BackboneSettings, Llava
from mmalign.cli import shipped_configs

ROOT = Path(__file__).parents[2]
CONFIGS = [name for name in shipped_configs() if "/" not in name and name != "defaults.yaml"]
METHODS = sorted(path for path in (ROOT / "mmalign/methods").glob("*.py") if path.stem not in ("__init__", "base"))
EXTRA = {"sft.yaml": ["--data.view.model=test"]}
"""What the colour shards want besides: their answers are by `test`."""


@pytest.fixture(scope="session")
def moved_adapter(tiny_llava, tmp_path_factory):
    """An adapter that is not the base: another reference for MRPO."""
    settings = BackboneSettings(checkpoint=tiny_llava, dtype="float32", lora_rank=4, lora_alpha=8)
    llava = Llava(settings)
    torch.manual_seed(5)
    for name, parameter in llava.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.05)
    folder = tmp_path_factory.mktemp("adapter") / "moved"
    llava.save(folder)
    return str(folder)


@pytest.mark.slow
@pytest.mark.parametrize("config", CONFIGS)
def test_every_config_trains(fit, logged, adapter_of, tmp_path, moved_adapter, config):
    """From its shipped config: the preflight passes, the loss is a number and falls, only adapters move."""
    extra = [f"--model.adapters=[{moved_adapter}]"] if config == "mrpo.yaml" else EXTRA.get(config, [])
    trained = fit("--trainer.max_epochs=4", "--trainer.max_steps=-1", *extra, config=config)
    losses = list(logged(tmp_path / "run").values())
    assert len(losses) == trained.trainer.global_step
    assert sum(losses[-3:]) < sum(losses[:3])
    assert all(bool(p.any()) for name, p in adapter_of(trained).items() if "lora_B" in name)
    assert "val/loss" in trained.trainer.callback_metrics


@pytest.mark.parametrize("config", CONFIGS)
def test_a_config_names_its_method_its_paper_and_its_own_run(config):
    text = (ROOT / "configs" / config).read_text()
    values = yaml.safe_load(text)
    assert values["trainer"]["default_root_dir"] == f"runs/{Path(config).stem}"
    assert "https://arxiv.org/abs/" in text
    module, _, cls = values["model"]["class_path"].rpartition(".")
    assert (ROOT / f"{module.replace('.', '/')}.py").is_file()
    assert cls


@pytest.mark.parametrize("path", METHODS, ids=lambda path: path.stem)
def test_a_method_says_where_its_parts_are(path):
    """Its docstring names a config and tests that are there; its row stands in the table of configs."""
    head = path.read_text().split('"""')[1]
    configs = re.findall(r"configs/[a-z_/]+\.yaml", head)
    tests = re.findall(r"tests/[a-z_/]+\.py", head)
    assert configs
    assert tests
    missing = [name for name in (*configs, *tests) if not (ROOT / name).is_file()]
    assert not missing
    table = (ROOT / "configs/README.md").read_text()
    assert all(f"`{Path(config).name}`" in table for config in configs)
