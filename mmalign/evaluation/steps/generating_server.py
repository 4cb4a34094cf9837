"""Answers to a benchmark from an OpenAI-compatible endpoint: vLLM, `mmalign serve`, a provider.

    EndpointAnswerer(Endpoint(model="llava", url="http://localhost:8000/v1"), Path("runs/mm_vet/replies"))

Every reply is on disk before it is used, so that a run that was stopped asks only for what is missing. No torch.

Tests   tests/evaluation/steps/test_generating.py
"""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from mmalign.api.client import Client
from mmalign.api.endpoint import Endpoint
from mmalign.api.faults import plain
from mmalign.api.pictures import chat
from mmalign.api.request import Request
from mmalign.api.usage import Usage
from mmalign.evaluation.steps.benchmark import Ask
from mmalign.evaluation.steps.generating import answer_of, conversation
from mmalign.evaluation.steps.records import Answer
from mmalign.sampling.asking import NOT_THIS_PROMPT, Asking, Said

LOGGER = logging.getLogger(__name__)
WRITTEN_EVERY_S = 1.0
"""Answers of so long are written together: their replies are on disk already."""


class EndpointAnswerer:
    """A model behind an endpoint."""

    def __init__(
        self,
        endpoint: Endpoint,
        replies: Path,
        *,
        seed: int = 0,
        max_side: int | None = None,
        first_wait_s: float = 1.0,
        used: Callable[[Usage], None] = lambda usage: None,
        warn: Callable[[str], None] = LOGGER.warning,
    ) -> None:
        """Remember whom to ask; nothing is sent yet.

        Args:
            endpoint: Where, and how much at a time.
            replies: Folder where replies are kept.
            seed: Another one gives other answers, where they are drawn.
            max_side: Pictures with a longer side are made smaller; None sends all as they are.
            first_wait_s: Before the second try for a reply; doubled for each further one.
            used: Told what was used so far, with every batch.
            warn: Called where the server answers as several models.

        Raises:
            ValueError: Pictures without a side.
        """
        if max_side is not None and max_side < 1:
            raise ValueError(f"`--max_side` must be 1 or more, got {max_side}.")
        self.endpoint, self.replies, self.seed, self.max_side = endpoint, replies, seed, max_side
        self.first_wait_s, self.used, self.warn = first_wait_s, used, warn
        self._waiting = list[Answer]()
        self._written_at = 0.0

    @property
    def name(self) -> str:
        """The model's name there."""
        return self.endpoint.model

    @property
    def identity(self) -> Mapping[str, str]:
        """Model, address, seed and size of pictures."""
        max_side = {} if self.max_side is None else {"max_side": str(self.max_side)}
        return {**self.endpoint.identity(), "seed": str(self.seed), **max_side}

    def answer(self, asks: Sequence[Ask], done: Callable[[Sequence[Answer]], None]) -> None:
        """Answer all questions, many at a time; one that the server does not take says why.

        Args:
            asks: Their pictures can be read.
            done: Is given the answers of about a second.

        Raises:
            RequestError, ServerDownError, SpendLimitError: See `Client.ask`; what came before is kept.
            ValueError: Some got no reply at any try.
        """
        asyncio.run(self._answer_all(asks, done))

    async def _answer_all(self, asks: Sequence[Ask], done: Callable[[Sequence[Answer]], None]) -> None:
        client = Client(self.endpoint, self.replies, first_wait_s=self.first_wait_s, one_by_one=NOT_THIS_PROMPT)
        async with client:
            asking = Asking(client)

            async def answer_one(ask: Ask) -> None:
                said = await self._converse(asking, ask)
                if said is not None:
                    self._waiting.append(answer_of(ask, self.name, said))
                if time.monotonic() - self._written_at > WRITTEN_EVERY_S:
                    self._write(client, done)

            try:
                await client.each(asks, answer_one)
            finally:
                self._write(client, done)
                if len(asking.models) > 1:
                    self.warn(mixture(asking.models))
        asking.check_all_came()

    def _write(self, client: Client, done: Callable[[Sequence[Answer]], None]) -> None:
        together, self._waiting, self._written_at = self._waiting, [], time.monotonic()
        self.used(client.usage)
        if together:
            done(together)

    async def _converse(self, asking: Asking, ask: Ask) -> list[Said] | None:
        """One turn after the other, up to one that fails; None where a reply did not come."""
        said = list[Said]()
        while len(said) < len(ask.turns) and not (said and said[-1].failure):
            request = await asyncio.to_thread(self._request, ask, said)
            reply = await asking.ask(ask.id, f"{ask.id}, turn {len(said) + 1}", request)
            if reply is None:
                return None
            said.append(reply)
        return said

    def _request(self, ask: Ask, said: Sequence[Said]) -> Request:
        talk = conversation(ask, said, self.seed)
        images = [picture.read() for picture in talk.pictures]
        return Request(
            chat(talk.messages, images, max_side=self.max_side),
            max_tokens=ask.max_new_tokens,
            temperature=ask.temperature,
            seed=talk.seed,
        )


def mixture(models: Mapping[str, int]) -> str:
    """What is said where answers are of several models.

    Args:
        models: Replies of each.
    """
    named = ", ".join(f"{number} by {plain(model) or 'an unnamed one'}" for model, number in models.items())
    return (
        f"WARNING: {len(models)} different models have answered ({named}). The server gives several models, or a new "
        "snapshot, under one name: name one exact snapshot with `--model`, and ask it in a new `--out`."
    )
