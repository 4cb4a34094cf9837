"""The watchdog: silence is counted, the first verdict counts, and every rank that is left names the one that is not."""

import os
import signal
import socket
import sys
import threading
import time
from datetime import timedelta

import pytest
from contents import newest
from torch.distributed import DistNetworkError, TCPStore

from mmalign import cli, watchdog
from mmalign.data import reading
from mmalign.data.workers import LoadingError
from mmalign.methods.base import AlignmentModule
from mmalign.signals import Stopped
from mmalign.watchdog import DONE, NONE, VERDICT, Member, Silence, Verdict, Watch, Watchdog, lost_peer, verdict_of

MEMBERS = [Member(0, "here", 10), Member(1, "there", 11), Member(2, "there", 12)]


def test_silence_is_a_value_that_stays_for_so_many_looks():
    silence = Silence(2)
    assert silence.over({1: "a", 2: "a"}) == []
    assert silence.over({1: "b", 2: "a"}) == []
    assert silence.over({1: "c", 2: "a"}) == [2]
    assert silence.over({1: "c", 2: "b"}) == []
    assert silence.over({1: "c"}) == [1]
    assert silence.over({}) == []
    assert silence.over({1: "c"}) == [], "who had ended is looked at afresh"


@pytest.fixture(autouse=True)
def nothing_read():
    """What an earlier test left half read would hang here, and end the watch first."""
    reading.end()


@pytest.fixture
def exits(monkeypatch):
    """Codes with which threads would have ended this process; they wait for ever instead."""
    codes = []

    def stop(code):
        codes.append(code)
        threading.Event().wait()

    monkeypatch.setattr(os, "_exit", stop)
    monkeypatch.setattr(watchdog, "BEAT_S", 0.02)
    monkeypatch.setattr(watchdog, "LINGER_S", 0.05)
    monkeypatch.setattr(watchdog, "OWN_END_S", 0.1)
    return codes


@pytest.fixture
def store():
    """As rank 0 holds it, all ranks at their first beat."""
    held = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False, timeout=timedelta(seconds=5))
    held.set(VERDICT, NONE)
    for member in MEMBERS:
        held.set(f"beat/{member.rank}", "0")
    return held


def client_of(store):
    return TCPStore("127.0.0.1", store.port, wait_for_workers=False, timeout=timedelta(seconds=5))


def eventually(condition, timeout=5.0):
    limit = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < limit
        time.sleep(0.01)


def test_all_ranks_end_and_name_the_one_that_gives_no_sign_of_life(exits, store, capsys):
    for rank, door in ((0, store), (1, client_of(store))):
        Watch(MEMBERS, rank, door, timeout_s=1.0)  # and no rank 2
    eventually(lambda: len(exits) == 2)
    assert exits == [75, 75]
    said = capsys.readouterr().err
    assert said.count("rank 2 (there, pid 12) has not been heard of for 1 s") == 2
    assert "`--ckpt_path auto`" in said


def test_where_the_store_is_gone_it_is_rank_0(exits, capsys):
    held = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    held.set(VERDICT, NONE)
    Watch(MEMBERS, 1, client_of(held), timeout_s=5.0)
    del held
    eventually(lambda: exits)
    assert exits == [75]
    assert "rank 0 (here, pid 10) is gone" in capsys.readouterr().err


def test_ranks_that_have_ended_as_they_should_are_not_missed(exits, store):
    first = Watch(MEMBERS, 0, store, timeout_s=0.2)
    for rank in (1, 2):
        store.set(f"beat/{rank}", DONE)
    time.sleep(0.5)
    first.close()
    assert not exits


def test_a_rank_that_fails_ends_the_others_with_its_reason(exits, store, capsys):
    Watch(MEMBERS, 0, store, timeout_s=5.0)
    Watch(MEMBERS, 1, client_of(store), timeout_s=5.0).fail(verdict_of(ValueError("no such row\nmore"), MEMBERS[1]))
    eventually(lambda: exits)
    assert exits == [75]
    said = capsys.readouterr().err
    assert "rank 1 (there, pid 11) has failed, and so the others end. ValueError: no such row" in said
    assert "more" not in said


def test_ranks_that_fail_alike_end_each_with_its_own_error(exits, store):
    watches = [Watch(MEMBERS, 0, store, timeout_s=5.0), Watch(MEMBERS, 1, client_of(store), timeout_s=5.0)]
    for watch in reversed(watches):
        watch.fail(Verdict("all the same", failed=True))
    time.sleep(0.3)
    assert not exits


def test_a_read_of_the_training_process_that_hangs_is_named(exits, capsys):
    reading.begin("shards/x.tar, sample 'a'")
    try:
        Watch(MEMBERS[:1], 0, None, timeout_s=0.2)
        eventually(lambda: exits)
    finally:
        reading.end()
    assert exits == [75]
    assert "rank 0 (here, pid 10) has been reading shards/x.tar, sample 'a' for 0 s" in capsys.readouterr().err


def test_a_rank_that_a_signal_stops_alone_hands_its_exit_code_on():
    assert verdict_of(Stopped(signal.SIGTERM), MEMBERS[1]).code == 143
    assert "was stopped by SIGTERM" in verdict_of(Stopped(signal.SIGTERM), MEMBERS[1]).reason


def test_errors_that_a_dead_rank_causes_are_told_from_ones_own():
    assert lost_peer(DistNetworkError("Connection was likely closed"))
    assert lost_peer(RuntimeError("[gloo/transport/tcp/pair.cc:534] Connection closed by peer [127.0.0.1]:80"))
    assert not lost_peer(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    assert not lost_peer(LoadingError("rank 0: loader worker 1 died. Connection closed"))


def test_a_limit_below_a_few_beats_is_refused():
    with pytest.raises(ValueError, match=r"watchdog.timeout_s.* is 1, .* set at least 3"):
        Watchdog(timeout_s=1.0)


def fit_with_death(rank, step, number, *options):
    """`mmalign fit` in which one rank gets a signal that it cannot handle, within an optimizer step."""
    begin = AlignmentModule.on_train_batch_start

    def begin_and_die(module, batch, batch_idx):
        if (module.global_rank, module.global_step) == (rank, step):
            os.kill(os.getpid(), number)
        begin(module, batch, batch_idx)

    AlignmentModule.on_train_batch_start = begin_and_die
    sys.argv = ["mmalign", "fit", *options]
    cli.console()


@pytest.fixture
def options(tiny_args, tmp_path):
    """Of a run on two ranks."""
    return tiny_args(
        f"--trainer.default_root_dir={tmp_path / 'run'}",
        "--trainer.devices=2",
        "--trainer.strategy=ddp",
        "--trainer.max_epochs=2",
        "--checkpoint.every_n_steps=1",
        "--watchdog.timeout_s=3",
    )


@pytest.mark.slow
def test_a_killed_rank_ends_the_other_one_which_names_it(ranks, options, tmp_path):
    run = ranks.start(2, fit_with_death, 1, 3, signal.SIGKILL.value, *options)
    assert run.wait(60) == [75, -signal.SIGKILL], run.all_output()
    assert f"mmalign: rank 1 ({socket.gethostname()}, pid {run.pids[1]}) has not been heard of" in run.output(0)
    assert newest(tmp_path / "run")[0] == "step-000003"
