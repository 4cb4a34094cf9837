"""Votes on disk: whole after any kill, bounded, and ready to train on."""

import errno
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from ballots import RED, a_vote, lines, png

from mmalign.batch import Role
from mmalign.data.reader import ShardSet
from mmalign.data.sample import Preference
from mmalign.data.views import Pairs
from mmalign.serve.page import pairs
from mmalign.serve.page import votes as module
from mmalign.serve.page.votes import Votes, check_votes

GB = 1 << 30


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "votes"


@pytest.fixture
def votes(folder, monkeypatch):
    """Open, and without the process that writes shards."""
    monkeypatch.setattr(Votes, "_write_shards", lambda self: None)
    opened = Votes(folder, GB)
    opened.open()
    yield opened
    opened.close()


def size_of(folder):
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def test_a_vote_is_written_whole(folder, votes):
    votes.add(a_vote())
    (line,) = lines(folder)
    assert (line["id"], line["choice"]) == ("a", "right")
    assert [response["model"] for response in line["responses"]] == ["base", "dpo"]
    assert [(folder / "pictures" / name).read_bytes() for name in line["pictures"]] == [png()]


def test_a_picture_is_stored_once(folder, votes):
    for name in "abc":
        votes.add(a_vote(name))
    votes.add(a_vote("d", pictures=(png(), png("blue"), png())))
    assert len(list((folder / "pictures").iterdir())) == 2
    assert len(lines(folder)[-1]["pictures"]) == 3


def test_the_pairs_are_shards_that_dpo_trains_on(folder, votes):
    votes.add(a_vote("a", "right"))
    votes.add(a_vote("b", "left", pictures=(png("blue"), png())))
    votes.add(a_vote("c", "tie"))
    votes.add(a_vote("d", "both_bad"))
    votes.add(a_vote("e", "left", pictures=()))
    assert pairs.write_pairs(folder) == 3
    shards = ShardSet(str(folder / "shards"))
    samples = [shards[number] for number in range(len(shards))]
    assert [sample.preference for sample in samples] == [Preference(1, 0), Preference(0, 1), Preference(0, 1)]
    assert [sample.images for sample in samples] == [(png(),), (png("blue"), png()), ()]
    assert {response.model for sample in samples for response in sample.responses} == {"base", "dpo"}
    assert all(response.sampling["seed"] == 3 for sample in samples for response in sample.responses)
    rows = [row for sample in samples for (row,) in Pairs().groups(sample)]
    assert [[(answer.text, answer.role) for answer in row.answers] for row in rows] == [
        [("Yes.", Role.CHOSEN), ("No.", Role.REJECTED)],
        [("No.", Role.CHOSEN), ("Yes.", Role.REJECTED)],
        [("No.", Role.CHOSEN), ("Yes.", Role.REJECTED)],
    ]
    (step,) = json.loads((folder / "shards/lineage.json").read_text())
    assert step["counts"] == {"right": 1, "left": 2, "tie": 1, "both_bad": 1, "pairs": 3}


def test_votes_that_prefer_nothing_make_no_shards(folder, votes):
    votes.add(a_vote("c", "tie"))
    assert pairs.write_pairs(folder) == 0
    assert not (folder / "shards").exists()


@pytest.mark.parametrize("cut", [1, 10, 300])
def test_half_a_line_is_dropped_and_what_follows_is_whole(folder, votes, cut):
    votes.add(a_vote("a"))
    votes.add(a_vote("b"))
    votes.close()
    journal = folder / "journal.jsonl"
    journal.write_bytes(journal.read_bytes()[:-cut])
    again = Votes(folder, GB)
    again.open()
    again.add(a_vote("c"))
    again.close()
    assert [line["id"] for line in lines(folder)] == ["a", "c"]
    assert pairs.write_pairs(folder) == 2


def test_a_damaged_line_is_named(folder, votes):
    votes.add(a_vote("a"))
    votes.close()
    with (folder / "journal.jsonl").open("a") as file:
        file.write("{}}\n")
    with pytest.raises(ValueError, match="line 2: damaged"):
        Votes(folder, GB).open()


def test_the_folder_never_grows_beyond_its_bound(folder, monkeypatch):
    """Shards are counted before they are written, and twice: a new set is whole before the former one goes."""
    monkeypatch.setattr(Votes, "_write_shards", lambda self: None)
    bound, taken = 200_000, 0
    for _ in range(3):  # what is there is counted when the server starts again
        votes = Votes(folder, bound)
        votes.open()
        while votes.add(a_vote(str(taken), text="Why? " * 20)):
            taken += 1
        votes.close()
        assert taken > 5
        assert pairs.write_pairs(folder) == taken
        shards = size_of(folder / "shards")
        assert size_of(folder) + shards <= bound
        before = taken
    assert taken == before


@pytest.mark.parametrize("where", ["pwrite", "fsync", "picture"])
def test_a_full_disk_loses_the_vote_and_harms_no_other(folder, votes, monkeypatch, caplog, where):
    votes.add(a_vote("a"))

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    if where == "picture":
        monkeypatch.setattr("mmalign.serve.page.votes._write_whole", full)
    else:
        monkeypatch.setattr(f"mmalign.serve.page.votes.os.{where}", full)
    assert not votes.add(a_vote("b", pictures=(png("green"),)))
    assert "No space left" in caplog.text
    assert list((folder / "pictures").glob(".*")) == []
    monkeypatch.undo()
    votes.add(a_vote("c"))
    assert [line["id"] for line in lines(folder)] == ["a", "c"]


