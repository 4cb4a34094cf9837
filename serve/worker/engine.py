"""The model at work: jobs join a running batch, and after every step what happened is told.

    order ── prepared beside ── its turn, and room? ── read ──> rows of the batch ── one token each ──> events

At most one prompt is read between two tokens of the others: they never wait longer than for that.
"""

import os
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import NamedTuple

import torch
from transformers import LlavaForConditionalGeneration

from mmalign.processor import load_processor, resolve_checkpoint
from mmalign.template import Template

from ..messages import AddAdapter, Cancel, Ended, Failed, Hello, Job, Order, RemoveAdapter, Report
from ..settings import EngineSettings
from .adapted import AdaptedLlava
from .catalogue import Catalogue
from .prompts import Prompt, PromptReader
from .tokens import Tokens
from .writing import Writing

NO_MODEL = Failed(404, "There is no such model here. /v1/models lists them.", "model", "model_not_found")


class _Waiting(NamedTuple):
    uid: str
    job: Job
    prompt: "Future[Prompt | Failed]"


class Engine:
    """A loaded model that answers jobs. All methods are for one thread."""

    def __init__(self, model: AdaptedLlava, templates: tuple[Template, Template], settings: EngineSettings) -> None:
        """Make ready.

        Args:
            model: Base and adapters.
            templates: Two alike, one a thread: a fast tokenizer refuses to be used by two at a time.
            settings: Limits, and where the models came from.

        Raises:
            ValueError: What an export says of its steering cannot be asked for.
        """
        self.settings = settings
        self.context: int = model.llava.config.get_text_config().max_position_embeddings
        self.wake: Callable[[], None] = lambda: None
        """Called, in another thread, when a job has become ready to be read."""
        self._catalogue = Catalogue(model, settings)
        self._told_models = self._catalogue.models
        self._reader = PromptReader(templates[1], context=self.context, max_rows=settings.max_rows)
        self._waiting: deque[_Waiting] = deque()
        self._writing = Writing(model, Tokens(templates[0]), settings, context=self.context)

    @classmethod
    def load(cls, settings: EngineSettings, device: str) -> "Engine":
        """Load base and adapters, from safetensors only.

        Raises:
            OSError: No checkpoint there.
            ValueError: An adapter that does not fit the base.
        """
        processors = (load_processor(settings.base, pad_images=settings.pad_images) for _ in range(2))
        first, second = (Template(processor, settings.template) for processor in processors)
        llava = LlavaForConditionalGeneration.from_pretrained(
            resolve_checkpoint(settings.base), dtype=settings.dtype, use_safetensors=True, attn_implementation="sdpa"
        )
        model = AdaptedLlava(llava.eval().to(device), settings.adapters, merged=settings.merged)
        return cls(model, (first, second), settings)

    def hello(self) -> Hello:
        """What a client may know of this worker."""
        return Hello(os.getpid(), self._catalogue.models, self.context)

    @property
    def busy(self) -> bool:
        """Whether a step would do something."""
        ready = bool(self._waiting) and self._waiting[0].prompt.done()
        return ready or bool(self._writing or self._writing.events) or self._catalogue.has_unused(self._used)

    def take(self, uid: str, order: Order) -> None:
        """Accept an order; a job is carried out in the next steps."""
        match order:
            case Job():
                self._enqueue(uid, order)
            case Cancel():
                self._forget(uid)
            case AddAdapter():
                self._writing.events.append((uid, self._catalogue.add(order)))
            case RemoveAdapter():
                if failed := self._catalogue.remove(uid, order.name):
                    self._writing.events.append((uid, failed))

    @torch.inference_mode()
    def step(self) -> Report:
        """Read a prompt if there is room, write a token everywhere, say what happened."""
        if self._writing:
            self._writing.write()
        self._begin_next()
        self._writing.events += [(uid, Ended()) for uid in self._catalogue.forget_unused(self._used)]
        models = self._catalogue.models
        changed, self._told_models = models if models != self._told_models else None, models
        events, self._writing.events = tuple(self._writing.events), []
        return Report(events, len(self._writing), len(self._waiting), changed)

    @property
    def _used(self) -> set[str]:
        """Models of the answers that are still to be written."""
        return self._writing.models | {waiting.job.model for waiting in self._waiting}

    def _enqueue(self, uid: str, job: Job) -> None:
        if job.model not in self._catalogue:
            self._writing.events.append((uid, NO_MODEL))
            return
        prompt = self._reader.submit(job, self._catalogue.steering(job.model))
        self._waiting.append(_Waiting(uid, job, prompt))
        prompt.add_done_callback(lambda _: self.wake())

    def _forget(self, uid: str) -> None:
        """Take a job out, wherever it is."""
        for waiting in self._waiting:
            if waiting.uid == uid:
                waiting.prompt.cancel()
        self._waiting = deque(waiting for waiting in self._waiting if waiting.uid != uid)
        self._writing.forget({uid})

    def _begin_next(self) -> None:
        """Take jobs in their order: all that are refused, then one that is read."""
        while self._waiting and self._waiting[0].prompt.done():
            uid, job, prepared = self._waiting[0]
            prompt = prepared.result()
            if isinstance(prompt, Failed):
                self._waiting.popleft()
                self._writing.events.append((uid, prompt))
                continue
            if len(self._writing) + len(job.seeds) <= self.settings.max_rows:
                self._waiting.popleft()
                self._writing.begin(uid, job, prompt)
            return
