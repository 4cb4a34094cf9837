"""Adapters that came while the server ran: a worker that is started again has them before anybody may ask it."""

import asyncio
import os
from pathlib import Path

from played_link import Worker, World, ask, play

from mmalign.serve.messages import BASE, AddAdapter, Ended, Failed, RemoveAdapter, ServedModel


async def change(world: World, worker: Worker, order: AddAdapter | RemoveAdapter) -> None:
    asked = asyncio.create_task(ask(world.link, order))
    await world.settle()
    [(uid, taken)] = worker.take(world.queue)
    assert taken == order
    names = dict.fromkeys((*worker.models, order.name) if isinstance(order, AddAdapter) else worker.models)
    if isinstance(order, RemoveAdapter):
        del names[order.name]
    worker.models = tuple(names)
    worker.tell(uid, Ended(), models=tuple(map(ServedModel, names)))
    assert await asked == [Ended()]


def test_a_new_worker_is_ready_once_it_serves_what_the_last_one_did():
    added, replaced, removed = AddAdapter("new", Path("new")), AddAdapter("a", Path("a2")), RemoveAdapter("b")

    async def scene(world: World) -> None:
        first = world.start("a", "b")
        first.greet()
        for order in (RemoveAdapter("a"), added, replaced, removed):
            await change(world, first, order)
        served = set(world.link.models)
        assert served == {BASE, "a", "new"}
        first.die()
        await world.settle()
        second = world.start("a", "b")  # as the command line says
        second.greet()
        seen = []
        for _ in range(4):
            assert world.link.worker is None
            assert set(world.link.models) == served  # no 404 meanwhile
            await world.settle()
            [(uid, order)] = second.take(world.queue)
            seen.append(order)
            second.tell(uid, Ended(), models=tuple(map(ServedModel, served)))
        await world.settle()
        assert world.link.worker is not None
        assert seen == [RemoveAdapter("a"), replaced, added, removed]
        assert world.link.changes == {"a": replaced, "new": added, "b": removed}

    play(scene)


def test_an_adapter_that_cannot_be_added_again_does_not_stop_the_others():
    async def scene(world: World) -> None:
        first = world.start()
        first.greet()
        for name in ("a", "b"):
            await change(world, first, AddAdapter(name, Path(name)))
        first.die()
        await world.settle()
        second = world.start()
        second.greet()
        await world.settle()
        [(uid, _)] = second.take(world.queue)
        second.tell(uid, Failed(400, "the folder is gone"))
        await world.settle()
        [(uid, _)] = second.take(world.queue)
        second.tell(uid, Ended(), models=(ServedModel(BASE), ServedModel("b")))
        await world.settle()
        assert set(world.link.models) == {BASE, "b"}
        assert world.link.worker is not None

    play(scene)


def test_a_worker_may_die_while_it_is_given_its_adapters():
    async def scene(world: World) -> None:
        first = world.start()
        first.greet()
        await change(world, first, AddAdapter("a", Path("a")))
        for _ in range(2):
            world.workers[-1].die()
            await world.settle()
            world.start().greet()
            await world.settle()
            assert world.link.worker is None
        [(uid, order)] = world.workers[-1].take(world.queue)
        assert order == AddAdapter("a", Path("a"))
        world.workers[-1].tell(uid, Ended(), models=(ServedModel(BASE), ServedModel("a")))
        await world.settle()
        assert set(world.link.models) == {BASE, "a"}

    play(scene)


def test_an_adapter_is_added_even_if_the_one_who_asked_has_left():
    async def scene(world: World) -> None:
        worker = world.start()
        worker.greet()
        order = AddAdapter("a", Path("a"))
        async with world.link.asked(order):
            await world.settle()
        await world.settle()
        [(uid, taken)] = worker.take(world.queue)  # and no cancellation
        assert taken == order
        worker.tell(uid, Ended(), models=(ServedModel(BASE), ServedModel("a")))
        assert world.link.changes == {"a": order}
        assert world.link.num_jobs == 0

    play(scene)


def test_a_worker_may_die_between_two_of_its_adapters():
    async def scene(world: World) -> None:
        first = world.start()
        first.greet()
        for name in ("a", "b"):
            await change(world, first, AddAdapter(name, Path(name)))
        first.die()
        await world.settle()
        second = world.start()
        second.greet()
        await world.settle()
        [(uid, _)] = second.take(world.queue)
        second.tell(uid, Ended(), models=(ServedModel(BASE), ServedModel("a")))
        world.link._mourn(os.dup(0), second.id)  # its end is seen before the first order's end is read
        await world.settle()
        assert world.link.num_jobs == 0
        assert len(world.queue) == 0  # and nothing for the next
        assert world.link._restoring is not None
        assert world.link._restoring.done()

    play(scene)
