"""The reference pass killed, damaged, split among ranks, beside another one, on folders of others."""

import copy
import shutil
import threading
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from scoring import Pass, bytes_of, trained

from mmalign.data import missing
from mmalign.data.rowset import Source
from mmalign.reference import Ranks


def test_killed_and_run_again_it_goes_on_behind_the_last_block(computing, shards, monkeypatch):
    """Blocks of 2 samples, one forward each: 7 in all; the kill comes in the fifth. The same bytes come out."""
    monkeypatch.setattr(missing, "BLOCK", 2)
    whole = bytes_of(computing(shards))
    assert computing.forwards == 7
    shutil.rmtree(shards / "reference")
    computing.stop_after = 4
    with pytest.raises(KeyboardInterrupt):
        computing(shards)
    assert not list((shards / "reference").glob("*/*.arrow"))
    computing.stop_after = None
    store = computing(shards)
    assert computing.forwards == 3
    assert bytes_of(store) == whole
    assert not (store.folder / "parts").exists()


def test_a_block_that_was_damaged_meanwhile_is_told_and_made_anew(computing, shards, monkeypatch, messages):
    monkeypatch.setattr(missing, "BLOCK", 2)
    computing.stop_after = 4
    with pytest.raises(KeyboardInterrupt):
        computing(shards)
    part = next(iter(sorted((shards / "reference").glob("*/parts/*.arrow"))))
    part.write_bytes(part.read_bytes()[:100])
    computing.stop_after = None
    computing(shards)
    assert "Computed anew" in messages()
    assert computing.forwards == 4


def together(world_size, work):
    """Call `work(ranks)` on as many threads, which wait for one another as ranks do."""
    meeting, board, failures = threading.Barrier(world_size, timeout=60), {}, []

    def broadcast(rank, value):
        if rank == 0:
            board["value"] = value
        meeting.wait()
        found = copy.deepcopy(board["value"])
        meeting.wait()
        return found

    def run(rank):
        try:
            barrier = lambda: meeting.wait() and None  # noqa: E731
            work(Ranks(rank=rank, world_size=world_size, barrier=barrier, broadcast=partial(broadcast, rank)))
        except BaseException as error:
            meeting.abort()
            failures.append(error)

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(world_size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


@pytest.mark.parametrize("world_size", [2, 3])
def test_ranks_split_the_work_and_make_the_same_bytes(computing, settings, template, shards, monkeypatch, world_size):
    """Also of one shard alone: blocks are dealt, not shards."""
    monkeypatch.setattr(missing, "BLOCK", 2)
    alone = bytes_of(computing(shards))
    shutil.rmtree(shards / "reference")
    passes = {rank: Pass(trained(settings), settings, template) for rank in range(world_size)}

    def work(ranks):
        each = passes[ranks.rank]
        each.computing = replace(each.computing, ranks=ranks)
        each(shards)

    together(world_size, work)
    assert bytes_of(computing(shards)) == alone
    assert computing.forwards == 0
    assert sum(each.forwards for each in passes.values()) == 7
    assert all(each.forwards >= 7 // world_size for each in passes.values())


def test_worker_processes_make_the_same_bytes(computing, llava, settings, template, shards):
    here = bytes_of(computing(shards))
    shutil.rmtree(shards / "reference")
    assert bytes_of(Pass(llava, settings, template, num_workers=2)(shards)) == here


def test_a_damaged_file_is_told_and_made_anew(computing, shards, messages):
    """One bit: its two rows of five samples are computed again, the other shards' are kept."""
    store = computing(shards)
    whole = bytes_of(store)
    path = store.folder / "000000.tar.arrow"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    assert bytes_of(computing(shards)) == whole
    assert set(computing.keys) == {f"000000.tar/s{n:02d}" for n in range(5)}
    assert "Computed anew: " in messages()
    assert "000000.tar.arrow" in messages()


def test_what_is_there_and_what_will_be_computed_is_one_line(computing, shards, messages):
    computing(shards)
    assert "reference log-probabilities of 0 of 12 samples are in" in messages()
    assert "12 samples are read now" in messages()
    computing(shards)
    assert "all reference log-probabilities are in" in messages()


def test_shards_in_a_read_only_folder_have_their_store_in_the_cache(computing, shards, cache, monkeypatch):
    """And one that is whole beside them is read there."""
    beside = computing(shards).folder
    kept = shards / "reference"
    monkeypatch.setattr("mmalign.data.missing.os.access", lambda path, mode: cache in Path(path).parents)
    assert computing(shards).folder == beside
    (beside / "000001.tar.arrow").unlink()
    store = computing(shards)
    assert cache in store.folder.parents
    assert set(computing.keys) == {f"000001.tar/s{n:02d}" for n in range(5, 10)}  # what lies beside is kept
    assert sorted(path.name for path in kept.glob("*/*.arrow")) == ["000000.tar.arrow", "000002.tar.arrow"]


def test_shipped_shards_are_left_alone(computing, cache):
    folder = Path(Source(path="world-heldout").resolve())
    before = sorted(folder.rglob("*"))
    computing.stop_after = 1
    with pytest.raises(KeyboardInterrupt):
        computing(folder)
    assert sorted(folder.rglob("*")) == before
    assert list(cache.rglob("key.json"))


def test_a_second_run_waits_for_the_first_and_finds_all_done(settings, template, shards):
    passes = [Pass(trained(settings), settings, template) for _ in range(2)]
    threads = [threading.Thread(target=each, args=(shards,)) for each in passes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(each.forwards for each in passes) == 7
