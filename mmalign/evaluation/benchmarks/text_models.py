"""Our models as lm_eval sees them: a policy, whose log-probabilities and answers are mmalign's own, and an endpoint.

    PolicyLM(load_policy("embedded", adapter), RecordFile(out / "requests.jsonl", Done, identity), batch_size=16)
    EndpointLM(Endpoint(model="base", url="http://localhost:8000/v1"), out / "replies")

Plain text is tokenised as lm_eval's own Hugging Face model does it: `<s>`, then the text, of which a literal `</s>` is
ordinary characters. What is done is on disk, and not done again.

Tests   tests/evaluation/benchmarks/test_text_run.py
"""

import asyncio
import hashlib
import json
import re
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from lm_eval.api.instance import Instance
from lm_eval.api.model import LM, TemplateLM
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
from peft import PeftModel
from torch import Tensor
from transformers import LlavaForConditionalGeneration

from mmalign.api.client import Client
from mmalign.api.endpoint import Endpoint
from mmalign.api.request import Request
from mmalign.data.records import RecordFile
from mmalign.generate import Prompt, Sampling, generate
from mmalign.logps import target_logps
from mmalign.messages import Message, Text
from mmalign.sampling.policy import Policy
from mmalign.template import Template

MAX_NEW_TOKENS = 256
"""Where a task does not say; as lm_eval's own models."""
ID_DIGITS = 32
BATCHES_KEPT_TOGETHER = 4

Row = tuple[tuple[str, str], list[int], list[int]]
"""A request of lm_eval's: its texts, tokens of the context, tokens of the continuation."""


class Done(NamedTuple):
    """What came of one request."""

    id: str
    value: Any
    """A text, or `[log-probability, is greedy]`."""


class Decoding(NamedTuple):
    """How a task wants its answers written."""

    until: tuple[str, ...]
    max_new_tokens: int
    temperature: float

    @classmethod
    def of(cls, wanted: Mapping[str, Any]) -> "Decoding":
        """From lm_eval's `generation_kwargs`."""
        until = wanted.get("until") or []
        sampled = wanted.get("do_sample") and wanted.get("temperature")
        return cls(
            until=(until,) if isinstance(until, str) else tuple(until),
            max_new_tokens=int(wanted.get("max_gen_toks") or MAX_NEW_TOKENS),
            temperature=float(wanted["temperature"]) if sampled else 0.0,
        )

    def cut(self, text: str) -> str:
        """An answer before the first stop text in it."""
        ends = [place for stop in self.until if stop and (place := text.find(stop)) >= 0]
        return text[: min(ends)] if ends else text


class PolicyLM(TemplateLM):  # type: ignore[misc]  # the library ships no types
    """A model of ours."""

    def __init__(self, policy: Policy, file: RecordFile[Done], *, batch_size: int = 16, chat: bool = False) -> None:
        """Remember the model; its weights are loaded when first needed.

        Args:
            policy: Checkpoint and adapter.
            file: Where results are kept.
            batch_size: Requests that run together.
            chat: Wrap every context as a user turn.
        """
        super().__init__()
        self.policy, self.file, self.batch_size, self.chat = policy, file, batch_size, chat
        self.template = policy.template if chat else _PlainText(policy)

    @property
    def eot_token_id(self) -> int:
        return self.template.eos_token_id

    @property
    def prefix_token_id(self) -> int:
        return self.template.bos_token_id

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        ids = _plain_ids(self.template, string)
        return ids if add_special_tokens is False else [self.prefix_token_id, *ids]

    def _encode_pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        if not self.chat:
            pair: tuple[list[int], list[int]] = super()._encode_pair(context, continuation)
            return pair
        prompt = self.template.encode_prompt((Message("user", (Text(context),)),))
        return prompt, self.template.encode_response(continuation.strip())[:-1]  # without the end token

    def _loglikelihood_tokens(self, requests: Sequence[Row], **_: Any) -> list[tuple[float, bool]]:
        rows = sorted(requests, key=lambda row: -len(row[1]) - len(row[2]))

        def run(batch: Sequence[Row]) -> list[Any]:
            return [[logp, greedy] for logp, greedy in self._score(batch)]

        found = self._kept("loglikelihood", rows, lambda row: [*row[0], len(row[1])], run)
        by_place = {id(row): value for row, value in zip(rows, found, strict=True)}
        return [(by_place[id(row)][0], by_place[id(row)][1]) for row in requests]

    def loglikelihood_rolling(self, requests: Sequence[Instance], **_: Any) -> list[float]:
        sums = []
        for request in requests:
            windows = get_rolling_token_windows(
                token_list=self.tok_encode(request.args[0], add_special_tokens=False),
                prefix_token=self.prefix_token_id,
                max_seq_len=self.policy.context,
                context_len=1,
            )
            pairs = [make_disjoint_window(window) for window in windows]
            rows = [((request.args[0], str(i)), list(pair[0]), list(pair[1])) for i, pair in enumerate(pairs)]
            sums.append(sum(logp for logp, _ in self._loglikelihood_tokens(rows)))
        return sums

    def generate_until(self, requests: Sequence[Instance], **_: Any) -> list[str]:
        found: dict[int, str] = {}
        for decoding, places in _grouped(Decoding.of(request.args[1]) for request in requests).items():

            def run(contexts: Sequence[str], decoding: Decoding = decoding) -> list[str]:
                return self._write(contexts, decoding)

            contexts = [requests[place].args[0] for place in places]
            texts = self._kept("generate", contexts, partial(_writing_key, decoding), run)
            found |= dict(zip(places, texts, strict=True))
        return [found[place] for place in range(len(requests))]

    def _kept(
        self, kind: str, asked: Sequence[Any], key: Callable[[Any], Sequence[Any]], run: Callable[[Any], list[Any]]
    ) -> list[Any]:
        """The results, those on disk without work; others go there a few batches at a time."""
        ids = [_request_id(kind, *key(each)) for each in asked]
        missing = list(
            {name: each for name, each in zip(ids, asked, strict=True) if name not in self.file.records}.items()
        )
        step = self.batch_size * (BATCHES_KEPT_TOGETHER if kind == "generate" else 1)
        for start in range(0, len(missing), step):
            part = missing[start : start + step]
            values = run([each for _, each in part])
            self.file.append([Done(name, value) for (name, _), value in zip(part, values, strict=True)])
        return [self.file.records[name].value for name in ids]

    @torch.inference_mode()
    def _score(self, rows: Sequence[Row]) -> list[tuple[float, bool]]:
        """Log-probability of each continuation, and whether each of its tokens is the likeliest."""
        model = self.policy.model
        model.eval()
        base = cast(LlavaForConditionalGeneration, model.get_base_model() if isinstance(model, PeftModel) else model)
        cut = [(context + target)[-self.policy.context - 1 :] for _, context, target in rows]
        lengths = [min(len(target), len(ids) - 1) for (_, _, target), ids in zip(rows, cut, strict=True)]
        inputs = [torch.tensor(ids[:-1]) for ids in cut]
        input_ids = torch.nn.utils.rnn.pad_sequence(inputs, batch_first=True).to(base.device)
        mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(ids) for ids in inputs], batch_first=True)
        hidden: Tensor = base.model(input_ids=input_ids, attention_mask=mask.to(base.device)).last_hidden_state
        pairs = zip(hidden, inputs, lengths, strict=True)
        states = torch.cat([row[len(ids) - length : len(ids)] for row, ids, length in pairs])
        targets = torch.cat([torch.tensor(ids)[-length:] for ids, length in zip(cut, lengths, strict=True)])
        head, targets = base.get_output_embeddings(), targets.to(base.device)
        logps = target_logps(head, states, targets).double().split(lengths)
        greedy = (head(states).argmax(-1) == targets).split(lengths)
        return [(float(each.sum()), bool(right.all())) for each, right in zip(logps, greedy, strict=True)]

    def _write(self, contexts: Sequence[str], decoding: Decoding) -> list[str]:
        stops = "|".join(re.escape(stop) for stop in decoding.until if stop)
        sampling = Sampling(max_new_tokens=decoding.max_new_tokens, temperature=decoding.temperature, until=stops)
        prompts = [Prompt((Message("user", (Text(text),)),), seed=_seed(text)) for text in contexts]
        texts = generate(self.policy.model, self.template, prompts, sampling, batch_size=self.batch_size)
        return [decoding.cut(text) for text in texts]


