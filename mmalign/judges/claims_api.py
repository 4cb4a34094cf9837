"""RLAIF-V's claims, checked by a model behind an API: see `mmalign.judges.claims`.

    judge = ApiClaimsJudge(Endpoint(model="gpt-4o-mini"), Path("judged.replies"))
    judge.rate(samples, done)

Tests   tests/judges/test_claims.py
"""

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmalign.api.client import Client
from mmalign.api.endpoint import Endpoint
from mmalign.api.faults import RequestError, UnansweredError
from mmalign.api.pictures import chat
from mmalign.api.replies import Reply
from mmalign.api.request import Request
from mmalign.api.usage import Usage, taken
from mmalign.data.sample import Judgment, Sample
from mmalign.judges.claims import Question, Rule, fault_of, judge_claims
from mmalign.judges.judge import UNANSWERED, Done


@dataclass
class ApiClaimsJudge:
    """A model behind an API checks the claims; every reply is kept before it is read."""

    endpoint: Endpoint
    replies: Path
    """Folder of what was paid for."""
    rule: Rule = "model"
    max_side: int | None = 1024
    """Longest side of a picture in pixels; larger ones are made smaller."""
    max_tokens: int = 2048
    """Of a reply, hidden reasoning included."""
    usage: Usage = field(default_factory=Usage)
    """Of the last `rate`."""
    _used: dict[str, list[Reply]] = field(default_factory=dict)
    """By sample."""

    @property
    def name(self) -> str:
        """Of its judgments: `claims/gpt-4o-mini`."""
        return f"claims/{self.endpoint.model}"

    def settings(self) -> Mapping[str, Any]:
        """Model, rule, and how large pictures are."""
        return {
            "judge": self.name,
            "claims": self.rule,
            "max_side": self.max_side,
            "max_tokens": self.max_tokens,
            **self.endpoint.identity(),
        }

    def note(self) -> str:
        """Calls, tokens and cost so far."""
        return self.usage.note()

    def used_for(self, key: str) -> Mapping[str, int | float]:
        """What the judgments of a sample took."""
        return taken(self._used.pop(key, []), priced=self.endpoint.prices is not None)

    def rate(self, samples: Iterable[Sample], done: Done) -> None:
        """Rate samples, many at a time.

        Args:
            samples: Read as they are needed.
            done: See `Judge`.

        Raises:
            RequestError: The server refuses; which sample, and what to do.
            SpendLimitError, ServerDownError: See `Client.ask`. What was paid for is kept.
        """
        asyncio.run(self._rate(samples, done))

    async def _rate(self, samples: Iterable[Sample], done: Done) -> None:
        async with Client(self.endpoint, self.replies) as client:
            self.usage = client.usage

            async def one(sample: Sample) -> None:
                done(sample, await self._judgments(client, sample))

            await client.each(samples, one)

    async def _judgments(self, client: Client, sample: Sample) -> list[Judgment]:
        if fault := await asyncio.to_thread(fault_of, sample):
            return [Judgment(judge=self.name, invalid=fault) for _ in sample.responses]
        asking = judge_claims(self.name, self.rule, sample)
        questions = next(asking)
        try:
            while True:
                replies = [await self._ask(client, sample, question) for question in questions]
                questions = asking.send(replies)
        except StopIteration as end:
            judgments: list[Judgment] = end.value
            return judgments
        except UnansweredError as error:
            reason = f"{UNANSWERED}: {error}"
        except RequestError as error:
            raise RequestError(f"sample {sample.key!r}: {error}", error.status) from None
        return [Judgment(judge=self.name, invalid=reason) for _ in sample.responses]

    async def _ask(self, client: Client, sample: Sample, question: Question) -> str:
        messages = chat(question.messages(), question.images, max_side=self.max_side)
        reply = await client.ask(Request(messages, max_tokens=self.max_tokens))
        self._used.setdefault(sample.key, []).append(reply)
        return reply.text
