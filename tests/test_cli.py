"""The command line: what a user types, and what she is told when it is wrong."""

import subprocess
import sys

import pytest
import yaml

from mmalign import cli


def run_cli(*args):
    return subprocess.run([sys.executable, "-m", "mmalign.cli", *args], capture_output=True, text=True, timeout=120)


@pytest.fixture
def console(monkeypatch, capsys):
    """The program's own entry point, in this process: exit status and all that it said. Any other exception fails."""

    def run(*args):
        monkeypatch.setattr(sys, "argv", ["mmalign", *args])
        with pytest.raises(SystemExit) as stopped:
            cli.console()
        said = capsys.readouterr()
        message = stopped.value.code if isinstance(stopped.value.code, str) else ""
        return message or stopped.value.code, said.out + said.err + message

    return run


def test_help_lists_every_command_and_config():
    text = cli.usage()
    assert all(name in text for name in (*cli.TRAINER_COMMANDS, *cli.PROGRAMS))
    assert "dpo.yaml" in text
    assert "scale/tiny.yaml" in text


def test_a_bare_config_name_is_found_in_the_shipped_ones(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = cli.with_shipped_configs(["--config", "dpo.yaml", "--config=scale/tiny.yaml", "--config", "mine.yaml"])
    assert found[1].endswith("configs/dpo.yaml")
    assert found[2].endswith("configs/scale/tiny.yaml")
    assert found[4] == "mine.yaml"
    (tmp_path / "dpo.yaml").write_text("{}")
    assert cli.with_shipped_configs(["--config", "dpo.yaml"]) == ["--config", "dpo.yaml"]


@pytest.mark.slow
def test_print_config_shows_the_papers_values_and_the_override(console):
    status, said = console("fit", "--config", "dpo.yaml", "--data.shards=x", "--model.beta=0.2", "--print_config")
    assert status in (0, None), said
    config = yaml.safe_load(said)
    method = config["model"]["init_args"]
    assert (method["beta"], method["backbone"]["lora_rank"], method["backbone"]["lora_alpha"]) == (0.2, 128, 256)
    assert (config["data"]["batch_size"], config["trainer"]["devices"], config["trainer"]["max_epochs"]) == (128, 4, 3)


@pytest.mark.slow
@pytest.mark.parametrize(
    "command", ["fit", "validate", "reference", "import", "inspect", "export", "evaluate", "sweep", "report", "serve"]
)
def test_every_command_has_help_worth_reading(console, command):
    status, said = console(command, "--help")
    assert status in (0, None)
    assert len(said) > 300


@pytest.mark.slow
@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["fly"], "no command 'fly'"),
        (["fit", "--config", "dpo.yaml", "--model.bta=1"], "bta"),
        (["fit", "--config", "nowhere.yaml"], "nowhere.yaml"),
        (["fit", "--config", "dpo.yaml"], "scale/tiny.yaml"),
        (["fit", "--config", "dpo.yaml", "--config", "scale/tiny.yaml", "--ckpt_path=last"], "no usable checkpoint"),
        (["fit", "--config", "dpo.yaml", "--config", "scale/tiny.yaml", "--data.shards=no/such"], "no/such"),
        (
            ["fit", "--config", "dpo.yaml", "--config", "scale/tiny.yaml", "--trainer.accumulate_grad_batches=4"],
            "data.micro_batch_size",
        ),
        (["export", "--run", "no/such", "--out", "x"], "no/such"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_users_mistake_is_one_message(console, tmp_path, monkeypatch, args, says):
    """No traceback, non-zero exit, and the message names what was wrong."""
    monkeypatch.chdir(tmp_path)
    status, said = console(*args)
    assert status not in (0, None)
    assert says in said


@pytest.mark.slow
def test_a_wrong_checkpoint_is_one_message(tmp_path, monkeypatch):
    """In a process of its own that does not ask the hub, where a name that is no folder is looked for with retries."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    done = run_cli("fit", "--config=dpo.yaml", "--config=scale/tiny.yaml", "--model.backbone.checkpoint=no/such")
    assert done.returncode != 0
    assert "no/such" in done.stderr
    assert "--config scale/tiny.yaml" in done.stderr
    assert "Traceback" not in done.stderr
