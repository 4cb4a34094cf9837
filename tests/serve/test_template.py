"""Served in the format that it was trained in, without being told."""

import json

import pytest

from mmalign.serve.adapters import recorded_template


def exported(folder, template):
    folder.mkdir()
    (folder / "lineage.json").write_text(json.dumps({"template": template}))
    return folder


def test_an_export_says_its_format(tmp_path):
    adapters = {"a": exported(tmp_path / "a", "llava_hf"), "b": tmp_path}
    assert recorded_template("some/base", adapters) == "llava_hf"


def test_where_nothing_says(tmp_path):
    assert recorded_template("embedded", {}) == "llava_hf"
    assert recorded_template("some/base", {"a": tmp_path}) == "vicuna_v1"


def test_two_formats_cannot_be_served_together(tmp_path):
    adapters = {name: exported(tmp_path / name, name) for name in ("llava_hf", "vicuna_v1")}
    with pytest.raises(ValueError, match="different templates"):
        recorded_template("some/base", adapters)
