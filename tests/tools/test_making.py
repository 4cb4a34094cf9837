"""Shards of shards: whole or not there, taken up where they were left, never mixed with those of other settings."""

from collections import Counter
from typing import NamedTuple

import pytest
from filelock import FileLock

from mmalign.data.lineage import Step, lineage_of
from mmalign.data.manifest import Manifest
from mmalign.data.reader import ShardSet
from mmalign.data.sample import Response, Sample
from mmalign.data.shards import ShardWriter
from mmalign.messages import Message, Text
from mmalign.tools.making import KEPT, finish, making

KEYS = ("one", "two", "three")


class Shout(NamedTuple):
    id: str
    text: str


def write(folder, *keys, lineage=()):
    with ShardWriter(folder) as writer:
        for key in keys:
            writer.write(Sample(key=key, messages=(Message("user", (Text(f"What is {key}?"),)),), id=key))
        writer.lineage = lineage
    return folder


@pytest.fixture
def shards(tmp_path):
    return write(tmp_path / "in", *KEYS, lineage=(Step("import questions", "q.json", "9f2c"),))


def shout(shards, out, *, loud="very", overwrite=False, stop_at=None, asked=None):
    """A command of the common shape: every sample gets one response, its key in capitals."""
    settings = {"loud": loud, "scale": [1, 2]}
    with making(str(shards), out, command="shout", settings=settings, overwrite=overwrite) as work:
        if work is None:
            return
        file = work.records("shouts.jsonl", Shout)
        samples = [work.source[number] for number in range(len(work.source))]
        for sample in samples:
            if sample.id == stop_at:
                raise KeyboardInterrupt
            if sample.id not in file.records:
                if asked is not None:
                    asked.append(sample.id)
                file.append([Shout(sample.id, sample.key.upper())])
        counts = Counter(samples=0)
        finish(work, answered(samples, file.records, counts), counts, following="mmalign whisper")


def answered(samples, records, counts):
    for sample in samples:
        counts["samples"] += 1
        text = records[sample.id].text
        yield Sample(**{**vars(sample), "responses": (*sample.responses, Response(text=text))})


def texts(folder):
    found = ShardSet(str(folder))
    return [found[i].responses[0].text for i in range(len(found))]


def test_samples_keep_their_order_and_the_lineage_grows_by_one_step(shards, tmp_path, capsys):
    out = tmp_path / "out"
    shout(shards, out)
    assert texts(out) == ["ONE", "TWO", "THREE"]
    first, step = lineage_of(Manifest.load(out))
    assert first.command == "import questions"
    settings = {"loud": "very", "scale": [1, 2]}
    assert step == Step("shout", str(shards), Manifest.load(shards).hash, settings, {"samples": 3})
    assert capsys.readouterr().out == f"{out}: 3 samples.\nNext: mmalign whisper\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "out"]


def test_stopped_work_is_taken_up(shards, tmp_path):
    """What was done before the stop is not done again; the result is that of a run which nobody stopped."""
    asked = []
    with pytest.raises(KeyboardInterrupt):
        shout(shards, tmp_path / "out", stop_at="three", asked=asked)
    assert not (tmp_path / "out").exists()
    shout(shards, tmp_path / "out", asked=asked)
    assert asked == list(KEYS)
    shout(shards, tmp_path / "whole")
    for path in (tmp_path / "whole").iterdir():
        assert path.read_bytes() == (tmp_path / "out" / path.name).read_bytes()


def test_what_is_made_already_is_left_alone(shards, tmp_path, capsys):
    shout(shards, tmp_path / "out")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()}
    asked = []
    shout(shards, tmp_path / "out", asked=asked)
    assert (asked, before) == ([], {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()})
    assert "is there already, made with these settings: 3 samples." in capsys.readouterr().out
    assert not (tmp_path / "out.partial").exists()


def test_other_settings_are_refused_unless_they_may_replace(shards, tmp_path):
    """What somebody laid beside the old shards stays, as reference log-probabilities do."""
    out = tmp_path / "out"
    shout(shards, out)
    (out / "reference").mkdir()
    (out / "reference" / "values.arrow").write_bytes(b"kept")
    with pytest.raises(ValueError, match=r"out holds other shards: loud differ.*--overwrite true"):
        shout(shards, out, loud="hardly")
    shout(shards, out, loud="hardly", overwrite=True)
    assert lineage_of(Manifest.load(out))[-1].settings["loud"] == "hardly"
    assert (out / "reference" / "values.arrow").read_bytes() == b"kept"
    assert not (tmp_path / "out.partial").exists()


def test_other_shards_are_other_settings(shards, tmp_path):
    shout(shards, tmp_path / "out")
    with pytest.raises(ValueError, match="the shards read differ"):
        shout(write(tmp_path / "other", "four"), tmp_path / "out")


def test_unfinished_work_of_other_settings_is_not_mixed_in(shards, tmp_path):
    """With leave to overwrite it is dropped, all but what was paid for."""
    with pytest.raises(KeyboardInterrupt):
        shout(shards, tmp_path / "out", stop_at="two")
    (tmp_path / "out.partial" / KEPT).mkdir()
    (tmp_path / "out.partial" / KEPT / "reply").write_text("dear")
    with pytest.raises(ValueError, match=r"out.partial holds unfinished work of other settings: loud differ"):
        shout(shards, tmp_path / "out", loud="hardly")
    asked = []
    shout(shards, tmp_path / "out", loud="hardly", overwrite=True, asked=asked)
    assert asked == list(KEYS)
    assert (tmp_path / "out.partial" / KEPT / "reply").read_text() == "dear"


def test_two_processes_do_not_make_the_same(shards, tmp_path):
    (tmp_path / "out.partial").mkdir()
    with FileLock(tmp_path / "out.partial" / "lock"), pytest.raises(ValueError, match=r"out.partial/lock is held"):
        shout(shards, tmp_path / "out")


def test_a_kill_while_the_old_set_is_replaced_loses_nothing(shards, tmp_path, monkeypatch):
    """Between the two renames OUT is gone; the next run makes it of what the partial folder holds."""
    out = tmp_path / "out"
    shout(shards, out)
    (out / "notes").write_text("mine")
    rename = type(out).rename

    def killed(self, target):
        if self.name == "written":
            raise KeyboardInterrupt
        return rename(self, target)

    monkeypatch.setattr(type(out), "rename", killed)
    with pytest.raises(KeyboardInterrupt):
        shout(shards, out, loud="hardly", overwrite=True)
    assert not out.exists()
    monkeypatch.undo()
    asked = []
    shout(shards, out, loud="hardly", asked=asked)
    assert (asked, texts(out), (out / "notes").read_text()) == ([], ["ONE", "TWO", "THREE"], "mine")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("in", "is what --shards reads"),
        ("a.txt", "is a file"),
        ("notes", "is no shard set"),
        ("link", "--shards reads"),
    ],
)
def test_a_place_that_cannot_be_written_is_refused(shards, tmp_path, name, message):
    (tmp_path / "a.txt").write_text("mine")
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").write_text("mine")
    (tmp_path / "link").symlink_to(shards)
    with pytest.raises(ValueError, match=message):
        shout(shards, tmp_path / name, overwrite=True)
    assert (tmp_path / "a.txt").read_text() == "mine"


def test_a_name_that_ships_with_mmalign_is_no_place_for_new_shards(shards, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="reads its own shards"):
        shout(shards, type(tmp_path)("world"))


def test_shards_that_are_not_there_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        shout(tmp_path / "nowhere", tmp_path / "out")
