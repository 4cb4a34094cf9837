"""A model behind an API as the judge: Gemini, GPT, a server of one's own.

    judge = ApiJudge(Endpoint(model="gpt-4o-mini"), Path("judged.replies"), load_aspects("helpsteer"))
    judge.rate(samples, done)

All responses of a sample stand in one call, in an order drawn from seed and sample (pairwise: two, in both orders).
Every reply is on disk before it is read, so that nothing is paid for twice; a reply that cannot be used is asked for
anew a few times, with the reason, and then the judgment is `invalid`: never zero, never left out.

Tests   tests/tools/test_judge.py, tests/faults/test_judging.py
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import permutations
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from mmalign.api.client import Client
from mmalign.api.endpoint import Endpoint
from mmalign.api.faults import RequestError, UnansweredError
from mmalign.api.pictures import Part
from mmalign.api.replies import Reply
from mmalign.api.request import Request, Structured
from mmalign.api.usage import Usage, taken
from mmalign.data.sample import Judgment, Sample
from mmalign.judges.aspects import WINS, AspectSet
from mmalign.judges.judge import UNANSWERED, Done, shortened
from mmalign.judges.parse import ReplyError, read_ratings, read_verdict
from mmalign.judges.prompt import drawn_order, judge_message, pictures_of, reply_schema

R = TypeVar("R")


class Invalid(NamedTuple):
    """Why there is no usable reply."""

    reason: str


@dataclass(frozen=True, kw_only=True)
class Asking:
    """How a judge is asked."""

    max_side: int | None = 1024
    """Longest side of a picture in pixels; larger ones are made smaller. Pictures cost tokens by their size."""
    max_tokens: int = 4096
    """Of a reply, hidden reasoning included. One that is cut here cannot be used, and is paid for."""
    temperature: float | None = 0.0
    """null leaves it to the server: some models take no other than their own."""
    structured: Structured = "auto"
    """Hold the model to the JSON of the ratings (`response_format`): true, false, or auto, as the server can."""
    tries_per_reply: int = 3
    """Replies to one question, at most, where they cannot be used. Then its ratings are invalid."""
    seed: int = 0
    """Of the order in which responses are shown."""

    def __post_init__(self) -> None:
        """Raise where a number makes no sense."""
        for name, value in {
            "max_side": self.max_side, "max_tokens": self.max_tokens, "tries_per_reply": self.tries_per_reply
        }.items():  # fmt: skip
            if value is not None and value < 1:
                raise ValueError(f"`--{name}` must be 1 or more, got {value}.")


@dataclass
class ApiJudge:
    """Rates by asking a model."""

    endpoint: Endpoint
    replies: Path
    """Folder of what was paid for."""
    aspects: AspectSet
    asking: Asking = Asking()
    name: str = ""
    """Of its judgments; model and aspect set if empty."""
    first_wait_s: float = 1.0
    """See `Client`."""
    usage: Usage = field(default_factory=Usage)
    """Of the last `rate`."""
    _used: dict[str, list[Reply]] = field(default_factory=dict)
    """By sample."""

    def __post_init__(self) -> None:
        """Give it its name.

        Raises:
            ValueError: A seed of what is not drawn.
        """
        if self.aspects.kind == "pairwise" and self.asking.seed:
            raise ValueError(
                f"Aspects of kind pairwise show both orders and draw none: leave `--seed {self.asking.seed}` out."
            )
        self.name = self.name or f"{self.endpoint.model}/{self.aspects.name}"

    def settings(self) -> Mapping[str, Any]:
        """Model, aspects, and how it is asked."""
        return {"judge": self.name, **self.endpoint.identity(), "aspects": self.aspects.identity()} | vars(self.asking)

    def note(self) -> str:
        """Calls, tokens and cost so far."""
        return self.usage.note()

    def used_for(self, key: str) -> Mapping[str, int | float]:
        """What the replies took that the judgments of a sample were made of."""
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
        client = Client(self.endpoint, self.replies, structured=self.asking.structured, first_wait_s=self.first_wait_s)
        self.usage = client.usage
        async with client:

            async def one(sample: Sample) -> None:
                done(sample, await self._judgments(client, sample))

            await client.each(samples, one)

    async def _judgments(self, client: Client, sample: Sample) -> Sequence[Judgment]:
        if not sample.responses:
            return ()
        try:
            pictures = await asyncio.to_thread(pictures_of, sample, self.asking.max_side)
        except ValueError as error:
            return self._all_invalid(sample, str(error))
        try:
            if self.aspects.kind == "pairwise":
                return await self._pairwise(client, sample, pictures)
            return await self._together(client, sample, pictures)
        except RequestError as error:
            raise RequestError(f"sample {sample.key!r}: {error}", error.status) from None

    async def _together(self, client: Client, sample: Sample, pictures: Sequence[Part]) -> Sequence[Judgment]:
        """All responses in one call."""
        order = drawn_order(sample, self.asking.seed)
        n = len(order)
        said = await self._asked(
            client, sample, self._request(sample, order, pictures), lambda text: read_ratings(text, self.aspects, n)
        )
        if isinstance(said, Invalid):
            return self._all_invalid(sample, said.reason)
        place_of = {response: place for place, response in enumerate(order)}
        return [
            Judgment(
                judge=self.name,
                ratings=said[place_of[i]].ratings,
                rationale=shortened(said[place_of[i]].reason),
                place=place_of[i],
            )
            for i in range(n)
        ]

    async def _pairwise(self, client: Client, sample: Sample, pictures: Sequence[Part]) -> Sequence[Judgment]:
        """Every pair in both orders; equal texts need no judge. A response that lacks a verdict is invalid."""
        n = len(sample.responses)
        if n < 2:
            return self._all_invalid(sample, "a pairwise judge needs two responses or more")
        wins, reasons = [0.0] * n, [list[str]() for _ in range(n)]
        faults = [""] * n
        for pair in permutations(range(n), 2):
            if sample.responses[pair[0]].text == sample.responses[pair[1]].text:
                wins = [count + 0.25 * (i in pair) for i, count in enumerate(wins)]  # twice: pairs come in both orders
                continue
            said = await self._asked(client, sample, self._request(sample, pair, pictures), read_verdict)
            if isinstance(said, Invalid):
                for i in pair:
                    faults[i] = faults[i] or f"responses {pair[0]} and {pair[1]}: {said.reason}"
                    if said.reason.startswith(UNANSWERED):
                        faults[i] = said.reason
                continue
            wins[pair[said.better - 1]] += 0.5
            for i in pair:
                verdict = "better" if pair[said.better - 1] == i else "worse"
                reasons[i].append(
                    f"{verdict} than {pair[0] + pair[1] - i} (shown as {pair.index(i) + 1}): {said.reason}"
                )
        return [
            Judgment(judge=self.name, invalid=fault)
            if fault
            else Judgment(judge=self.name, ratings={WINS: won}, rationale=shortened("\n".join(why)))
            for won, why, fault in zip(wins, reasons, faults, strict=True)
        ]

    async def _asked(self, client: Client, sample: Sample, request: Request, read: Callable[[str], R]) -> R | Invalid:
        """What a reply says, with as many tries as may be."""
        reason = ""
        for attempt in range(self.asking.tries_per_reply):
            try:
                reply = await client.ask(_once_more(request, reason, attempt), attempt=attempt)
            except UnansweredError as error:
                return Invalid(f"{UNANSWERED}: {str(error).removeprefix(f'{UNANSWERED} ')}")
            self._used.setdefault(sample.key, []).append(reply)
            if not reply.text and (reply.refusal or reply.finish_reason == "content_filter"):
                return Invalid(f"refused: {shortened(reply.refusal) or 'by a content filter'}")
            try:
                return read(reply.text)
            except ReplyError as error:
                cut = "it was cut, raise `--max_tokens`: " if reply.finish_reason == "length" else ""
                reason = f"{cut}{error}"
        return Invalid(f"unusable at {self.asking.tries_per_reply} tries, at the last: {reason}")

    def _request(self, sample: Sample, order: Sequence[int], pictures: Sequence[Part]) -> Request:
        return Request(
            (judge_message(self.aspects, sample, order, pictures),),
            max_tokens=self.asking.max_tokens,
            temperature=self.asking.temperature,
            json_schema=reply_schema(self.aspects, len(order)),
        )

    def _all_invalid(self, sample: Sample, reason: str) -> Sequence[Judgment]:
        return [Judgment(judge=self.name, invalid=reason) for _ in sample.responses]


def _once_more(request: Request, reason: str, attempt: int) -> Request:
    """The same question, with what was wrong with the last reply: a greedy model would only repeat itself."""
    if not attempt:
        return request
    (message,) = request.messages
    note = f"\n\nAn earlier reply to this could not be used: {reason}. Mind the format. (Try {attempt + 1}.)"
    content = message["content"]
    more = f"{content}{note}" if isinstance(content, str) else [*content, {"type": "text", "text": note}]
    return request._replace(messages=({**message, "content": more},))
