"""Every accepted job ends exactly once in random courses of asking, answering, leaving and dying."""

import asyncio
import os
import random
from dataclasses import dataclass, field

import pytest
from played_link import JOB, Worker, World, worlds

from mmalign.serve.http.errors import ApiError
from mmalign.serve.http.link import MAX_UNREAD, Link
from mmalign.serve.messages import Begun, Ended, Event, Failed, Job, Piece


@dataclass
class Client:
    """One who asks, and what it was told."""

    job: Job
    read: list[Event] = field(default_factory=list)
    ends: list[str] = field(default_factory=list)
    """How it ended; a second entry would be a second end."""

    async def run(self, link: Link) -> None:
        try:
            async with link.asked(self.job) as events:
                async for event in events:
                    self.read.append(event)
                    await asyncio.sleep(0)
            self.ends.append("ended" if isinstance(self.read[-1], Ended) else "silent")
        except ApiError as error:
            self.ends.append(str(error.status_code))
        except asyncio.CancelledError:
            self.ends.append("left")

    def check(self) -> None:
        assert len(self.ends) == 1
        assert self.ends[0] in {"ended", "left", "503", "500"}
        ended = [i for i, event in enumerate(self.read) if isinstance(event, Ended)]
        assert ended == ([len(self.read) - 1] if ended or self.ends == ["ended"] else [])
        assert [i for i, event in enumerate(self.read) if isinstance(event, Begun)] in ([], [0])
        text = "".join(event.text for event in self.read if isinstance(event, Piece))
        assert text == "".join(f"{i} " for i in range(text.count(" ")))  # in order, nothing twice


class Schedule:
    """A random course of asking, answering, leaving and dying."""

    def __init__(self, seed: int, world: World) -> None:
        self.dice = random.Random(seed)
        self.world = world
        self.worker: Worker | None = None
        self.running: list[tuple[Client, asyncio.Task[None]]] = []
        self.counts: dict[str, int] = {}

    def ask(self) -> None:
        client = Client(JOB)
        self.running.append((client, asyncio.create_task(client.run(self.world.link))))

    def leave(self) -> None:
        if self.running:
            self.dice.choice(self.running)[1].cancel()

    def work(self) -> None:
        if self.worker is None:
            return
        self.worker.take(self.world.queue)
        for uid in self.dice.sample(sorted(self.worker.orders), self.dice.randint(0, len(self.worker.orders))):
            self.answer(self.worker, uid)

    def answer(self, worker: Worker, uid: str) -> None:
        events: list[Event] = []
        if uid not in worker.written:
            events.append(Begun(3))
        so_far = worker.written.get(uid, 0)
        worker.written[uid] = so_far + self.dice.choices((0, 1, 2, MAX_UNREAD + 9), (5, 5, 5, 1))[0]
        events += [Piece(0, f"{i} ", (), None, i + 1) for i in range(so_far, worker.written[uid])]
        last = self.dice.choice((None, None, Ended(), Failed(500, "no")))
        if last is not None:
            events.append(last)
            del worker.orders[uid]
        worker.tell(uid, *events)
        if last is not None and self.dice.random() < 0.2:
            worker.tell(uid, Ended())  # and again

    def rumour(self) -> None:
        """Word of a job that never was, and of a worker that is no more."""
        for worker in self.world.workers:
            worker.tell("nobody", Piece(0, "?"), Ended())
            if worker is not self.worker:
                for uid in worker.orders:
                    worker.tell(uid, Ended())  # true only while nobody has heard that it died

    def die(self) -> None:
        if self.worker is not None:
            if self.dice.random() < 0.5:
                self.worker.take(self.world.queue)
            self.worker.die()
            self.worker = None

    def start(self) -> None:
        if self.worker is None:
            self.worker = self.world.start()
            if self.dice.random() < 0.1:
                self.worker.die()  # between its greeting and its first job
            self.worker.greet()
            if self.worker.process.returncode is not None:
                self.worker = None

    async def run(self) -> None:
        steps = (self.ask, self.leave, self.work, self.rumour, self.die, self.start)
        for _ in range(30):
            self.dice.choices(steps, (8, 3, 8, 1, 1, 2))[0]()
            for _ in range(self.dice.randint(0, 3)):
                await asyncio.sleep(0)
        await self.world.settle()
        self.die()
        if self.running:
            _, hanging = await asyncio.wait([task for _, task in self.running], timeout=5)
            assert not hanging
        for client, _ in self.running:
            if not client.ends:
                assert not client.read  # it left before it asked
                continue
            client.check()
            self.counts[client.ends[0]] = self.counts.get(client.ends[0], 0) + 1
        await self.world.settle()
        assert self.world.link.num_jobs == 0
        assert self.world.link.worker is None


@pytest.mark.parametrize("seeds", [range(100), pytest.param(range(100, 1000), marks=pytest.mark.slow)], ids=len)
def test_every_accepted_job_ends_exactly_once_in_random_schedules(seeds):
    counts: dict[str, int] = {}
    descriptors = len(os.listdir("/proc/self/fd"))

    async def run() -> None:
        for seed in seeds:
            with worlds() as world:
                schedule = Schedule(seed, world)
                await schedule.run()
            for end, times in schedule.counts.items():
                counts[end] = counts.get(end, 0) + times

    asyncio.run(run())
    assert min(counts.get(end, 0) for end in ("ended", "left", "503", "500")) > 20  # the schedules held all of it
    assert len(os.listdir("/proc/self/fd")) <= descriptors
