"""The tiny run for the doctor to look at, and copies of its parts to damage."""

import shutil
from pathlib import Path

import pytest

from mmalign import cli
from mmalign.data.datamodule import ShardData
from mmalign.data.views import Pairs
from mmalign.tools.doctor.run import Subject


@pytest.fixture
def subject(tiny_args, tmp_path):
    """`subject(*options)`: the tiny run as `fit` would get it; nothing is loaded yet."""

    def build(*options):
        return Subject(cli.with_shipped_configs(tiny_args(f"--trainer.default_root_dir={tmp_path / 'run'}", *options)))

    return build


@pytest.fixture
def data(tiny_llava, color_shards):
    """`data(**settings)`: what `fit` would read."""

    def build(**settings):
        standing = {"shards": str(color_shards), "checkpoint": tiny_llava, "batch_size": 8, "micro_batch_size": 4}
        return ShardData(view=Pairs(), template="llava_hf", **standing | settings)

    return build


@pytest.fixture
def own_shards(color_shards, tmp_path):
    """A copy to damage."""
    return Path(shutil.copytree(color_shards, tmp_path / "shards"))
