"""A link between clients and workers that a test plays; their processes are real, and do nothing."""

import asyncio
import subprocess
from collections import deque
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from mmalign.serve.http.link import Link
from mmalign.serve.messages import (
    BASE,
    Cancel,
    Conversation,
    Event,
    Hello,
    Job,
    Order,
    Report,
    ServedModel,
    WorkerId,
)

JOB = Job(model=BASE, prompt=Conversation(messages=()), seeds=(0,))


@dataclass
class Worker:
    """A process that does nothing, and what the test says in its name."""

    link: Link
    models: tuple[str, ...] = (BASE,)
    orders: dict[str, Order] = field(default_factory=dict)
    """Taken and not ended."""
    written: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.process = subprocess.Popen(["sleep", "600"])
        me = WorkerId.of(self.process.pid)
        assert me is not None
        self.id = me

    def greet(self) -> None:
        self.say(Hello(self.id.pid, tuple(ServedModel(name) for name in self.models), 2048))

    def say(self, message: Hello | Report) -> None:
        self.link.append(((self.id, message), "OK"))

    def tell(self, uid: str, *events: Event, models: tuple[ServedModel, ...] | None = None) -> None:
        self.say(Report(tuple((uid, event) for event in events), 1, 2, models))

    def take(self, queue: "Outbox") -> list[tuple[str, Order]]:
        """All that waits for this worker."""
        taken = [(uid, order) for worker, uid, order in queue.drain() if worker == self.id]
        for uid, order in taken:
            if isinstance(order, Cancel):
                self.orders.pop(uid, None)
            else:
                self.orders[uid] = order
        return taken

    def die(self) -> None:
        self.process.kill()
        self.process.wait()


class Outbox(deque[Any]):
    """In place of LitServe's queue; it outlives workers, as that one does."""

    def drain(self) -> Iterator[tuple[WorkerId, str, Order]]:
        while self:
            _, uid, _, (worker, order) = self.popleft()
            yield worker, uid, order


class World:
    """A link, its queue, and one worker after the other."""

    def __init__(self, **options: float) -> None:
        self.link = Link(**options)
        self.queue = Outbox()
        self.link.connect(self.queue.append)
        self.workers: list[Worker] = []

    def start(self, *models: str) -> Worker:
        self.workers.append(Worker(self.link, (BASE, *models)))
        return self.workers[-1]

    async def settle(self) -> None:
        """Until everything that is under way by itself has happened."""
        for _ in range(4):
            self.link._sending.submit(int).result()
            await asyncio.sleep(0)

    def close(self) -> None:
        for worker in self.workers:
            worker.die()
        self.link._sending.shutdown()


@contextmanager
def worlds(**options: float) -> Iterator[World]:
    world = World(**options)
    try:
        yield world
    finally:
        world.close()


def play(scene: Callable[[World], Coroutine[Any, Any, None]], **options: float) -> None:
    """Run a scene in a world of its own."""

    async def run() -> None:
        with worlds(**options) as world:
            await scene(world)

    asyncio.run(run())


async def ask(link: Link, order: Order = JOB) -> list[Event]:
    async with link.asked(order) as events:
        return [event async for event in events]
