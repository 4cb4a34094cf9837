"""The command line: its help, and its words for a mistake."""

import socket
from pathlib import Path
from typing import get_args

import pytest

from mmalign import template
from mmalign.serve import settings
from mmalign.serve.adapters import parse_adapters
from mmalign.serve.server import main


def adapter_dir(path: Path, *, weights: str = "adapter_model.safetensors") -> Path:
    path.mkdir()
    (path / "adapter_config.json").write_text("{}")
    (path / weights).write_bytes(b"")
    return path


def test_adapters_are_names_of_folders(tmp_path):
    one, two = adapter_dir(tmp_path / "a=b"), adapter_dir(tmp_path / "two")
    assert parse_adapters([f"dpo={one}", f"v1.5_x-y={two}"]) == {"dpo": one, "v1.5_x-y": two}


@pytest.mark.parametrize("option", ["dpo", "=x", "dpo=", "a/b=x", "../x=y", "-x=y", "a b=c", "x" * 65 + "=y"])
def test_an_adapter_without_a_name_is_explained(option):
    with pytest.raises(ValueError, match="not of the form NAME=DIR"):
        parse_adapters([option])


def test_a_name_is_taken_once(tmp_path):
    folder = adapter_dir(tmp_path / "a")
    with pytest.raises(ValueError, match="'base' is that of the model without an adapter"):
        parse_adapters([f"base={folder}"])
    with pytest.raises(ValueError, match="'a' is given twice"):
        parse_adapters([f"a={folder}", f"a={folder}"])


def test_a_folder_that_is_no_adapter_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no folder .*/nowhere"):
        parse_adapters([f"a={tmp_path / 'nowhere'}"])
    with pytest.raises(FileNotFoundError, match=r"no adapter_config\.json"):
        parse_adapters([f"a={tmp_path}"])
    with pytest.raises(ValueError, match="Only safetensors are loaded"):
        parse_adapters([f"a={adapter_dir(tmp_path / 'pickle', weights='adapter_model.bin')}"])


@pytest.mark.parametrize("base", ["/nowhere/at/all", "./nowhere", "out/runs/merged"])
def test_a_base_that_is_not_there_is_named_at_once(base):
    with pytest.raises(FileNotFoundError, match=f"--base '{base}': there is no such folder"):
        main(["--base", base])


def test_a_base_folder_without_a_model_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no config\.json"):
        main(["--base", str(tmp_path)])


def test_a_port_that_is_taken_or_impossible_is_named_at_once():
    with socket.create_server(("127.0.0.1", 0)) as other, pytest.raises(ValueError, match="Choose another one"):
        main(["--base", "embedded", "--port", str(other.getsockname()[1])])
    with pytest.raises(ValueError, match="1024 to 65535, got 80"):
        main(["--base", "embedded", "--port", "80"])


@pytest.mark.parametrize("option", [["--max_new_tokens", "0"], ["--max_images", "-1"]])
def test_a_limit_must_be_one(option):
    with pytest.raises(ValueError, match=f"{option[0]} must"):
        main(["--base", "embedded", "--insecure=true", "--port", "18237", *option])


def test_help_says_what_every_option_does(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    said = " ".join(capsys.readouterr().out.split())
    for words in ("--adapter NAME=DIR", "May be given several times", "Address to listen on", "default: 127.0.0.1"):
        assert words in said
    assert "Args:" not in said


@pytest.mark.parametrize("option", [["--port", "x"], ["--template", "alpaca"], ["--prot", "8000"], ["--host", "evil"]])
def test_an_unknown_option_or_value_ends_with_its_name(option, capsys):
    with pytest.raises(SystemExit):
        main(["--base", "embedded", *option])
    assert option[0].strip("-") in capsys.readouterr().err


def test_the_templates_are_the_librarys():
    assert get_args(settings.TemplateName) == get_args(template.TemplateName)
