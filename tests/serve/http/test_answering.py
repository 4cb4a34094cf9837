"""The body of an answer that is not streamed, and who else gets a turn meanwhile."""

import asyncio
import json

from mmalign.serve.http.answering import encoded


def test_choices_are_made_one_by_one_and_others_are_served_in_between():
    turns = 0

    async def turn() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async def run() -> tuple[bytes, list[int]]:
        others, made_at = asyncio.create_task(turn()), []

        def choice(i: int) -> dict:
            made_at.append(turns)
            return {"index": i, "text": "ä"}

        body = await encoded({"id": "x", "choices": (choice(i) for i in range(3)), "usage": None})
        others.cancel()
        return body, made_at

    body, made_at = asyncio.run(run())
    assert json.loads(body) == {"id": "x", "choices": [{"index": i, "text": "ä"} for i in range(3)], "usage": None}
    assert made_at == sorted(set(made_at)), "a turn of the others between any two"


def test_a_body_without_choices_is_encoded_at_once():
    assert json.loads(asyncio.run(encoded({"left": {"text": "a"}}))) == {"left": {"text": "a"}}
