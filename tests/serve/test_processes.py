"""Starts that go wrong or are cut short: the right words, and no process left behind."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow


def test_sigterm_while_loading_leaves_nothing(start, processes_of, left_behind):
    process = start().process
    deadline = time.monotonic() + 30
    while not any("spawn_main" in row for row in processes_of(process.pid)):  # the worker is there, and loads
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.1)
    process.terminate()
    assert process.wait(20) == 0
    assert left_behind(process.pid) == []


def test_an_adapter_of_another_model_is_refused(start, left_behind, tiny_adapters, tmp_path):
    config = (tiny_adapters["dpo"] / "adapter_config.json").read_text()
    (tmp_path / "adapter_config.json").write_text(config.replace('"r": 4', '"r": 8'))
    (tmp_path / "adapter_model.safetensors").write_bytes(
        (tiny_adapters["dpo"] / "adapter_model.safetensors").read_bytes()
    )
    _, process, log = start(f"--adapter=odd={tmp_path}")
    assert process.wait(60) == 1
    assert f"--adapter odd={tmp_path} does not fit the base" in log.read_text()
    assert left_behind(process.pid) == []


def test_the_http_side_needs_no_torch():
    """The main process and the HTTP process stay small and start fast; only the worker loads torch."""
    code = "import sys, mmalign.serve.server; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path("/")).returncode == 0
