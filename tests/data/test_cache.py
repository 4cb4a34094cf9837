"""The cache of remote shards: bounded, shared by processes, never a part for a whole."""

import multiprocessing
import os
import threading
import time
from hashlib import sha256
from pathlib import Path

import pytest
from filelock import FileLock
from fsspec.implementations.local import LocalFileSystem

from mmalign.data import cache, reading
from mmalign.data import remote as remote_module
from mmalign.data.cache import Wanted, cached_folder, keep, opened
from mmalign.data.remote import Remote, file_sha256
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
    def half(url, path, remote, check):
        path.write_bytes(bytes(SIZE // 2))
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


@pytest.fixture
def tried(monkeypatch):
    """`tried(first)`: the first try of a copy calls `first(target)`; a list of the targets of all tries."""
    monkeypatch.setattr("mmalign.data.remote.PAUSE_S", 0.001)
    copy = LocalFileSystem.get_file

    def install(first, then=lambda: None):
        targets = []

        def get_file(self, source, target, **options):
            targets.append(Path(target))
            if len(targets) == 1:
                first(targets[0])
            else:
                copy(self, source, target, **options)
                then()

        monkeypatch.setattr(LocalFileSystem, "get_file", get_file)
        return targets

    return install


def test_a_try_that_was_left_harms_no_later_one_and_leaves_no_file(wanted, remote, tried):
    """It stalls before its first byte, and goes on when the second try has all but ended."""
    goes_on, ended = threading.Event(), threading.Event()

    def late(target):
        goes_on.wait(10)
        target.write_bytes(b"late")
        ended.set()

    def meanwhile():
        goes_on.set()
        ended.wait(10)

    targets = tried(late, meanwhile)
    assert read(wanted(1), Remote(cache=remote.cache, stall_s=0.3)) == bytes([1]) * SIZE
    assert len(set(targets)) == len(targets) == 2
    until = time.monotonic() + 5
    while names(remote, ".*.partial*") and time.monotonic() < until:
        time.sleep(0.01)
    assert names(remote, ".*.partial*") == []


def test_a_shard_damaged_on_the_way_is_fetched_anew(wanted, remote, tried):
    targets = tried(lambda target: target.write_bytes(b"x" * SIZE))
    assert read(wanted(1), remote) == bytes([1]) * SIZE
    assert len(targets) == 2


def test_what_killed_tries_left_goes_when_room_is_needed(wanted, remote):
    """Of the shard that is wanted, and of another one."""
    folder = wanted(0).path.parent
    folder.mkdir(parents=True)
    for number in (0, 1):
        (folder / f".{number}.tar.{SIZE}.partial.1f0c22ab").write_bytes(b"part")
    read(wanted(0), remote)
    assert names(remote, ".*.partial*") == []


def test_hash_and_disk_waits_of_a_large_shard_are_no_silence(wanted, remote, tried, monkeypatch):
    """Its 10 pieces are synced by threes on their way, the rest at the end, and signs of life come all along."""
    monkeypatch.setattr(remote_module, "SYNCED_AT_ONCE", 3000)
    monkeypatch.setattr(remote_module, "HASHED_AT_ONCE", 2500)
    events = []
    fsync = os.fsync
    monkeypatch.setattr(reading, "beat", lambda: events.append("beat"))
    monkeypatch.setattr(os, "fsync", lambda file: (events.append(os.fstat(file).st_size), fsync(file)))

    def in_pieces(self, source, target, callback, **options):
        with Path(target).open("wb", buffering=0) as file:
            for _ in range(10):
                file.write(bytes([1]) * 1000)
                callback.relative_update(1000)

    monkeypatch.setattr(LocalFileSystem, "get_file", in_pieces)
    keep(wanted(1), remote)
    assert [event for event in events if event != "beat"] == [3000, 6000, 9000, SIZE]
    last = events.index(SIZE)
    hashing_and_before_the_last_wait = SIZE // 2500 + 1
    assert events[last - hashing_and_before_the_last_wait : last] == ["beat"] * hashing_and_before_the_last_wait
    assert events[last + 1] == "beat"
    assert file_sha256(wanted(1).path) == wanted(1).sha256
