"""The model behind the server: one copy of the base, its adapters by name, and answers as a stream of pieces.

    job ── template ──> prompt tokens ──┐
        ── pictures ──> pixels ─────────┴── generate, in a thread ──> tokens ── AnswerText ──> pieces

Decoding is `transformers`' own `generate`, with the sampler of `mmalign.generate`, so a served answer is the answer
of the same call offline. One job at a time.
"""

from collections.abc import Generator, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from queue import SimpleQueue
from threading import Event
from typing import Any, cast

import torch
from peft import PeftModel, get_peft_model_state_dict
from safetensors import safe_open
from torch import Tensor
from transformers import LlavaForConditionalGeneration, StoppingCriteria, StoppingCriteriaList
from transformers.generation.streamers import BaseStreamer

from mmalign.generate import Sampling, sampling_processors
from mmalign.processor import load_processor, open_image, pixel_values, resolve_checkpoint
from mmalign.template import Template

from .answer import AnswerText
from .errors import ApiError
from .job import BASE, Job, Piece
from .settings import EngineSettings

COLDEST = 1e-4
"""Below this temperature the likeliest token is taken, as at 0: it would be anyway, and dividing by less overflows."""


class Engine:
    """A loaded model that answers jobs."""

    def __init__(
        self,
        model: LlavaForConditionalGeneration,
        template: Template,
        adapters: Mapping[str, Path],
        max_new_tokens: int,
    ) -> None:
        """Put the adapters on the model.

        Args:
            model: The base, in eval mode on its device.
            template: Prompt format and processor.
            adapters: PEFT folders by served name.
            max_new_tokens: Limit of an answer whose job names none.
        """
        self._model = model
        self._template = template
        self._max_new_tokens = max_new_tokens
        self._context: int = model.config.get_text_config().max_position_embeddings
        # PEFT's own names cannot hold a dot, a served name can.
        self._peft_names = {name: f"adapter_{i}" for i, name in enumerate(adapters)}
        self._peft: PeftModel | None = None
        for name, folder in adapters.items():
            self._add_adapter(name, folder)

    @classmethod
    def load(cls, settings: EngineSettings, device: str) -> "Engine":
        """Load base and adapters, from safetensors only.

        Raises:
            OSError: No checkpoint there.
            ValueError: An adapter that does not fit the base.
        """
        template = Template(load_processor(settings.base, pad_images=settings.pad_images), settings.template)
        model = LlavaForConditionalGeneration.from_pretrained(
            resolve_checkpoint(settings.base), dtype=settings.dtype, use_safetensors=True
        )
        return cls(model.eval().to(device), template, settings.adapters, settings.max_new_tokens)

    def stream(self, job: Job) -> Iterator[Piece]:
        """The answer in pieces, as it is written. Closing the iterator stops the work after the token in progress.

        Raises:
            ApiError: The conversation does not fit the model's context.
        """
        prompt = self._template.encode_prompt(job.messages)
        limit = self._room(len(prompt), job.max_new_tokens)
        answer = AnswerText(self._template, job.stop)
        with self._chosen(job.model), closing(self._tokens(prompt, job, limit)) as tokens:
            for token in tokens:
                text = answer.push(token)
                if answer.ended:
                    break
                if text:
                    yield Piece(text)
            else:
                text = answer.finish()
        yield Piece(text, "stop" if answer.ended else "length", len(prompt), answer.num_tokens)

    def _room(self, num_prompt_tokens: int, asked: int | None) -> int:
        """How many tokens the answer may have."""
        room = self._context - num_prompt_tokens
        if room < (asked or 1):
            raise ApiError(
                400,
                f"The model's context holds {self._context} tokens; the messages with their pictures take "
                f"{num_prompt_tokens} and the answer may take {asked or 1}. Shorten one of them.",
                param="messages",
                code="context_length_exceeded",
            )
        return asked or min(room, self._max_new_tokens)

    def _tokens(self, prompt: list[int], job: Job, limit: int) -> Generator[int, None, None]:
        """New tokens, each as soon as it is chosen; `generate` runs in a thread of its own."""
        handover = _Handover(num_prompt_tokens=len(prompt))
        with ThreadPoolExecutor(max_workers=1) as executor:
            done = executor.submit(self._generate, prompt, job, limit, handover)
            done.add_done_callback(lambda _: handover.queue.put(None))
            try:
                while (token := handover.queue.get()) is not None:
                    yield token
                done.result()  # raises what stopped `generate`
            finally:
                handover.cancelled.set()

    @torch.inference_mode()
    def _generate(self, prompt: list[int], job: Job, limit: int, handover: "_Handover") -> None:
        images = [open_image(data, where=f"picture {i}") for i, data in enumerate(job.pictures)]
        pixels = pixel_values(self._template.processor, images).to(self._model.device, self._model.dtype)
        temperature = job.temperature if job.temperature >= COLDEST else 0.0
        input_ids = torch.tensor([prompt], device=self._model.device)
        cast(Any, self._model).generate(  # its type in 5.23 wants a protocol that no model meets
            input_ids=input_ids,
            attention_mask=torch.ones_like(input_ids),
            **({"pixel_values": pixels} if images else {}),  # a None there makes `generate` 5.23 run the tower on it
            max_new_tokens=limit,
            do_sample=False,  # the processors below make the likeliest token a sample
            logits_processor=sampling_processors(Sampling(temperature=temperature, top_p=job.top_p), [job.seed]),
            eos_token_id=self._template.eos_token_id,
            pad_token_id=self._template.tokenizer.pad_token_id,
            streamer=handover,
            stopping_criteria=StoppingCriteriaList([_Cancelled(handover.cancelled)]),
        )

    @contextmanager
    def _chosen(self, model: str) -> Iterator[None]:
        """Have one adapter at work, or none."""
        if self._peft is None:
            yield
        elif model == BASE:
            with self._peft.disable_adapter():
                yield
        else:
            self._peft.set_adapter(self._peft_names[model], inference_mode=True)
            yield

    def _add_adapter(self, name: str, folder: Path) -> None:
        peft_name = self._peft_names[name]
        try:
            if self._peft is None:
                self._peft = PeftModel.from_pretrained(self._model, folder, adapter_name=peft_name)
            else:
                self._peft.load_adapter(folder, adapter_name=peft_name)
        except (ValueError, RuntimeError) as error:  # no such layers; other shapes
            raise ValueError(_does_not_fit(name, folder, str(error))) from error
        if self._peft.peft_config[peft_name].is_prompt_learning:
            raise ValueError(
                f"--adapter {name}={folder}: prompt tuning is not served, adapters in the layers are (LoRA)."
            )
        with safe_open(folder / "adapter_model.safetensors", "pt") as file:
            stored = set(file.keys())
        placed = set(get_peft_model_state_dict(self._peft, adapter_name=peft_name, save_embedding_layers=False))
        if stored != placed:
            # PEFT only warns, and leaves the missing weights as they were drawn.
            reason = (
                f"{len(stored - placed)} tensors of the file have no place, {len(placed - stored)} places no tensor"
            )
            raise ValueError(_does_not_fit(name, folder, reason))
        self._peft.eval()


class _Handover(BaseStreamer):
    """Carries tokens from the thread of `generate` to the one that answers."""

    def __init__(self, num_prompt_tokens: int) -> None:
        self.queue: SimpleQueue[int | None] = SimpleQueue()
        self.cancelled = Event()
        self._num_prompt_tokens = num_prompt_tokens
        self._prompt_seen = False

    def put(self, value: Tensor) -> None:
        if not self._prompt_seen:  # `generate` hands over the prompt first
            assert value.numel() == self._num_prompt_tokens
            self._prompt_seen = True
            return
        self.queue.put(int(value))

    def end(self) -> None:
        """The end is told when `generate` returns, with its error if there is one."""


class _Cancelled(StoppingCriteria):
    """Stops `generate` before its next token."""

    def __init__(self, event: Event) -> None:
        self._event = event

    def __call__(self, input_ids: Tensor, scores: Tensor, **kwargs: object) -> Tensor:
        return torch.full((input_ids.shape[0],), self._event.is_set(), device=input_ids.device)


def _does_not_fit(name: str, folder: Path, reason: str) -> str:
    return (
        f"--adapter {name}={folder} does not fit the base: {reason}. "
        "Give the --base that the adapter was trained on; its adapter_config.json names it."
    )
