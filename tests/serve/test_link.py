"""One job at a time through the link: it ends exactly once, whatever worker and client do."""

import asyncio
import os
import signal

import pytest
from played_link import JOB, World, ask, play

from mmalign.serve.http.errors import ApiError
from mmalign.serve.http.link import MAX_UNREAD
from mmalign.serve.messages import BASE, Begun, Cancel, Ended, Failed, Job, Piece, ServedModel, TokenLogprob


def test_nothing_is_accepted_without_a_worker():
    async def scene(world: World) -> None:
        with pytest.raises(ApiError) as error:
            await ask(world.link)
        assert error.value.status_code == 503
        assert (world.link.num_jobs, len(world.queue)) == (0, 0)

    play(scene)


def test_a_worker_that_died_before_its_greeting_came_is_none():
    async def scene(world: World) -> None:
        worker = world.start()
        worker.die()
        worker.greet()
        await world.settle()
        assert world.link.worker is None

    play(scene)


def test_a_process_with_the_pid_of_a_dead_worker_is_none():
    async def scene(world: World) -> None:
        worker = world.start()
        worker.id = worker.id._replace(start=worker.id.start - 1)  # another process had this pid before
        descriptors = len(os.listdir("/proc/self/fd"))
        worker.greet()
        await world.settle()
        assert world.link.worker is None
        assert len(os.listdir("/proc/self/fd")) == descriptors

    play(scene)


def test_a_worker_that_cannot_be_watched_ends_the_process_in_words(monkeypatch, caplog):
    """LitServe would stop listening to it, and every request wait for ever."""

    def refuse(pid: int) -> int:
        raise PermissionError("pidfd_open")

    ended = []

    async def scene(world: World) -> None:
        worker = world.start()
        monkeypatch.setattr(os, "pidfd_open", refuse)
        monkeypatch.setattr(os, "_exit", ended.append)
        worker.greet()

    play(scene)
    assert ended == [1]
    assert "could not be taken" in caplog.text


def test_what_a_worker_had_fails_when_it_dies_and_what_it_said_last_means_nothing():
    async def scene(world: World) -> None:
        first = world.start()
        first.greet()
        asked = asyncio.create_task(ask(world.link))
        await world.settle()
        [(uid, _)] = first.take(world.queue)
        first.tell(uid, Begun(3))
        first.die()
        with pytest.raises(ApiError) as error:
            await asyncio.wait_for(asked, 10)
        assert error.value.status_code == 503
        assert world.link.worker is None
        assert world.link.num_jobs == 0
        first.tell(uid, Piece(0, "late"), Ended(), models=(ServedModel("late"),))
        assert "late" not in world.link.models
        assert (world.link.running, world.link.waiting) == (0, 0)
        world.start().greet()
        assert world.link.worker is not None

    play(scene)


def test_an_order_for_a_dead_worker_is_not_for_the_next():
    async def scene(world: World) -> None:
        first, second = world.start(), world.start()
        first.greet()
        asked = asyncio.create_task(ask(world.link))
        await world.settle()
        first.die()  # it has not looked into the queue
        await asyncio.wait([asked], timeout=10)
        assert isinstance(asked.exception(), ApiError)
        second.greet()
        assert second.take(world.queue) == []

    play(scene)


def test_leaving_early_cancels_once_and_leaving_after_the_end_never():
    async def scene(world: World) -> None:
        worker = world.start()
        worker.greet()
        async with world.link.asked(JOB):
            await world.settle()
        await world.settle()
        (uid, _), cancelled = worker.take(world.queue)
        assert cancelled == (uid, Cancel())
        worker.tell(uid, Begun(3), Ended())  # it was too late for the cancellation

        asked = asyncio.create_task(ask(world.link))
        await world.settle()
        [(uid, _)] = worker.take(world.queue)
        worker.tell(uid, Begun(3), Piece(0, "a", (), "stop", 1), Ended())
        assert len(await asked) == 3
        worker.tell(uid, Failed(500, "twice"), Ended())
        await world.settle()
        assert worker.take(world.queue) == []
        assert world.link.num_jobs == 0

    play(scene)


