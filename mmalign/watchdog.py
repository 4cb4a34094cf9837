"""Where one rank dies or hangs, all end within a minute, and say which one it was.

    rank 1, 2, ...    a beat every second, into a store that rank 0 holds; then a look for a verdict
    rank 0            writes a verdict where a rank has not beaten for `timeout_s`; where the store is gone, rank 0 is

A rank that fails with an error, that a signal stops alone, or that hangs in a read, writes the verdict itself. Threads
do all that, so a rank may compute, load, hash or save for as long as it likes. They end their process (exit code 75,
EX_TEMPFAIL: try again), for no exception reaches a main thread that waits for another rank. Silence is counted in looks
of the one who listens, so that a machine that slept does not wake up to an alarm.

Before the ranks have found one another it is their launcher (torchrun, srun, Lightning) that notices a dead one.
Tried on CPU ranks with gloo. Nothing here depends on the backend, but NCCL has not been tried.

Tests    tests/test_watchdog.py, tests/faults/test_dead_ranks.py
"""

import json
import os
import socket
import threading
import time
from collections.abc import Hashable, Mapping
from contextlib import suppress
from datetime import timedelta
from typing import Generic, NamedTuple, TypeVar

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.strategies import ParallelStrategy
from lightning.pytorch.utilities.exceptions import SIGTERMException
from torch.distributed import DistError, TCPStore  # type: ignore[attr-defined]  # its stub forgets the latter

from mmalign.data import reading
from mmalign.signals import Stopped, say

EXIT_CODE = 75
BEAT_S = 1.0
LINGER_S = 3.0
"""For so long rank 0 keeps the store behind a verdict: the others read it there."""
OWN_END_S = 5.0
"""For so long a rank may end by itself where another one has failed: often all do, each with its own message."""
DONE = "done"
"""In place of a beat: this rank has ended as it should."""
VERDICT, NONE = "verdict", "-"
GO_ON = "then run the same command with `--ckpt_path auto`."
REASON_CHARACTERS = 500
LOST_PEER = ("gloo", "NCCL", "Connection closed", "Connection reset", "Broken pipe")
"""Words of the errors that a rank gets where another one is gone."""

Key = TypeVar("Key", bound=Hashable)


class Member(NamedTuple):
    """A rank, as messages name it."""

    rank: int
    host: str
    pid: int

    def __str__(self) -> str:
        """Rank and process."""
        return f"rank {self.rank} ({self.host}, pid {self.pid})"


class Verdict(NamedTuple):
    """Why all end."""

    reason: str
    code: int = EXIT_CODE
    failed: bool = False
    """A rank ends by itself; where not, one is dead or hangs."""


class Silence(Generic[Key]):
    """Finds what has not changed for many looks."""

    def __init__(self, looks: int) -> None:
        self._looks = looks
        self._seen: dict[Key, tuple[object, int]] = {}

    def over(self, values: Mapping[Key, object]) -> list[Key]:
        """Those whose value is what it was in each of the last looks.

        Args:
            values: As they are now.
        """
        before, self._seen = self._seen, {}
        for key, value in values.items():
            last, times = before.get(key, (None, 0))
            self._seen[key] = (value, times + 1 if last == value else 0)
        return [key for key, (_, times) in self._seen.items() if times >= self._looks]


class Watch:
    """One rank's thread, and its door to the store."""

    def __init__(self, members: list[Member], rank: int, store: TCPStore | None, timeout_s: float) -> None:
        """Begin to watch.

        Args:
            members: All ranks, in order.
            rank: This one.
            store: What they share; None where there is one rank.
            timeout_s: Seconds of silence after which a rank, or a read of this one, is given up.
        """
        self.me = members[rank]
        self._members = members
        self._store = store
        self._timeout_s = timeout_s
        self._silence = Silence[int](round(timeout_s / BEAT_S))
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watchdog", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End as one should. Rank 0 waits for the others, and goes on to look for dead ones among them."""
        self._await_others()
        self._leave()

    def fail(self, verdict: Verdict) -> None:
        """End by oneself, and tell the others why."""
        self._leave()
        if self._store is not None:
            with suppress(RuntimeError):  # rank 0 has ended before: then they know
                self._write(verdict)
            self._await_others(LINGER_S)

    def await_verdict(self) -> None:
        """Wait until the thread ends this process, as it does where another rank is dead; return if none is."""
        self._thread.join(self._timeout_s + LINGER_S + OWN_END_S)

    def _leave(self) -> None:
        self._ended.set()
        self._thread.join()
        if self._store is not None and self.me.rank:
            with suppress(RuntimeError):
                self._store.set(_beat_of(self.me.rank), DONE)

    def _await_others(self, limit_s: float = float("inf")) -> None:
        limit = time.monotonic() + limit_s
        while self.me.rank == 0 and self._beats() and time.monotonic() < limit:
            time.sleep(BEAT_S / 20)

    def _run(self) -> None:
        beat = 0
        while not self._ended.wait(BEAT_S):
            beat += 1
            if (verdict := self._look(beat)) is not None:
                self._end(verdict)

    def _look(self, beat: int) -> Verdict | None:
        """What there is to say of this rank, and of the others."""
        if (hanging := self._hanging_read()) is not None:
            return self._write(hanging)
        if self._store is None:
            return None
        if self.me.rank == 0:
            silent = self._silence.over(self._beats())
            return self._write(self._dead(silent[0])) if silent else self._read()
        # Nothing in torch ends the wait for a store whose machine is gone.
        alarm = threading.Timer(self._timeout_s, self._end, [self._dead(0)])
        alarm.start()
        try:
            self._store.set(_beat_of(self.me.rank), str(beat))
            return self._read()
        except RuntimeError:
            return self._dead(0)
        finally:
            alarm.cancel()

    def _hanging_read(self) -> Verdict | None:
        """Of this process. Its workers are looked after where it waits for them, see mmalign/data/workers.py."""
        for found in reading.current():
            if found.pid == os.getpid() and found.silent_s > self._timeout_s:
                return Verdict(
                    f"{self.me} has been reading {found.what} for {found.silent_s:.0f} s: the disk or the network "
                    f"behind it hangs. Mend that, {GO_ON}"
                )
        return None

    def _dead(self, rank: int) -> Verdict:
        found = "is gone" if rank == 0 else f"has not been heard of for {self._timeout_s:g} s"
        return Verdict(
            f"{self._members[rank]} {found}: killed (`dmesg` says if for want of memory), or its machine is down. Look "
            f"there, {GO_ON}"
        )

    def _beats(self) -> dict[int, bytes]:
        """Of those that have not ended, without rank 0."""
        ranks = range(1, len(self._members))
        if self._store is None:
            return {}
        beats = zip(ranks, self._store.multi_get([_beat_of(rank) for rank in ranks]), strict=True)
        return {rank: beat for rank, beat in beats if beat.decode() != DONE}

    def _read(self) -> Verdict | None:
        assert self._store is not None
        found = self._store.get(VERDICT).decode()
        return None if found == NONE else Verdict(*json.loads(found))

    def _write(self, verdict: Verdict) -> Verdict:
        """The first verdict counts, whoever wrote it."""
        if self._store is None:
            return verdict
        return Verdict(*json.loads(self._store.compare_set(VERDICT, NONE, json.dumps(verdict))))

    def _end(self, verdict: Verdict) -> None:
        if verdict.failed and self._ended.wait(OWN_END_S):
            return
        say(verdict.reason)
        if self.me.rank == 0 and self._store is not None:
            time.sleep(LINGER_S)
        os._exit(verdict.code)


