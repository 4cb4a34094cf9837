"""What a client reads: completions and chunks of them in OpenAI's form, one id an answer."""

import time
import uuid
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from ..messages import Begun, Piece, TokenLogprob
from .answering import Answer
from .schema.replies import (
    ChatChoice,
    ChatLogprobs,
    ChunkChoice,
    CompletionChoice,
    CompletionLogprobs,
    Delta,
    FinishReason,
    LikelyToken,
    Usage,
    WrittenToken,
)

UNLIKELY = -9999.0
"""OpenAI's word for a probability of zero: JSON has no infinity."""


class _Reply:
    """What both kinds of reply share: one id and one time, however many chunks there are."""

    def __init__(self, model: str, prefix: str, *, include_usage: bool) -> None:
        self._id = f"{prefix}-{uuid.uuid4().hex}"
        self._created = int(time.time())
        self._model = model
        self._include_usage = include_usage

    def _object(self, kind: str, choices: Iterable[Any], usage: Usage | None) -> dict[str, Any]:
        return {
            "id": self._id,
            "object": kind,
            "created": self._created,
            "model": self._model,
            "choices": choices,
            "usage": usage,
        }

    def _part(self, kind: str, choice: Any) -> dict[str, Any]:
        """A chunk; it speaks of usage only where the last one will tell it."""
        chunk = self._object(kind, [choice], None)
        if not self._include_usage:
            del chunk["usage"]
        return chunk

    def _end(self, kind: str, begun: Sequence[Begun], answers: Sequence[Answer]) -> list[dict[str, Any]]:
        return [self._object(kind, [], usage(begun, answers))] if self._include_usage else []


class ChatReply(_Reply):
    """One response of `/v1/chat/completions`."""

    def __init__(self, model: str, *, include_usage: bool = False, logprobs: bool = False) -> None:
        super().__init__(model, "chatcmpl", include_usage=include_usage)
        self._logprobs = logprobs
        self._begun: set[int] = set()

    def whole(self, begun: Sequence[Begun], answers: Sequence[Answer]) -> dict[str, Any]:
        """The answers at once."""
        choices: Iterator[ChatChoice] = (
            {
                "index": i,
                "message": {"role": "assistant", "content": answer.text, "refusal": None},
                "logprobs": self._told(answer.tokens),
                "finish_reason": _reason(answer.finish_reason),
            }
            for i, answer in enumerate(answers)
        )
        return self._object("chat.completion", choices, usage(begun, answers))

    def first(self, place: int, begun: Begun) -> list[dict[str, Any]]:
        """Nothing: a choice begins with its first piece."""
        return []

    def chunk(self, piece: Piece) -> list[dict[str, Any]]:
        """Role, text and end of an answer, each in a chunk of its own."""
        chunks = []
        if piece.choice not in self._begun:
            self._begun.add(piece.choice)
            chunks.append(self._chunk(piece, {"role": "assistant", "content": ""}))
        if piece.text or piece.tokens:
            chunks.append(self._chunk(piece, {"content": piece.text}, tokens=piece.tokens))
        if piece.finish_reason:
            chunks.append(self._chunk(piece, {}, ended=True))
        return chunks

    def last(self, begun: Sequence[Begun], answers: Sequence[Answer]) -> list[dict[str, Any]]:
        """The usage, where the client asked for it."""
        return self._end("chat.completion.chunk", begun, answers)

    def _chunk(
        self, piece: Piece, delta: Delta, *, tokens: Sequence[TokenLogprob] = (), ended: bool = False
    ) -> dict[str, Any]:
        choice: ChunkChoice = {
            "index": piece.choice,
            "delta": delta,
            "logprobs": self._told(tokens) if tokens else None,
            "finish_reason": _reason(piece.finish_reason) if ended else None,
        }
        return self._part("chat.completion.chunk", choice)

    def _told(self, tokens: Sequence[TokenLogprob]) -> ChatLogprobs | None:
        return {"content": [_written(token) for token in tokens], "refusal": None} if self._logprobs else None


