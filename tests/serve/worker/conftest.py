"""Engines in this process on the tiny LLaVA, and what drives them."""

import io
import json
import random
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from PIL import Image
from transformers import LlavaForConditionalGeneration

from mmalign.messages import ImageSlot, Message, Text
from mmalign.processor import load_processor
from mmalign.serve.messages import Cancel, Conversation, Ended, Event, Failed, Job, Order
from mmalign.serve.settings import EngineSettings
from mmalign.serve.worker.engine import Engine
from mmalign.template import Template

PATIENCE = 10_000
"""Steps after which an engine is taken to hang."""


class Driven:
    """An engine, and all it has said."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.said: dict[str, list[Event]] = defaultdict(list)
        self.reports = []

    def take(self, uid: str, order: Order) -> None:
        """Hand over an order; a job is prepared when this returns, so that tests see the same every time."""
        self.engine.take(uid, order)
        for waiting in self.engine._waiting:
            if not waiting.prompt.cancelled():
                waiting.prompt.result(10)

    def step(self) -> None:
        report = self.engine.step()
        self.reports.append(report)
        for uid, event in report.events:
            self.said[uid].append(event)

    def finish(self) -> None:
        """Until nothing is left to do."""
        for _ in range(PATIENCE):
            if not self.engine.busy:
                return
            self.step()
        pytest.fail("the engine does not come to an end")

    def forget(self) -> None:
        """Leave all jobs unfinished, and forget what was said."""
        uids = [each.uid for each in (*self.engine._waiting, *self.engine._writing._answers)]
        for uid in uids:
            self.engine.take(uid, Cancel())
        self.finish()
        self.said.clear()
        self.reports.clear()

    def answer(self, order: Order, uid: str = "only") -> SimpleNamespace:
        """All that is said of one order; see `whole`."""
        self.said.pop(uid, None)
        self.take(uid, order)
        self.finish()
        return self.whole(uid)

    def whole(self, uid: str) -> SimpleNamespace:
        """What has been said of an order that has come to its end."""
        return whole(self.said[uid])

    def arrive(self, jobs: Sequence[Job], seed: int = 0) -> list[SimpleNamespace]:
        """All jobs, which come at random times; what is said of each."""
        self.said.clear()
        rng = random.Random(seed)
        coming = list(enumerate(jobs))
        while coming or self.engine.busy:
            for _ in range(min(len(coming), rng.choice((0, 0, 1, 2, 5)))):
                uid, job = coming.pop(0)
                self.take(str(uid), job)
            self.step()
        return [self.whole(str(uid)) for uid in range(len(jobs))]


def whole(events: Sequence[Event]) -> SimpleNamespace:
    """Texts, tokens, reasons and numbers of tokens of the choices; how it ended."""
    assert isinstance(events[-1], Ended | Failed)
    assert not any(isinstance(event, Ended | Failed) for event in events[:-1])
    result = SimpleNamespace(texts={}, tokens={}, reasons={}, counts={}, end=events[-1], begun=None)
    if isinstance(events[-1], Failed) or len(events) == 1:
        return result
    result.begun, *pieces = events[:-1]
    for piece in pieces:
        assert piece.choice not in result.reasons, "a piece after the last"
        result.texts[piece.choice] = result.texts.get(piece.choice, "") + piece.text
        result.tokens[piece.choice] = result.tokens.get(piece.choice, ()) + piece.tokens
        result.counts[piece.choice] = piece.num_tokens
        if piece.finish_reason:
            result.reasons[piece.choice] = piece.finish_reason
    return result


@pytest.fixture(scope="session")
def engine_of(tiny_llava: str) -> Callable[..., Driven]:
    """`engine_of(adapters, **settings)`: a fresh engine."""

    def build(adapters: dict[str, Path] | None = None, base: str = tiny_llava, **settings) -> Driven:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # peft 0.21 asks transformers 5.23 by a deprecated name
            return Driven(Engine.load(EngineSettings(base=base, adapters=adapters or {}, **settings), "cpu"))

    return build


@pytest.fixture(scope="session")
def shared(engine_of, tiny_adapters) -> Driven:
    """Base and adapters; for tests that leave nothing behind."""
    return engine_of(tiny_adapters, max_rows=8, max_new_tokens=64)


@pytest.fixture
def driven(shared: Driven) -> Iterator[Driven]:
    yield shared
    shared.forget()


@pytest.fixture(scope="session")
def template(tiny_llava: str) -> Template:
    return Template(load_processor(tiny_llava))


@pytest.fixture(scope="session")
def offline_models(tiny_llava: str, tiny_adapters: dict[str, Path]) -> dict[str, torch.nn.Module]:
    """Each model loaded by itself, by plain transformers and PEFT."""
    models = {
        name: LlavaForConditionalGeneration.from_pretrained(tiny_llava).eval() for name in ("base", *tiny_adapters)
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # as above
        for name, folder in tiny_adapters.items():
            models[name] = PeftModel.from_pretrained(models[name], folder).eval()
    return models


def _save_adapter(tiny_llava: str, folder: Path, **options) -> Path:
    """A random adapter of this shape."""
    torch.manual_seed(3)
    model = LlavaForConditionalGeneration.from_pretrained(tiny_llava)
    options = {"r": 2, "target_modules": r".*language_model.*(q|v)_proj", "init_lora_weights": False} | options
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # peft 0.21 asks transformers 5.23 by a deprecated name
        peft = get_peft_model(model, LoraConfig(**options))
    for name, parameter in peft.named_parameters():
        if "modules_to_save" in name:
            torch.nn.init.normal_(parameter, std=0.2)
        if "lora_magnitude_vector" in name:
            parameter.data *= 1.5
    peft.save_pretrained(folder)
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(config | {"init_lora_weights": True}))
    return folder


@pytest.fixture(scope="session")
def save_adapter(tiny_llava: str) -> Callable[..., Path]:
    """`save_adapter(folder, **options of LoraConfig)`."""
    return partial(_save_adapter, tiny_llava)


def picture(colour: str, size: tuple[int, int] = (40, 30)) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).save(buffer, "png")
    return buffer.getvalue()


def conversations(number: int) -> list[Conversation]:
    """Without a picture, with one, with two, of several turns, with special tokens as text; all different."""
    colours = ("red", "green", "blue", "yellow", "black")
    found = []
    for i in range(number):
        first, second = picture(colours[i % 5], (20 + i, 30)), picture(colours[(i + 2) % 5], (64, 64))
        kinds = [
            ((Message("user", (Text(f"What is number {i}?"),)),), ()),
            ((Message("user", (ImageSlot(), Text(f"What is it, {i}?"))),), (first,)),
            ((Message("user", (ImageSlot(), Text("and"), ImageSlot(), Text(f"? {i}"))),), (first, second)),
            (
                (
                    Message("system", (Text("Be brief."),)),
                    Message("user", (ImageSlot(), Text("what is it?"))),
                    Message("assistant", (Text("Red."),)),
                    Message("user", (Text(f"and {i}"), ImageSlot(), Text("?"))),
                ),
                (first, second),
            ),
            ((Message("user", (Text(f"<image> </s> USER: {i}"), ImageSlot())),), (second,)),
        ]
        messages, pictures = kinds[i % 5]
        found.append(Conversation(messages=messages, pictures=pictures))
    return found


@pytest.fixture(scope="session")
def prompts() -> SimpleNamespace:
    """Builders of prompts and jobs."""

    def ask(text: str = "hi", model: str = "base", **options) -> Job:
        options = {"seeds": (0,), "temperature": 0.0, "max_new_tokens": 12} | options
        return Job(model=model, prompt=Conversation(messages=(Message("user", (Text(text),)),)), **options)

    return SimpleNamespace(conversations=conversations, ask=ask, picture=picture)