class Watchdog(Callback):
    """Watches over a run from the moment its ranks have found one another."""

    def __init__(self, timeout_s: float = 40.0) -> None:
        """Choose how long to wait.

        Args:
            timeout_s: Seconds without a sign of life after which a rank, or a read of the training process itself, is
                given up, and all ranks end. Work of any length is no reason: threads give the signs.
        """
        if timeout_s < 3 * BEAT_S:
            raise ValueError(
                f"`watchdog.timeout_s` is {timeout_s:g}, but ranks give a sign of life every {BEAT_S:g} s, and one may "
                f"be late: set at least {3 * BEAT_S:g}."
            )
        self.timeout_s = timeout_s
        self._watch: Watch | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Meet the other ranks."""
        if self._watch is not None:
            return
        me = Member(trainer.global_rank, socket.gethostname(), os.getpid())
        store, members = meet(trainer, me, self.timeout_s) if trainer.world_size > 1 else (None, [me])
        self._watch = Watch(members, me.rank, store, self.timeout_s)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Leave."""
        if self._watch is not None:
            self._watch.close()
            self._watch = None

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Tell the others, unless all end with this, or this is what one of them caused."""
        watch, self._watch = self._watch, None
        if watch is None:
            return
        if isinstance(exception, SIGTERMException):  # agreed on, see mmalign/signals.py
            watch.close()
            return
        if lost_peer(exception):
            watch.await_verdict()
        watch.fail(verdict_of(exception, watch.me))


def meet(trainer: Trainer, me: Member, timeout_s: float) -> tuple[TCPStore, list[Member]]:
    """A store that rank 0 holds, and who all are. All ranks must call it.

    Args:
        trainer: With its process group.
        me: This rank.
        timeout_s: How long to wait for the others.
    """
    assert isinstance(trainer.strategy, ParallelStrategy)
    assert trainer.strategy.cluster_environment is not None
    host, timeout = trainer.strategy.cluster_environment.main_address, timedelta(seconds=timeout_s)
    held = TCPStore(host, 0, is_master=True, wait_for_workers=False, timeout=timeout) if me.rank == 0 else None
    if held is not None:
        held.set(VERDICT, NONE)
    port = trainer.strategy.broadcast(held.port if held is not None else 0)
    store = held or TCPStore(host, port, wait_for_workers=False, timeout=timeout)
    store.set(_beat_of(me.rank), "0")
    store.set(f"member/{me.rank}", json.dumps(me))
    names = [f"member/{rank}" for rank in range(trainer.world_size)]
    store.wait(names)
    return store, [Member(*json.loads(each)) for each in store.multi_get(names)]


def lost_peer(error: BaseException) -> bool:
    """Whether a rank gets this error because another one is gone."""
    return isinstance(error, DistError) or (
        isinstance(error, RuntimeError) and any(word in str(error) for word in LOST_PEER)
    )


def verdict_of(error: BaseException, member: Member) -> Verdict:
    """What the others hear of a rank that ends by itself."""
    if isinstance(error, Stopped):
        reason = f"{member} {error.reason} before its first step, and so the others end. There is nothing to save."
        return Verdict(reason, int(error.code or 0), failed=True)
    first = str(error).strip().partition("\n")[0][:REASON_CHARACTERS]
    return Verdict(f"{member} has failed, and so the others end. {type(error).__name__}: {first}", failed=True)


def _beat_of(rank: int) -> str:
    return f"beat/{rank}"
