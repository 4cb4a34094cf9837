"""Answers from a model, many prompts at a time, the same whatever the batch size.

Every prompt has its own seed: temperature sampling adds Gumbel noise drawn from that prompt's own generator to the
scaled logits and takes the largest (Gumbel-max), which samples the same distribution as a draw from the softmax.

A prompt may hide some of its image tokens: no position looks at them, in no layer, in prefill and while decoding with
a cache. They keep their places, so all other tokens keep their positions.

Tests   tests/test_generate.py
"""

import re
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import torch
from jaxtyping import Bool, Float, Int
from peft import PeftModel
from PIL import Image
from torch import Tensor, nn
from transformers import (
    LlavaForConditionalGeneration,
    LogitsProcessor,
    LogitsProcessorList,
    StoppingCriteria,
    StoppingCriteriaList,
    TopPLogitsWarper,
)

from mmalign.embedding import embed
from mmalign.messages import Message, Text
from mmalign.processor import pixel_values
from mmalign.sharding import is_sharded, on_any_rank
from mmalign.template import Template


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How answers are decoded."""

    max_new_tokens: int = 256
    """An answer longer than this is cut."""
    temperature: float = 0.0
    """0 takes the likeliest token; the paper samples its candidates at 0.7."""
    top_p: float = 1.0
    """Keep the smallest set of tokens with this much probability."""
    until: str = ""
    """Regular expression: an answer ends behind its first match, each at its own; empty matches nothing."""


class Prompt(NamedTuple):
    """One conversation that waits for an answer."""

    messages: tuple[Message, ...]
    images: tuple[Image.Image, ...] = ()
    seed: int = 0
    """Of this prompt's own random numbers; unused at temperature 0."""
    hidden: tuple[int, ...] = ()
    """Image tokens that nothing looks at, counted from 0 through all pictures of the prompt."""


IDLE = Prompt((Message("user", (Text("."),)),))
"""What a rank answers while others still have prompts of their own."""


def generate(
    model: nn.Module,
    template: Template,
    prompts: Sequence[Prompt],
    sampling: Sampling,
    *,
    batch_size: int = 16,
    progress: Callable[[int], None] = lambda done: None,
) -> list[str]:
    """One answer a prompt, in the order of the prompts.

    Where a model is cut among ranks all of them must call it, each with prompts of its own, as many as it likes.

    Args:
        model: A `LlavaForConditionalGeneration`, bare or under PEFT; its mode is set to eval for the call.
        template: Turns messages into tokens; the one the model was trained with.
        prompts: Conversations, each ending with a user turn, or with the opening of the answer.
        sampling: Temperature and limits.
        batch_size: Prompts that run together; long ones first, so that little is padded.
        progress: Called with the number of answers done after every batch.

    Raises:
        ValueError: A prompt hides image tokens that it does not have.
    """
    found = generate_ids(model, template, prompts, sampling, batch_size=batch_size, progress=progress)
    return [cut_behind(sampling.until, template.decode_response(ids)) for ids in found]


def generate_ids(
    model: nn.Module,
    template: Template,
    prompts: Sequence[Prompt],
    sampling: Sampling,
    *,
    batch_size: int = 16,
    progress: Callable[[int], None] = lambda done: None,
) -> list[list[int]]:
    """What `generate` decodes: the new tokens of each prompt, up to its end token.

    Where they go on from an opening, decode the two together: by itself a continuation does not say whether it begins
    with a space. They may go beyond the match of `Sampling.until`, by the rest of the token that completed it.
    """
    encoded = [template.encode_prompt(prompt.messages) for prompt in prompts]
    longest_first = sorted(range(len(prompts)), key=lambda i: -len(encoded[i]))
    answers = [list[int]() for _ in prompts]
    was_training = model.training
    model.eval()
    done = 0
    batches = deque(_chunks(longest_first, batch_size))
    # ZeRO-3 keeps weights that it gathers; made in inference mode, no gradient could flow through them afterwards.
    with torch.no_grad() if is_sharded(model) else torch.inference_mode():
        while on_any_rank(model, bool(batches)):
            chosen = batches.popleft() if batches else ()  # others go on
            waiting = [(encoded[i], prompts[i]) for i in chosen] or [(template.encode_prompt(IDLE.messages), IDLE)]
            ids = _generate_batch(model, template, waiting, sampling)
            for i, answer in zip(chosen, ids, strict=False):
                answers[i] = answer
            done += len(chosen)
            progress(done)
    model.train(was_training)
    return answers


def cut_behind(until: str, text: str, start: int = 0) -> str:
    """The text up to the end of the first match.

    Args:
        until: Regular expression; empty cuts nothing.
        text: An answer.
        start: Where to look from.
    """
    match = re.compile(until).search(text, start) if until else None
    return text[: match.end()] if match else text


