"""The README's words hold: its commands run, in order, in an empty folder; its files are there."""

import re
import shlex
from pathlib import Path

import pytest

from mmalign import cli

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
COMMANDS = [shlex.split(line)[1:] for line in re.findall(r"^\$ (mmalign .*)$", README, re.MULTILINE)]
SHORTER = {
    "import": ["--num=12"],
    "fit": ["--trainer.max_steps=2", "--trainer.enable_progress_bar=false"],
    "evaluate": [f"--sizes.{name}=4" for name in ("describe", "yes_no", "text", "other")],
}
"""What makes a command of the tour take seconds."""


def test_every_file_it_names_is_there():
    named = re.findall(r"`((?:mmalign|configs|serve|tools|tests|benchmarks|shards)/[\w/.]*)`", README)
    named += re.findall(r"\]\(((?!http)[^)]+)\)", README)
    assert len(named) > 10
    assert not [name for name in named if not (ROOT / name).exists()]


@pytest.mark.slow
def test_the_tour_runs(tmp_path, monkeypatch):
    """Every command but the server and the sweep, which have their own tests, and the import of the reader's files."""
    monkeypatch.chdir(tmp_path)
    tour = [command for command in COMMANDS if not {"serve", "sweep", "nlvr"} & set(command)]
    tour = [command for command in tour if "shards/nlvr/train" not in command]
    assert [command[0] for command in tour] == [
        "inspect",
        "fit",
        "fit",
        "export",
        "evaluate",
        "report",
        "doctor",
        "plan",
        *("import", "sample", "judge", "inspect", "fit", "export", "evaluate"),  # the loop from nothing
    ]
    for name, *options in tour:
        cli.main([name, *options, *SHORTER.get(name, [])])
    assert (tmp_path / "runs/tour/report.html").is_file()
    assert (tmp_path / "runs/loop/judged.html").is_file()
    assert (tmp_path / "runs/loop/evaluation/scores.json").is_file()