def test_a_job_that_waits_too_long_is_refused_and_cancelled():
    async def scene(world: World) -> None:
        worker = world.start()
        worker.greet()
        with pytest.raises(ApiError) as error:
            await ask(world.link)
        assert error.value.status_code == 504
        await world.settle()
        assert [type(order) for _, order in worker.take(world.queue)] == [Job, Cancel]
        assert world.link.num_jobs == 0

    play(scene, queue_timeout_s=0.05)


def test_a_job_that_has_begun_may_take_longer_than_it_may_wait():
    async def scene(world: World) -> None:
        worker = world.start()
        worker.greet()
        asked = asyncio.create_task(ask(world.link))
        await world.settle()
        [(uid, _)] = worker.take(world.queue)
        worker.tell(uid, Begun(3))
        await asyncio.sleep(0.1)
        worker.tell(uid, Ended())
        assert await asked == [Begun(3), Ended()]

    play(scene, queue_timeout_s=0.05)


def test_an_order_that_cannot_be_sent_fails():
    async def scene(world: World) -> None:
        def put(item: object) -> None:
            raise BrokenPipeError  # the process that holds the queue has died

        world.start().greet()
        world.link.connect(put)
        with pytest.raises(ApiError) as error:
            await asyncio.wait_for(ask(world.link), 10)
        assert error.value.status_code == 503

    play(scene)


def test_a_slow_reader_gets_everything_from_bounded_memory():
    async def scene(world: World) -> None:
        worker = world.start()
        worker.greet()
        job = Job(model=BASE, prompt=JOB.prompt, seeds=(0, 1))
        async with world.link.asked(job) as events:
            await world.settle()
            [(uid, _)] = worker.take(world.queue)
            worker.tell(uid, Begun(3))
            for i in range(1000):
                token = TokenLogprob(str(i), b"", -1.0)
                worker.tell(uid, *(Piece(choice, f"{i} ", (token,), None, i) for choice in range(2)))
            worker.tell(uid, *(Piece(choice, "end", (), "stop", 1001) for choice in range(2)), Ended())
            read = [event async for event in events]
        assert len(read) <= MAX_UNREAD + 4
        for choice in range(2):
            pieces = [event for event in read if isinstance(event, Piece) and event.choice == choice]
            assert "".join(piece.text for piece in pieces) == "".join(f"{i} " for i in range(1000)) + "end"
            assert [token.text for piece in pieces for token in piece.tokens] == [str(i) for i in range(1000)]
            assert [piece.finish_reason for piece in pieces] == [None] * (len(pieces) - 1) + ["stop"]
            assert pieces[-1].num_tokens == 1001

    play(scene)


def test_closing_ends_what_runs_and_refuses_what_comes():
    async def scene(world: World) -> None:
        worker = world.start()
        worker.greet()
        asked = asyncio.create_task(ask(world.link))
        await world.settle()
        world.link.close()
        for refused in (asked, ask(world.link)):
            with pytest.raises(ApiError, match="503"):
                await refused
        await world.settle()
        assert [type(order) for _, order in worker.take(world.queue)] == [Job, Cancel]

    play(scene)


def test_a_worker_that_hangs_is_killed_and_what_it_had_fails():
    async def scene(world: World) -> None:
        worker = world.start()
        worker.greet()
        asked = asyncio.create_task(ask(world.link))
        await world.settle()
        [(uid, _)] = worker.take(world.queue)
        worker.tell(uid, Begun(3))
        with pytest.raises(ApiError, match="503"):
            await asyncio.wait_for(asked, 10)
        assert worker.process.wait(10) == -signal.SIGKILL
        assert world.link.worker is None

    play(scene, max_silence_s=0.1)


def test_a_worker_that_speaks_or_has_nothing_in_hand_is_left_alone():
    async def scene(world: World) -> None:
        worker = world.start()
        worker.greet()
        await asyncio.sleep(0.6)  # nothing to say
        asked = asyncio.create_task(ask(world.link))
        await world.settle()
        [(uid, _)] = worker.take(world.queue)
        for _ in range(30):
            worker.tell("nobody")  # it works, and has no piece of this answer
            await asyncio.sleep(0.02)
        assert worker.process.poll() is None
        worker.tell(uid, Begun(3), Ended())
        assert await asked == [Begun(3), Ended()]

    play(scene, max_silence_s=0.3)
