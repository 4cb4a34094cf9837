"""K answers to every prompt from an OpenAI-compatible server: vLLM, `mmalign serve`, a provider.

    drawing, Endpoint(model="llava", url="http://localhost:8000/v1") -> the same `Sampled` records as from a model here

Each answer is a request of its own, with its own seed, by which `mmalign serve` gives the answer that the model gives
here. Every reply is on disk before it is used (`mmalign.api`), so a run that was stopped asks only for what is missing.

Tests   tests/sampling/test_server.py
"""

import asyncio
from collections.abc import Callable, Mapping
from pathlib import Path

from mmalign.api.client import Client
from mmalign.api.endpoint import Endpoint
from mmalign.api.pictures import ChatMessage, chat
from mmalign.api.request import Request
from mmalign.api.usage import Usage
from mmalign.data.reader import ShardSet
from mmalign.data.sample import Sample
from mmalign.processor import open_image
from mmalign.sampling.answers import Drawing, Sampled, answer_id
from mmalign.sampling.asking import NOT_THIS_PROMPT, Asking


class ServerAnswers:
    """Asks a server for all answers to a shard set."""

    def __init__(
        self, source: ShardSet, drawing: Drawing, *, max_side: int | None, progress: Callable[[int, Usage], None]
    ) -> None:
        """Remember what to ask.

        Args:
            source: The prompts.
            drawing: How many answers, and how they are drawn.
            max_side: Pictures with a longer side are made smaller; None sends all as they are.
            progress: Called with the number of answers that came, and with what was used so far.
        """
        self.source, self.drawing, self.max_side, self.progress = source, drawing, max_side, progress
        self.found = dict[str, Sampled]()

    async def ask_all(self, endpoint: Endpoint, replies: Path, *, first_wait_s: float = 1.0) -> Mapping[str, Sampled]:
        """All answers, by id; a prompt that the server does not take says why.

        Args:
            endpoint: Where, and how much at a time.
            replies: Folder where replies are kept.
            first_wait_s: Before the second try for one; doubled for each further one.

        Raises:
            RequestError, ServerDownError, SpendLimitError: See `Client.ask`; what came before is kept.
            ValueError: Some prompts got no reply at any try.
        """
        async with Client(endpoint, replies, first_wait_s=first_wait_s, one_by_one=NOT_THIS_PROMPT) as client:
            asking = Asking(client)
            await client.each(range(len(self.source)), lambda number: self._ask(asking, number))
        asking.check_all_came()
        return self.found

    async def _ask(self, asking: Asking, number: int) -> None:
        """All answers to one prompt."""
        sample = self.source[number]
        self.drawing.check_unanswered(sample)
        try:
            messages = await asyncio.to_thread(self._messages, sample)
        except ValueError as error:
            for each in range(self.drawing.num):
                name = answer_id(sample.key, each)
                self.found[name] = Sampled(name, failure=str(error))
        else:
            await asyncio.gather(*(self._ask_one(asking, sample, messages, each) for each in range(self.drawing.num)))
        self.progress(self.drawing.num, asking.client.usage)

    def _messages(self, sample: Sample) -> tuple[ChatMessage, ...]:
        """The prompt in OpenAI's form.

        Raises:
            ValueError: A picture is broken.
        """
        for number, data in enumerate(sample.images):
            open_image(data, where=f"picture {number}")  # whole: servers differ in what they make of half a picture
        return chat(sample.messages, sample.images, max_side=self.max_side)

    async def _ask_one(self, asking: Asking, sample: Sample, messages: tuple[ChatMessage, ...], number: int) -> None:
        drawing, name = self.drawing, answer_id(sample.key, number)
        request = Request(
            messages,
            max_tokens=drawing.max_new_tokens,
            temperature=drawing.temperature,
            top_p=drawing.top_p if drawing.top_p < 1 else None,
            seed=int(drawing.drawn(sample, number)["seed"]),
        )
        said = await asking.ask(sample.key, name, request)
        if said is not None:
            self.found[name] = Sampled(name, *said)
