"""The cache of remote shards: bounded, shared by processes, never a part for a whole."""

import multiprocessing
import os
import threading
import time
from hashlib import sha256

import pytest
from filelock import FileLock

from mmalign.data import cache
from mmalign.data.cache import Wanted, cached_folder, keep, opened
from mmalign.data.remote import Remote
from mmalign.data.sample import ShardError

SIZE = 10_000
ROOM = 3.5 * SIZE / 10**9
"""For three shards, in GB."""

FORK = multiprocessing.get_context("fork")


@pytest.fixture
def origin(tmp_path):
    """Address of ten shards of 10 kB."""
    (tmp_path / "origin").mkdir()
    for number in range(10):
        (tmp_path / "origin" / f"{number}.tar").write_bytes(bytes([number]) * SIZE)
    return f"file://{tmp_path}/origin"


@pytest.fixture
def remote(tmp_path):
    return Remote(cache=tmp_path / "cache", cache_gb=ROOM, stall_s=10.0)


@pytest.fixture
def wanted(origin, remote):
    """`wanted(number)`: one of the shards."""

    def make(number):
        folder = cached_folder(origin, remote)
        digest = sha256(bytes([number]) * SIZE).hexdigest()
        return Wanted(f"{origin}/{number}.tar", folder / f"{number}.tar", SIZE, digest)

    return make


def names(remote, pattern="*.tar"):
    return sorted(path.name for path in remote.cache.glob(f"*/{pattern}"))


def read(wanted, remote):
    with opened(wanted, remote) as file:
        return file.read()


def test_what_was_not_read_for_the_longest_time_goes(wanted, remote):
    for number in (0, 1, 2, 0, 3):
        assert read(wanted(number), remote) == bytes([number]) * SIZE
        time.sleep(0.01)  # file times have steps of a few milliseconds
    assert names(remote) == ["0.tar", "2.tar", "3.tar"]


def test_a_shard_that_is_read_never_goes(wanted, remote):
    """Though it is the oldest, and while it is read by another process, too."""
    with opened(wanted(0), remote) as file:
        for number in (1, 2, 3, 4):
            read(wanted(number), remote)
        assert names(remote) == ["0.tar", "3.tar", "4.tar"]
        assert file.read() == bytes(SIZE)
    held, done = FORK.Event(), FORK.Event()
    holder = FORK.Process(target=_hold, args=(wanted(0), remote, held, done))
    holder.start()
    assert held.wait(10)
    for number in (1, 2):
        read(wanted(number), remote)
    assert "0.tar" in names(remote)
    done.set()
    holder.join(10)
    for number in (5, 6, 7):
        read(wanted(number), remote)
    assert names(remote) == ["5.tar", "6.tar", "7.tar"]


def _hold(wanted, remote, held, done):
    with opened(wanted, remote):
        held.set()
        done.wait(10)


def test_room_is_waited_for_where_everything_is_in_use(wanted, remote):
    opener = [opened(wanted(number), remote) for number in range(3)]
    for each in opener:
        each.__enter__()
    fetching = threading.Thread(target=keep, args=(wanted(3), remote))
    fetching.start()
    fetching.join(0.5)
    assert fetching.is_alive()
    assert names(remote) == ["0.tar", "1.tar", "2.tar"]
    for each in opener:
        each.__exit__(None, None, None)
    fetching.join(10)
    assert "3.tar" in names(remote)
    assert len(names(remote)) == 3


def test_several_processes_read_right_bytes_and_never_exceed_the_limit(wanted, remote):
    """Four processes, ten shards, room for three: each read is right, and the sum was never above the limit."""
    failed = FORK.Value("i", 0)
    workers = [FORK.Process(target=_wander, args=(seed, wanted, remote, failed)) for seed in range(4)]
    remote.cache.mkdir()
    for worker in workers:
        worker.start()
    most = 0
    while any(worker.is_alive() for worker in workers):
        with FileLock(remote.cache / ".room.lock"):  # or one shard is counted before it goes, and its successor, too
            most = max(most, cache._used(remote.cache))
        time.sleep(0.001)
    assert [worker.exitcode for worker in workers] == [0] * 4
    assert failed.value == 0
    assert SIZE < most <= 3 * SIZE
    assert names(remote, ".*.partial") == []


def _wander(seed, wanted, remote, failed):
    for turn in range(12):
        number = (seed * 7 + turn * 3) % 10
        if read(wanted(number), remote) != bytes([number]) * SIZE:
            failed.value += 1


def test_a_shard_is_fetched_by_one_of_those_who_want_it(wanted, remote, monkeypatch):
    fetched = FORK.Value("i", 0)
    fetch = cache.fetch

    def counted(*args, **options):
        with fetched.get_lock():
            fetched.value += 1
        time.sleep(0.2)
        fetch(*args, **options)

    monkeypatch.setattr(cache, "fetch", counted)
    workers = [FORK.Process(target=read, args=(wanted(0), remote)) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(10)
    assert [worker.exitcode for worker in workers] == [0] * 4
    assert fetched.value == 1


def test_what_a_killed_process_was_fetching_is_not_taken_for_a_shard_and_goes(wanted, remote, monkeypatch):
    """Its half file counts as a whole one as long as it lives, and is cleared away when room is needed."""
    killed = FORK.Process(target=_fetch_half_and_hang, args=(wanted(0), remote))
    killed.start()
    while not names(remote, ".0.tar*.partial") or cache._used(remote.cache) < SIZE:
        assert killed.is_alive()
        time.sleep(0.01)
    read(wanted(1), remote)
    assert names(remote) == ["1.tar"]
    assert cache._used(remote.cache) == 2 * SIZE
    killed.kill()
    killed.join(10)
    assert names(remote, ".0.tar*.partial") != []
    read(wanted(2), remote)
    assert names(remote, ".*.partial") == []
    assert read(wanted(0), remote) == bytes(SIZE)


def _fetch_half_and_hang(wanted, remote):
    def half(url, path, remote, *, size):
        path.write_bytes(bytes(size // 2))
        time.sleep(30)

    cache.fetch = half
    keep(wanted, remote)


@pytest.mark.parametrize("fault", ["cut", "flipped"])
def test_wrong_bytes_are_refused_and_not_kept(wanted, remote, tmp_path, fault, monkeypatch):
    monkeypatch.setattr("mmalign.data.remote.PAUSE_S", 0.001)
    path = tmp_path / "origin" / "0.tar"
    path.write_bytes(bytes(SIZE - 1) if fault == "cut" else bytes(SIZE - 1) + b"\1")
    said = rf"{SIZE - 1} of {SIZE} bytes came" if fault == "cut" else r"hashes to .*its manifest says"
    with pytest.raises(ShardError, match=rf"/origin/0\.tar .*{said}"):
        read(wanted(0), remote)
    assert names(remote) == names(remote, ".*.partial") == []


def test_a_shard_larger_than_the_cache_is_refused_with_both_sizes(wanted, remote):
    with pytest.raises(ShardError, match=r"a shard of 1e-05 GB does not fit `data\.cache_gb` of 5e-06"):
        read(wanted(0), Remote(cache=remote.cache, cache_gb=5e-6))


def test_a_full_disk_is_said_at_once(wanted, remote, monkeypatch):
    def full(*args):
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr("mmalign.data.remote._copy", full)
    with pytest.raises(ShardError, match=r"1 try \(OSError: .*No space left on device\).*free disk space"):
        read(wanted(0), remote)
