"""Votes of people on two answers, and the journal they stand in."""

import io
import json

from PIL import Image

from mmalign.data.sample import Response
from mmalign.messages import ImageSlot, Message, Text
from mmalign.serve.page.votes import Vote


def png(colour="red"):
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), colour).save(buffer, "PNG")
    return buffer.getvalue()


RED = png()


def a_vote(name="a", choice="right", *, pictures=(RED,), text="Is it red?"):
    sampling = {"seed": 3, "temperature": 0.7, "top_p": 1.0, "max_new_tokens": 9, "finish_reason": "stop"}
    return Vote(
        id=name,
        choice=choice,
        messages=(Message("user", (*(ImageSlot() for _ in pictures), Text(text))),),
        pictures=pictures,
        responses=(
            Response(text="No.", model="base", sampling=sampling),
            Response(text="Yes.", model="dpo", sampling=sampling),
        ),
    )


def lines(folder):
    return [json.loads(line) for line in (folder / "journal.jsonl").read_text().splitlines()]
