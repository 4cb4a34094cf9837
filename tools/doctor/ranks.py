"""Do ranks reach one another? Starts processes as a run does, sums tensors between them, and says who was silent.

Little is imported here: every rank imports this module anew.
"""

import multiprocessing
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from enum import IntEnum
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Literal, NamedTuple

import torch
import torch.distributed as dist
from torch.distributed import TCPStore  # type: ignore[attr-defined]

from .findings import Finding, failed, ok

Backend = Literal["gloo", "nccl"]
TIMEOUT_S = 90.0
"""Within which every rank must have answered; importing torch from a cold network disk takes most of it."""
LARGE = 64 * 2**20
"""Bytes of the large tensor: bandwidth counts, no longer latency."""
REPEATS = 5
"""Sums that are timed, after one that is not: the first one builds connections."""


class Stage(IntEnum):
    """How far a rank has come; each reports it on entering."""

    STARTING = 0
    MEETING = 1
    SUMMING = 2


class Answer(NamedTuple):
    """What one rank measured, or why it could not."""

    latency_s: float = 0.0
    """Of summing one number."""
    large_s: float = 0.0
    """Of summing the large tensor."""
    error: str = ""


class Seat(NamedTuple):
    """A rank's place."""

    rank: int
    world_size: int
    backend: Backend
    port: int
    timeout_s: float


def collectives(world_size: int, backend: Backend, *, timeout_s: float = TIMEOUT_S) -> Finding:
    """Sum tensors between new local processes, one a rank.

    Args:
        world_size: Number of processes.
        backend: `nccl` puts rank i on GPU i, `gloo` works on the CPU.
        timeout_s: Within which all must have answered.
    """
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    seats = [Seat(rank, world_size, backend, store.port, timeout_s) for rank in range(world_size)]
    with _started(seats) as (processes, ends):
        answers, stages = _heard(ends, time.monotonic() + timeout_s)
        gone = {rank: process.exitcode for rank, process in enumerate(processes) if process.exitcode}
    if len(answers) < world_size:
        silent = {rank: stage for rank, stage in stages.items() if rank not in answers}
        return failed(_silence(silent, gone, timeout_s), _remedy(backend))
    if errors := [f"rank {rank}: {answer.error}" for rank, answer in sorted(answers.items()) if answer.error]:
        return failed("; ".join(errors), _remedy(backend))
    latency, slowest = (max(getattr(answer, name) for answer in answers.values()) for name in ("latency_s", "large_s"))
    # As nccl-tests counts: what each rank sends and receives, whatever the number of ranks.
    bandwidth = 2 * (world_size - 1) / world_size * LARGE / slowest
    return ok(
        f"{world_size} ranks, {backend}: one number in {latency * 1e3:.2f} ms, {LARGE // 2**20} MiB in "
        f"{slowest * 1e3:.1f} ms ({bandwidth / 1e9:.2f} GB/s bus bandwidth)"
    )


@contextmanager
def _started(seats: Sequence[Seat]) -> Iterator[tuple[list[SpawnProcess], dict[int, Connection]]]:
    """The processes of all ranks and the ends on which they answer; killed when the context ends."""
    context = multiprocessing.get_context("spawn")  # a forked process cannot use CUDA
    processes, ends = list[SpawnProcess](), dict[int, Connection]()
    try:
        for seat in seats:
            ends[seat.rank], theirs = context.Pipe(duplex=False)
            processes.append(context.Process(target=_take_part, args=(seat, theirs), daemon=True))
            processes[-1].start()
            theirs.close()  # so that our end sees when the process is gone
        yield processes, ends
    finally:
        for process in processes:
            process.kill()
            process.join()


def _heard(ends: Mapping[int, Connection], deadline: float) -> tuple[dict[int, Answer], dict[int, Stage]]:
    """What the ranks say until all have answered, one is gone without a word, or time is up."""
    answers, stages = dict[int, Answer](), dict.fromkeys(ends, Stage.STARTING)
    ranks: dict[object, int] = {end: rank for rank, end in ends.items()}
    while ranks and (left := deadline - time.monotonic()) > 0:
        for end in wait([end for end in ends.values() if end in ranks], timeout=left):
            rank = ranks[end]
            try:
                said = ends[rank].recv()
            except EOFError:
                deadline = min(deadline, time.monotonic() + 1)  # the others wait for it in vain
                del ranks[end]
                continue
            if isinstance(said, Stage):
                stages[rank] = said
            else:
                answers[rank] = said
                del ranks[end]
    return answers, stages


def _silence(silent: Mapping[int, Stage], gone: Mapping[int, int | None], timeout_s: float) -> str:
    """Which ranks did not answer: those that died or, of the silent ones, those that came least far."""
    if gone:
        return "; ".join(f"rank {rank} ended with exit code {code}" for rank, code in gone.items())
    last = min(silent.values())
    behind, waiting = ([rank for rank in silent if (silent[rank] == last) == is_last] for is_last in (True, False))
    found = f"{_names(behind)} did not answer within {timeout_s:g} s: stuck while {last.name.lower()}"
    return f"{found}; {_names(waiting)} waited in vain" if waiting else found


def _names(ranks: Sequence[int]) -> str:
    return f"rank{'s' * (len(ranks) > 1)} {', '.join(map(str, ranks))}"


def _remedy(backend: Backend) -> str:
    if backend == "nccl":
        return (
            "Run again with NCCL_DEBUG=INFO. In a container give it shared memory (`docker run --ipc=host`); if it "
            "hangs with several GPUs, try NCCL_P2P_DISABLE=1."
        )
    return "Look at the load of the machine, its firewall, and the interface that gloo takes (GLOO_SOCKET_IFNAME=lo)."


def _take_part(seat: Seat, answer: Connection) -> None:
    """One rank: sum, measure, answer."""
    try:
        answer.send(_measure(seat, answer.send))
    except Exception as error:  # whatever it is, it is this rank's answer
        answer.send(Answer(error=f"{type(error).__name__}: {error}"))


def _measure(seat: Seat, report: Callable[[Stage], None]) -> Answer:
    torch.set_num_threads(1)
    report(Stage.MEETING)
    timeout = timedelta(seconds=seat.timeout_s)
    device = torch.device("cuda", seat.rank) if seat.backend == "nccl" else torch.device("cpu")
    store = TCPStore("127.0.0.1", seat.port, is_master=False, timeout=timeout)
    dist.init_process_group(seat.backend, store=store, rank=seat.rank, world_size=seat.world_size, timeout=timeout)
    report(Stage.SUMMING)
    try:
        latency, large = (_time_of_a_sum(seat, device, bytes_) for bytes_ in (4, LARGE))
    finally:
        dist.destroy_process_group()
    return Answer(latency, large)


def _time_of_a_sum(seat: Seat, device: torch.device, size: int) -> float:
    """Seconds that summing a tensor over all ranks takes.

    Raises:
        ValueError: The sum is wrong.
    """
    ours = torch.full((size // 4,), seat.rank + 1.0, device=device)
    for repeat in range(REPEATS + 1):
        if repeat == 1:
            began = time.perf_counter()
        summed = ours.clone()
        dist.all_reduce(summed)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
    taken = (time.perf_counter() - began) / REPEATS
    right = seat.world_size * (seat.world_size + 1) / 2
    if not bool((summed == right).all()):
        raise ValueError(f"the sum over all ranks is {float(summed[0])}, not {right}")
    return taken