class CompletionReply(_Reply):
    """One response of `/v1/completions`: the choices of all its prompts, those of the first prompt first."""

    def __init__(
        self, model: str, *, n: int = 1, echo: bool = False, logprobs: bool = False, include_usage: bool = False
    ) -> None:
        super().__init__(model, "cmpl", include_usage=include_usage)
        self._n, self._echo, self._logprobs = n, echo, logprobs
        self._offsets: dict[int, int] = {}

    def whole(self, begun: Sequence[Begun], answers: Sequence[Answer]) -> dict[str, Any]:
        """The continuations at once."""

        def choice(i: int, answer: Answer) -> CompletionChoice:
            prompt = begun[i // self._n] if self._echo else Begun(0)
            tokens = (*prompt.echoed, *answer.tokens)
            return self._choice(i, prompt.echoed_text + answer.text, tokens, _reason(answer.finish_reason))

        choices = (choice(i, answer) for i, answer in enumerate(answers))
        return self._object("text_completion", choices, usage(begun, answers))

    def first(self, place: int, begun: Begun) -> list[dict[str, Any]]:
        """The prompt, where the client asked for it, once for each of its continuations."""
        if not self._echo:
            return []
        mine = range(place * self._n, (place + 1) * self._n)
        return [self._chunk(i, begun.echoed_text, begun.echoed, None) for i in mine]

    def chunk(self, piece: Piece) -> list[dict[str, Any]]:
        """A stretch of text; the last one has the reason of the end."""
        reason = _reason(piece.finish_reason) if piece.finish_reason else None
        return [self._chunk(piece.choice, piece.text, piece.tokens, reason)]

    def last(self, begun: Sequence[Begun], answers: Sequence[Answer]) -> list[dict[str, Any]]:
        """The usage, where the client asked for it."""
        return self._end("text_completion", begun, answers)

    def _chunk(self, i: int, text: str, tokens: Sequence[TokenLogprob], reason: FinishReason | None) -> dict[str, Any]:
        return self._part("text_completion", self._choice(i, text, tokens, reason))

    def _choice(
        self, i: int, text: str, tokens: Sequence[TokenLogprob], reason: FinishReason | None
    ) -> CompletionChoice:
        logprobs: CompletionLogprobs | None = None
        if self._logprobs:
            logprobs = {
                "tokens": [token.text for token in tokens],
                "token_logprobs": [_finite(token.logprob) for token in tokens],
                "top_logprobs": [_by_text(token) for token in tokens],
                "text_offset": self._places(i, tokens),
            }
        return {"index": i, "text": text, "logprobs": logprobs, "finish_reason": reason}

    def _places(self, i: int, tokens: Sequence[TokenLogprob]) -> list[int]:
        """Where in its choice's text each token begins, as far as tokens are whole characters."""
        places = []
        for token in tokens:
            places.append(self._offsets.get(i, 0))
            self._offsets[i] = places[-1] + len(token.text)
        return places


def usage(begun: Sequence[Begun], answers: Sequence[Answer]) -> Usage:
    """What a request has cost."""
    prompt, completion = sum(job.prompt_tokens for job in begun), sum(answer.num_tokens for answer in answers)
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def _reason(worker: str | None) -> FinishReason:
    """Nothing was to be written where the worker names none, so a limit was the end."""
    return "stop" if worker == "stop" else "length"


def _written(token: TokenLogprob) -> WrittenToken:
    return {**_likely(token), "top_logprobs": [_likely(other) for other in token.top]}


def _likely(token: TokenLogprob) -> LikelyToken:
    logprob = _finite(token.logprob)
    assert logprob is not None, "only the first token of a prompt has none"
    return {"token": token.text, "bytes": list(token.bytes), "logprob": logprob}


def _by_text(token: TokenLogprob) -> dict[str, float] | None:
    """OpenAI's old form. Of two tokens with the same text the likelier counts; the chosen one is always there.

    lm_eval calls a token greedy where its value equals the highest of these.
    """
    if token.logprob is None:
        return None
    by_text: dict[str, float] = {}
    for other in (token, *token.top):
        logprob = _finite(other.logprob)
        assert logprob is not None
        by_text[other.text] = max(logprob, by_text.get(other.text, UNLIKELY))
    return by_text


def _finite(logprob: float | None) -> float | None:
    return None if logprob is None else max(UNLIKELY, logprob)
