"""AlpacaEval's own library at work: its prompts, its drawn order of the two answers, its parsers; our client asks.

    annotate("alpaca_eval_gpt4", instructions, answers, Endpoint(model="gpt-4"), out)   -> judgments
    length_controlled(annotations)                                                      -> a share of each

The library's client would read the key from the environment, write nothing down before 128 replies are there, and take
a server that fails for a judge that says nothing. Ours keeps every reply in `out/replies`, and asks nothing twice.

Tests   tests/evaluation/benchmarks/test_alpaca_run.py
"""

import asyncio
import importlib
import importlib.metadata
import json
import logging
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import packaging.version
from openai.types.chat import ChatCompletion
from rich.console import Console
from rich.progress import Progress

from mmalign.api.client import Client
from mmalign.api.endpoint import Endpoint
from mmalign.api.faults import RefusedAnswerError, UnansweredError
from mmalign.api.replies import Reply
from mmalign.api.request import Request
from mmalign.data.manifest import write_whole
from mmalign.evaluation.benchmarks.alpaca_records import Instruction, parse_preference
from mmalign.evaluation.steps.faults import NO_REPLY
from mmalign.evaluation.steps.records import Answer, JudgeReply, prompt_hash
from mmalign.evaluation.steps.sources import load

ANNOTATIONS_FILE = "annotations.json"
NUM_INSTRUCTIONS = 805
TOP_LOGPROBS = 5
GAMED = "tatsu-lab/alpaca_eval:df_gamed.csv"
"""What the length-controlled win rate is fitted with: how hard each instruction is, and answers made long or short."""


def annotate(
    annotators: str, instructions: Sequence[Instruction], answers: Sequence[Answer], endpoint: Endpoint, out: Path
) -> list[JudgeReply]:
    """Compare answers with the baseline's.

    Args:
        annotators: The library's name of judge, prompt, decoding and parser.
        instructions: With the baseline's answers.
        answers: The model's, in any order; failed ones are left out.
        endpoint: The judge.
        out: Where replies are kept and annotations written.

    Raises:
        ValueError: No library, no answer to these instructions, or the judge refuses.
    """
    by_id = {each.id: each for each in answers if not each.failure}
    asked = [each for each in instructions if each.id in by_id]
    if not asked:
        raise ValueError(f"None of the {len(answers)} answers is to one of the {len(instructions)} instructions.")
    library = _library("annotators")
    annotator = library.PairwiseAnnotator(annotators_config=annotators, caching_path=None)
    (single,) = annotator.annotators.values()
    single.fn_completions = judge = _Judge(endpoint, out / "replies")
    with _quiet():
        rows = annotator.annotate_head2head(
            outputs_1=[{"instruction": q.text, "output": q.output, "generator": q.generator} for q in asked],
            outputs_2=[
                {"instruction": q.text, "output": by_id[q.id].text, "generator": by_id[q.id].model} for q in asked
            ],
            chunksize=None,
        )
    by_text = {row["instruction"]: row for row in rows}
    prompts = _both_orders([by_text[q.text] for q in asked], single.prompt_template)
    found = [
        _reply(question, by_text[question.text], next((judge.said[each] for each in pair if each in judge.said), None))
        for question, pair in zip(asked, prompts, strict=True)
    ]
    named = next((each.judge for each in found if each.judge), endpoint.model)
    replies = [each if each.judge else each._replace(judge=named) for each in found]
    annotations = [json.loads(each.text) for each in replies if each.text]
    write_whole(out / ANNOTATIONS_FILE, json.dumps(annotations, indent=2, ensure_ascii=False).encode())
    return replies


def length_controlled(annotations: Sequence[Mapping[str, Any]]) -> list[float]:
    """The preference for each answer that the library's regression predicts, were it as long as the baseline's.

    Args:
        annotations: In the library's layout, of all instructions, in their order: it knows them by their number.

    Raises:
        ValueError: Not all of them, no library, or its file is not to be had.
    """
    if len(annotations) != NUM_INSTRUCTIONS or not all("output_2" in each for each in annotations):
        raise ValueError(
            f"The length-controlled win rate needs the annotations, with both answers, of all {NUM_INSTRUCTIONS} "
            f"instructions; there are {len(annotations)}. Leave `--length_controlled` out."
        )
    glm = _library("metrics.glm_winrate")
    load(GAMED)  # an error that says what to do, where the library's own does not
    frame = importlib.import_module("pandas").DataFrame(list(annotations))
    with _quiet(), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # how the library calls scikit-learn
        glm.get_length_controlled_winrate(frame, save_weights_dir=None)
    return [float(each) for each in frame["glm_preference"]]


class _Said(NamedTuple):
    """What came of one prompt."""

    prompt_hash: str
    temperature: float
    reply: Reply | None
    choice: Mapping[str, Any]
    """As the API gives it, with its `text`; empty where there is no reply."""
    failure: str = ""