def _generate_batch(
    model: nn.Module,
    template: Template,
    waiting: Sequence[tuple[list[int], Prompt]],
    sampling: Sampling,
) -> list[list[int]]:
    """New token ids of each prompt, cut at the end token.

    Args:
        model: Sees them all at once.
        template: Holds the special tokens.
        waiting: Prompts, with their tokens.
        sampling: Temperature and limits.
    """
    encoded, prompts = zip(*waiting, strict=True)
    device = next(model.parameters()).device
    width = max(map(len, encoded))
    pad = template.tokenizer.pad_token_id
    input_ids = torch.tensor([[pad] * (width - len(ids)) + ids for ids in encoded], device=device)
    attention_mask = torch.tensor([[0] * (width - len(ids)) + [1] * len(ids) for ids in encoded], device=device)
    pixels = pixel_values(template.processor, [image for prompt in prompts for image in prompt.images]).to(device)
    inputs: dict[str, Any] = {"input_ids": input_ids}
    if is_sharded(model):  # pictures or none, the same parameters are gathered
        inputs = {"inputs_embeds": embed(llava_of(model), input_ids, pixels, idle=True), "synced_gpus": True}
    elif len(pixels):  # left out where there is none: `None` would reach the tower (transformers 5.23)
        inputs["pixel_values"] = pixels.to(next(model.parameters()).dtype)
    if any(prompt.hidden for prompt in prompts):  # transformers would count positions from the mask, and close the gaps
        inputs["position_ids"] = (attention_mask.cumsum(-1) - 1).clamp(min=0)
        attention_mask = _hide(attention_mask, input_ids == template.image_token_id, prompts)
    start = width if "input_ids" in inputs else 0  # behind embeddings it gives new tokens only
    output = cast(Any, model).generate(
        **inputs,
        attention_mask=attention_mask,
        max_new_tokens=sampling.max_new_tokens,
        do_sample=False,
        logits_processor=sampling_processors(sampling, [prompt.seed for prompt in prompts]),
        stopping_criteria=StoppingCriteriaList([Until(sampling.until, template, start)] if sampling.until else []),
        eos_token_id=template.eos_token_id,
        pad_token_id=pad,
    )
    return [_trimmed(ids, template) for ids in output[:, start:].tolist()]


def _hide(
    attention_mask: Int[Tensor, "rows tokens"], is_image: Bool[Tensor, "rows tokens"], prompts: Sequence[Prompt]
) -> Int[Tensor, "rows tokens"]:
    """The mask, with 0 at the image tokens that prompts hide.

    The mask is one of keys: it grows by a 1 for every new token, so what is hidden stays hidden.
    """
    visible = attention_mask.clone()
    for row, prompt in enumerate(prompts):
        places = is_image[row].nonzero()[:, 0]
        if strange := [number for number in prompt.hidden if not 0 <= number < len(places)]:
            raise ValueError(
                f"A prompt with {len(places)} image tokens cannot hide number {strange[0]}. `Prompt.hidden` counts "
                "them from 0 through all of its pictures."
            )
        visible[row, places[list(prompt.hidden)]] = 0
    return visible


def _trimmed(ids: list[int], template: Template) -> list[int]:
    """New tokens without the end token and what fills the row behind it."""
    if template.eos_token_id in ids:
        return ids[: ids.index(template.eos_token_id)]
    while ids and ids[-1] == template.tokenizer.pad_token_id:  # it stopped at `until`, before others of its batch
        ids = ids[:-1]
    return ids


def llava_of(model: nn.Module) -> LlavaForConditionalGeneration:
    """The model without PEFT's wrapper; its linear layers keep their adapters."""
    return cast(LlavaForConditionalGeneration, model.get_base_model() if isinstance(model, PeftModel) else model)


class Until(StoppingCriteria):
    """Each row ends by itself where its new text matches."""

    def __init__(self, until: str, template: Template, start: int) -> None:
        """Compile the pattern.

        Args:
            until: Regular expression, not empty.
            template: Decodes.
            start: Tokens of the prompt.
        """
        self.pattern, self.template, self.start = re.compile(until), template, start

    def __call__(self, input_ids: Int[Tensor, "rows tokens"], scores: object, **more: object) -> Bool[Tensor, " rows"]:
        """Which rows are at their end."""
        texts = [self.template.decode_response(row) for row in input_ids[:, self.start :].tolist()]
        return torch.tensor([bool(self.pattern.search(text)) for text in texts], device=input_ids.device)


class GumbelNoise(LogitsProcessor):
    """Turns a greedy decoder into a sampler with one generator a row."""

    def __init__(self, temperature: float, seeds: Sequence[int]) -> None:
        self.temperature = temperature
        self.generators = [torch.Generator().manual_seed(seed) for seed in seeds]

    def __call__(
        self, input_ids: Int[Tensor, "rows tokens"], scores: Float[Tensor, "rows vocab"]
    ) -> Float[Tensor, "rows vocab"]:
        """Scaled logits plus noise; the largest is a sample."""
        vocab = scores.shape[1]
        noise = torch.stack([torch.empty(vocab).exponential_(generator=g) for g in self.generators])
        return scores / self.temperature - noise.log().to(scores.device)


def sampling_processors(sampling: Sampling, seeds: Sequence[int]) -> LogitsProcessorList:
    """What stands between the logits and the largest one."""
    if sampling.temperature == 0:
        return LogitsProcessorList()
    processors = LogitsProcessorList()
    if sampling.top_p < 1:
        processors.append(_Scaled(sampling.temperature, TopPLogitsWarper(sampling.top_p)))
    processors.append(GumbelNoise(sampling.temperature, seeds))
    return processors


class _Scaled(LogitsProcessor):
    """Apply a warper at a temperature, and give the logits back unscaled."""

    def __init__(self, temperature: float, warper: LogitsProcessor) -> None:
        self.temperature, self.warper = temperature, warper

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        warped: Tensor = self.warper(input_ids, scores / self.temperature)
        return warped * self.temperature


def _chunks(order: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    for start in range(0, len(order), size):
        yield order[start : start + size]