class EndpointLM(LM):  # type: ignore[misc]  # the library ships no types
    """A model behind an OpenAI-compatible address, which writes answers and tells no log-probability of a text."""

    def __init__(self, endpoint: Endpoint, replies: Path) -> None:
        """Remember whom to ask.

        Args:
            endpoint: Where.
            replies: Folder where replies are kept.
        """
        super().__init__()
        self.endpoint, self.replies = endpoint, replies

    def generate_until(self, requests: Sequence[Instance], **_: Any) -> list[str]:
        return asyncio.run(self._ask_all([(each.args[0], Decoding.of(each.args[1])) for each in requests]))

    async def _ask_all(self, asked: Sequence[tuple[str, Decoding]]) -> list[str]:
        found: dict[int, str] = {}
        async with Client(self.endpoint, self.replies) as client:

            async def one(place: int) -> None:
                text, decoding = asked[place]
                message = {"role": "user", "content": text}
                reply = await client.ask(Request((message,), decoding.max_new_tokens, decoding.temperature))
                found[place] = decoding.cut(reply.text)

            await client.each(range(len(asked)), one)
        return [found[place] for place in range(len(asked))]

    def loglikelihood(self, requests: Sequence[Instance], **_: Any) -> list[tuple[float, bool]]:
        raise ValueError(
            f"The task {requests[0].task_name} needs log-probabilities of given answers, which no chat endpoint tells. "
            "Run it on a checkpoint, or choose tasks whose answers are written, such as ifeval or gsm8k."
        )

    def loglikelihood_rolling(self, requests: Sequence[Instance], **_: Any) -> list[float]:
        self.loglikelihood(requests)
        return []


class _PlainText(Template):
    """No chat format: the text goes on."""

    def __init__(self, policy: Policy) -> None:
        super().__init__(policy.template.processor, policy.template.name)

    def encode_prompt(self, messages: Sequence[Message]) -> list[int]:
        text = "".join(part.text for part in messages[-1].content if isinstance(part, Text))
        return [self.bos_token_id, *_plain_ids(self, text)]


def _plain_ids(template: Template, text: str) -> list[int]:
    return list(template.tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"])


def _grouped(decodings: Iterable[Hashable]) -> dict[Any, list[int]]:
    places: dict[Any, list[int]] = {}
    for place, decoding in enumerate(decodings):
        places.setdefault(decoding, []).append(place)
    return places


def _request_id(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts, ensure_ascii=False).encode("utf-8", "replace")).hexdigest()[:ID_DIGITS]


def _writing_key(decoding: Decoding, text: str) -> list[Any]:
    return [text, *decoding]


def _seed(text: str) -> int:
    return int(_request_id(text)[:8], 16)