class _Judge:
    """Stands where the library has its client."""

    def __init__(self, endpoint: Endpoint, replies: Path) -> None:
        self.endpoint, self.replies = endpoint, replies
        self.said: dict[str, _Said] = {}
        """By prompt."""

    def __call__(
        self,
        prompts: Sequence[str],
        model_name: str,
        max_tokens: int,
        temperature: float | int,
        logprobs: bool = False,
        top_logprobs: int = 0,
    ) -> dict[str, list[Any]]:
        """Reply to the library's prompts, as its own client does; the model is the endpoint's."""
        asyncio.run(self._ask_all(prompts, max_tokens, float(temperature), top_logprobs if logprobs else 0))
        choices = [self.said[prompt].choice for prompt in prompts]
        return {
            "completions": [choice.get("text", "") for choice in choices],
            "completions_all": [choice or "" for choice in choices],  # "" is what the library's parsers take for none
        }

    async def _ask_all(self, prompts: Sequence[str], max_tokens: int, temperature: float, top_logprobs: int) -> None:
        bar = Progress(console=Console(stderr=True), transient=True)
        task = bar.add_task("asking the judge", total=len(prompts))
        kind: type[Client] = _WeighingClient if top_logprobs else Client
        async with kind(self.endpoint, self.replies) as client:

            async def one(prompt: str) -> None:
                plain = Request(_messages(prompt), max_tokens, temperature, top_p=1.0)
                self.said[prompt] = await _said(client, _WeighingRequest(*plain) if top_logprobs else plain)
                bar.advance(task)

            with bar:
                await client.each(dict.fromkeys(prompts), one)


async def _said(client: Client, request: Request) -> _Said:
    hashed, temperature = prompt_hash(request.messages), request.temperature or 0.0
    try:
        reply = await client.ask(request)
    except UnansweredError as error:
        return _Said(hashed, temperature, None, {}, f"{NO_REPLY}: {error}")
    weighed = isinstance(request, _WeighingRequest) and reply.text
    choice = json.loads(reply.text) if weighed else {"text": reply.text}
    return _Said(hashed, temperature, reply, choice if choice["text"] else {})


class _WeighingRequest(Request):
    """Asks for the probabilities of the likeliest tokens, from which AlpacaEval 2 reads its preference."""

    __slots__ = ()

    def body(self, model: str, attempt: int) -> dict[str, Any]:
        return super().body(model, attempt) | {"logprobs": True, "top_logprobs": TOP_LOGPROBS}


class _WeighingClient(Client):
    """Keeps the whole choice as the text of a reply, with the probabilities in it."""

    async def _send(self, request: Request, attempt: int) -> ChatCompletion | RefusedAnswerError:
        completion = await super()._send(request, attempt)
        if isinstance(completion, ChatCompletion):
            choice = completion.choices[0]
            whole = choice.model_dump() | {"text": choice.message.content or ""}
            choice.message.content = json.dumps(whole, ensure_ascii=False)
        return completion


def _messages(prompt: str) -> tuple[dict[str, str], ...]:
    """The library's prompts mark their messages as ChatML does."""
    found: list[dict[str, str]] = _library("utils").prompt_to_chatml(prompt.strip())
    return tuple({"role": each["role"], "content": each["content"]} for each in found)


def _both_orders(rows: Sequence[Mapping[str, Any]], template: str) -> list[tuple[str, str]]:
    """The prompts that show a row's answers in their order, and in the other; the library drew one of them."""
    pandas, make_prompts = importlib.import_module("pandas"), _library("utils").make_prompts
    frame = pandas.DataFrame(list(rows))
    switched = frame.rename(columns={"output_1": "output_2", "output_2": "output_1"})
    return list(zip(make_prompts(frame, template)[0], make_prompts(switched, template)[0], strict=True))


def _reply(question: Instruction, row: Mapping[str, Any], said: _Said | None) -> JudgeReply:
    """A row of the library's as a judgment; without a prompt both answers are the same, and nobody was asked."""
    if said is not None and said.reply is None:
        return JudgeReply(question.id, "", temperature=said.temperature, failure=said.failure)
    annotation = {
        "instruction": question.text,
        "output_1": row["output_1"],
        "generator_1": row["generator_1"],
        "dataset": question.dataset,
        "output_2": row["output_2"],
        "generator_2": row["generator_2"],
        "annotator": row["annotator"],
        "preference": parse_preference(row["preference"]),
    }
    if said is None or said.reply is None:
        return JudgeReply(question.id, json.dumps(annotation, ensure_ascii=False))
    completion = said.choice if "logprobs" in said.choice else said.choice.get("text", "")
    return JudgeReply(
        question.id,
        json.dumps(annotation | {"preference_raw_completion": completion}, ensure_ascii=False),
        judge=said.reply.model,
        prompt_hash=said.prompt_hash,
        temperature=said.temperature,
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """The library logs every prompt that has no preference, with a traceback; `score` counts them."""

    def refuse(record: logging.LogRecord) -> bool:
        return False

    root = logging.getLogger()
    root.addFilter(refuse)
    try:
        yield
    finally:
        root.removeFilter(refuse)


def _library(name: str) -> Any:
    """A module of the library, which as it is imported sets the level of everybody's logs.

    Raises:
        ValueError: It is not installed.
    """
    root = logging.getLogger()
    level = root.level
    try:
        with _pkg_resources():
            return importlib.import_module(f"alpaca_eval.{name}")
    except ImportError as error:
        raise ValueError(
            "AlpacaEval's judge asks and reads by the library `alpaca_eval`. Install it with "
            f"`pip install 'mmalign[alpaca]'` ({error})."
        ) from error
    finally:
        root.setLevel(level)


@contextmanager
def _pkg_resources() -> Iterator[None]:
    """alpaca_eval 0.6.6 asks `pkg_resources` for versions; setuptools 82 has it no more, and older ones warn of it."""
    known = sys.modules.get("pkg_resources")
    if known is not None:
        yield
        return
    module = ModuleType("pkg_resources")
    vars(module)["get_distribution"] = importlib.metadata.distribution
    vars(module)["parse_version"] = packaging.version.parse
    sys.modules["pkg_resources"] = module
    try:
        yield
    finally:
        del sys.modules["pkg_resources"]
