"""`mmalign doctor` as a whole."""

import json
import os
import subprocess
import sys

import pytest

from mmalign.tools.doctor import command
from mmalign.tools.doctor.findings import ok


def test_a_config_that_cannot_be_read_leaves_the_machine_to_check(monkeypatch, subject, capsys):
    monkeypatch.setattr(command, "collectives", lambda ranks, backend: ok(f"{ranks} ranks"))
    with pytest.raises(SystemExit) as stopped:
        command.main(subject("--model.beta=-1").args)
    assert stopped.value.code == 1
    printed = capsys.readouterr().out
    assert "failed   config" in printed
    assert "ok       versions" in printed
    assert "not checked" in printed


@pytest.mark.slow
def test_the_command_passes_the_embedded_model(tmp_path):
    report = tmp_path / "report.json"
    options = ["--config", "dpo.yaml", "--config", "scale/tiny.yaml", "--full", "--json", str(report)]
    done = subprocess.run(
        [sys.executable, "-m", "mmalign.cli", "doctor", *options],
        cwd=tmp_path, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(report.read_text())
    assert [line["name"] for line in found["checks"] if line["status"] == "failed"] == []
    assert len(done.stdout.splitlines()) >= len(found["checks"]) > 15
    assert os.listdir(tmp_path) == ["report.json"]
