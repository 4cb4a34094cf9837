"""Served in the format that it was trained in, without being told."""

import json

import pytest

from mmalign.serve import server
from mmalign.serve.adapters import recorded_pad_images, recorded_template


def exported(folder, template, **lineage):
    folder.mkdir()
    (folder / "lineage.json").write_text(json.dumps({"template": template} | lineage))
    return folder


def test_an_export_says_its_format(tmp_path):
    adapters = {"a": exported(tmp_path / "a", "llava_hf"), "b": tmp_path}
    assert recorded_template("some/base", adapters) == "llava_hf"


def test_where_nothing_says(tmp_path):
    assert recorded_template("embedded", {}) == "llava_hf"
    assert recorded_template("some/base", {"a": tmp_path}) == "vicuna_v1"
    assert recorded_pad_images("some/base", {"a": exported(tmp_path / "older", "llava_hf")})


def test_two_formats_cannot_be_served_together(tmp_path):
    adapters = {name: exported(tmp_path / name, name) for name in ("llava_hf", "vicuna_v1")}
    with pytest.raises(ValueError, match=r"different values of template.*--template"):
        recorded_template("some/base", adapters)
    with pytest.raises(ValueError, match="different values of template"):
        recorded_template(str(adapters.pop("llava_hf")), adapters)


def test_a_merged_export_says_it_as_base(tmp_path):
    base = str(exported(tmp_path / "merged", "llava_hf", pad_images=False))
    assert recorded_template(base, {}) == "llava_hf"
    assert not recorded_pad_images(base, {})


def test_padded_and_cropped_cannot_be_served_together(tmp_path):
    adapters = {str(pad): exported(tmp_path / str(pad), "llava_hf", pad_images=pad) for pad in (True, False)}
    with pytest.raises(ValueError, match=r"different values of pad_images.*--pad_images"):
        recorded_pad_images("some/base", adapters)


@pytest.mark.parametrize(("options", "expected"), [((), False), (("--pad_images=true",), True)])
def test_the_command_line_wins_over_the_record(tmp_path, monkeypatch, options, expected):
    built = []
    monkeypatch.setattr(server, "Supervisor", lambda settings, http: built.append(settings))
    monkeypatch.setattr(server, "run", lambda *_, **__: None)
    base = exported(tmp_path / "merged", "llava_hf", pad_images=False)
    (base / "config.json").write_text("{}")
    server.main([f"--base={base}", "--insecure=true", *options])
    assert (built[0].pad_images, built[0].template) == (expected, "llava_hf")
