"""Worker processes: what they read can be seen, and one that is dead or silent ends the run by name."""

import os
import signal
import threading
import time

import pytest
import torch
from torch.utils.data import Dataset

from mmalign.data import reading
from mmalign.data import workers as workers_module
from mmalign.data.loader import EncodedRows, RowLoader, Share
from mmalign.data.reader import ShardSet
from mmalign.data.reading import Board
from mmalign.data.rowset import RowSet, Source
from mmalign.data.sample import ShardError
from mmalign.data.views import Pairs
from mmalign.data.workers import LoadingError, load


class Shelf(Dataset):
    """Squares of numbers; some take long, some never come, at some the process dies."""

    def __init__(self, *, slow=None, stuck=None, deadly=None):
        self.slow, self.stuck, self.deadly = slow, stuck, deadly

    def __getitem__(self, number):
        reading.begin(f"shelf.tar, sample '{number}'")
        if number == self.slow:
            for _ in range(20):
                time.sleep(0.1)
                reading.beat()
        if number == self.stuck:
            time.sleep(60)
        if number == self.deadly:
            os.kill(os.getpid(), signal.SIGKILL)
        return number**2


@pytest.fixture(autouse=True)
def quick_looks(monkeypatch):
    monkeypatch.setattr(workers_module, "LOOK_EVERY_S", 0.2)


@pytest.mark.filterwarnings("ignore:This DataLoader will create 3 worker processes")  # on two cores
@pytest.mark.parametrize("num_workers", [0, 1, 3])
def test_items_come_in_order(num_workers):
    assert list(load(Shelf(), range(20), num_workers=num_workers)) == [n**2 for n in range(20)]


def test_a_killed_worker_is_named_with_what_it_read():
    said = r"rank 3: loader worker \d \(pid \d+\) died at shelf\.tar, sample '5'\..*memory.*--ckpt_path auto"
    with pytest.raises(LoadingError, match=said):
        list(load(Shelf(deadly=5), range(20), num_workers=2, rank=3))


def test_a_worker_that_hangs_is_named_with_what_it_reads():
    began = time.monotonic()
    said = r"rank 1: loader worker \d \(pid \d+\) has been silent for \d s at shelf\.tar, sample '5'\..*`data\.stall_s`"
    with pytest.raises(LoadingError, match=said):
        list(load(Shelf(stuck=5), range(20), num_workers=2, stall_s=1.0, rank=1))
    assert time.monotonic() - began < 10


def test_a_worker_that_is_slow_but_alive_is_waited_for():
    """Two seconds for one item, with signs of life, where half a second of silence is the end."""
    assert list(load(Shelf(slow=5), range(8), num_workers=2, stall_s=0.5)) == [n**2 for n in range(8)]


def test_a_death_is_no_error_outside_of_the_loader():
    """torch's handler would raise wherever the process is, inside a save for instance."""
    items = load(Shelf(deadly=4), range(20), num_workers=1)
    assert [next(items) for _ in range(2)] == [0, 1]
    until = time.monotonic() + 1
    while time.monotonic() < until:
        time.sleep(0.05)
    with pytest.raises(LoadingError, match="sample '4'"):
        list(items)


@pytest.fixture
def fifo_loader(tmp_path, make_sample, write_set, encoder, collator):
    """`fifo_loader(num_workers)`: over eight rows; the shard of the last four hangs once it is opened."""

    def make(num_workers):
        folder = write_set(tmp_path / "set", [make_sample(n) for n in range(8)])
        rows = EncodedRows(RowSet([Source(path=str(folder))], Pairs()), encoder)
        (folder / "000001.tar").unlink()
        os.mkfifo(folder / "000001.tar")
        share = Share(batch_size=4, micro_batch_size=1, world_size=2, rank=1)
        return RowLoader(rows, collator, share, num_workers=num_workers, stall_s=1.0)

    return make


@pytest.mark.parametrize("num_workers", [1, 2])
def test_a_stalled_read_ends_with_rank_shard_and_sample(fifo_loader, num_workers):
    with pytest.raises(LoadingError, match=r"rank 1: .* silent for \d s at \S+/000001\.tar, sample 's00[4-7]'"):
        list(fifo_loader(num_workers))


def test_without_workers_another_thread_sees_what_hangs(fifo_loader, tmp_path):
    """What a watchdog needs; here it puts an end to the read instead of the process."""
    seen = []

    def look():
        seen.extend(reading.current())
        with (tmp_path / "set" / "000001.tar").open("wb", buffering=0):
            pass  # who waits to read reads nothing now

    watchdog = threading.Timer(1, look)
    watchdog.start()
    with pytest.raises(ShardError, match=r"000001\.tar, sample 's00[4-7]': the disk cannot read it"):
        list(fifo_loader(0))
    watchdog.join()
    (hung,) = seen
    assert hung.pid == os.getpid()
    assert "000001.tar, sample 's00" in hung.what
    assert hung.silent_s > 0.5


def test_a_board_shows_what_the_workers_of_this_process_read():
    board = Board(2)
    mine = reading._own
    try:
        board.join(1)
        assert reading.current() == board.current() == []
        reading.begin("shard.tar, sample 'x'")
        (found,) = board.current()
        assert (found.pid, found.what, board.last(os.getpid())) == (os.getpid(), "shard.tar, sample 'x'", found.what)
        assert board.pids() == [0, os.getpid()]
        reading.end()
        assert board.current() == []
    finally:
        reading._own = mine


def test_of_a_long_text_the_sample_stays():
    reading.begin("/" + "very/" * 300 + "000.tar, sample 'x'")
    (found,) = reading.current()
    reading.end()
    assert found.what.endswith("very/000.tar, sample 'x'")


def test_a_record_costs_little_beside_a_small_read(mixed_set):
    shard_set = ShardSet(str(mixed_set))
    began = time.perf_counter()
    for _ in range(200):
        reading.begin("/shards/000003.tar, sample 'scene7'")
    noted = time.perf_counter() - began
    began = time.perf_counter()
    for _ in range(200):
        shard_set[3]
    assert noted < 0.05 * (time.perf_counter() - began)


def test_loading_draws_nothing_from_the_global_generator():
    torch.manual_seed(0)
    expected = torch.random.get_rng_state()
    list(load(Shelf(), range(4), num_workers=1))
    assert torch.random.get_rng_state().equal(expected)