def test_half_a_line_of_a_full_disk_is_overwritten(folder, votes, monkeypatch):
    real = os.pwrite

    def half(descriptor, data, offset):
        if len(data) < 100:
            raise OSError(errno.ENOSPC, "full")
        return real(descriptor, data[: len(data) // 2], offset)

    monkeypatch.setattr("mmalign.serve.page.votes.os.pwrite", half)
    assert not votes.add(a_vote("a", text="long " * 99))
    monkeypatch.undo()
    votes.add(a_vote("b"))
    assert [line["id"] for line in lines(folder)] == ["b"]


def test_pictures_and_their_names_are_on_the_disk_before_the_line_that_names_them(folder, votes, monkeypatch):
    synced = []
    monkeypatch.setattr(module.os, "fsync", lambda file: synced.append(os.readlink(f"/proc/self/fd/{file}")))
    votes.add(a_vote())
    (name,) = lines(folder)[0]["pictures"]
    assert synced == [str(folder / path) for path in (f"pictures/.{name}", "pictures", "journal.jsonl")]


def test_a_picture_is_hashed_once(votes, monkeypatch):
    hashed = []
    monkeypatch.setattr(module, "sha256", lambda data: (hashed.append(data), hashlib.sha256(data))[1])
    votes.add(a_vote(pictures=(RED, png("blue"))))
    assert hashed == [RED, png("blue")]


def test_a_vote_that_has_lost_its_picture_is_left_out_and_counted(folder, votes, caplog):
    votes.add(a_vote("a"))
    votes.add(a_vote("b", pictures=(png("blue"),)))
    (folder / "pictures" / lines(folder)[0]["pictures"][0]).unlink()
    assert pairs.write_pairs(folder) == 1
    assert "1 votes are left out" in caplog.text
    (step,) = json.loads((folder / "shards/lineage.json").read_text())
    assert step["counts"] == {"right": 2, "without_picture": 1, "pairs": 1}


def test_shards_are_tried_again_where_no_process_could_be_started(folder, monkeypatch, caplog):
    started = []

    def start(*_, **__):
        started.append(None)
        if len(started) == 1:
            raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        return SimpleNamespace(wait=lambda: 0, kill=lambda: None)

    monkeypatch.setattr(module.subprocess, "Popen", start)
    monkeypatch.setattr(module, "PAUSE_S", 0.01)
    votes = Votes(folder, GB)
    votes.open()
    votes.add(a_vote())
    wait_for(lambda: len(started) == 2)
    votes.close()
    assert "not written yet" in caplog.text


def test_a_folder_belongs_to_one_server(folder, votes):
    with pytest.raises(ValueError, match="another server"):
        Votes(folder, GB).open()
    with pytest.raises(ValueError, match="another server"):
        check_votes(folder)
    votes.close()
    check_votes(folder)
    check_votes(None)


KILLED = """
import sys
from pathlib import Path
from ballots import a_vote
from mmalign.serve.page.votes import Votes
Votes._write_shards = lambda self: None
votes = Votes(Path(sys.argv[1]), 1 << 30)
votes.open()
for number in range(100_000):
    votes.add(a_vote(str(number), text="word " * 200))
    print(number, flush=True)
"""


def kill_while_voting(folder, after):
    """Kill a process that votes; the number of votes that it had been told are stored."""
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2] / "harness")}
    command = [sys.executable, "-c", KILLED, str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as process:
        for told in range(after):
            assert process.stdout.readline().split() == [str(told).encode()]
        process.send_signal(signal.SIGKILL)
        return after + len(process.stdout.readlines())


def check_nothing_is_lost(folder, told):
    votes = Votes(folder, GB)
    votes.open()
    votes.close()
    ids = [line["id"] for line in lines(folder)]
    assert ids == [str(number) for number in range(len(ids))]
    assert len(ids) - told in (0, 1), "one may have been stored and not yet told"


@pytest.mark.slow
def test_a_killed_process_loses_no_vote_that_it_has_confirmed(folder, monkeypatch):
    monkeypatch.setattr(Votes, "_write_shards", lambda self: None)
    check_nothing_is_lost(folder, kill_while_voting(folder, 20))


@pytest.mark.faults
@pytest.mark.parametrize("after", range(1, 41, 2))
def test_no_kill_loses_a_vote(folder, monkeypatch, after):
    monkeypatch.setattr(Votes, "_write_shards", lambda self: None)
    check_nothing_is_lost(folder, kill_while_voting(folder, after))


def wait_for(what, seconds=60):
    deadline = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return found


@pytest.mark.slow
def test_shards_follow_the_journal_and_catch_up_at_the_next_start(folder, monkeypatch):
    monkeypatch.setattr("mmalign.serve.page.votes.PAUSE_S", 0.1)
    monkeypatch.setattr("mmalign.serve.page.votes.PAUSE_SHARE", 0)
    manifest = folder / "shards/manifest.arrow"
    votes = Votes(folder, GB)
    votes.open()
    votes.add(a_vote("a"))
    wait_for(manifest.exists)
    votes.add(a_vote("b"))
    votes.close()  # at once: the second one is in the journal only, or in both
    votes = Votes(folder, GB)
    votes.open()
    wait_for(lambda: len(ShardSet(str(folder / "shards"))) == 2)
    votes.close()


def test_the_process_that_speaks_http_never_imports_torch():
    """Nor the modules that write shards: a process of their own does."""
    code = (
        "import sys, mmalign.serve.http.app, mmalign.serve.page.votes\n"
        "print([name for name in ('torch', 'pyarrow', 'webdataset', 'transformers') if name in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
