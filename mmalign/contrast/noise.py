"""POVID's noisy answer: what the model would say of the chosen answer's picture behind diffusion noise.

Paper   Zhou et al., 2024, https://arxiv.org/abs/2402.11411, Sec. 3.2; the code, tool/dpo_trainer_inherent.py
Tests   tests/contrast/test_noise.py

    forced   chosen answer read behind the noised picture, the likeliest token at each of its places    as POVID's code
    free     answer written behind the noised picture                                                   as BDHS has it

Forced tokens are no sentence that anybody wrote: each follows on the chosen answer's own words before it. Method
`POVID` makes them anew at every step of a training run; here they are made once, for any method that takes pairs.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Literal

import torch

from mmalign.contrast.chance import seed_for
from mmalign.contrast.chosen import Positive, rejected
from mmalign.contrast.continuing import check_limit, continue_answers
from mmalign.data.sample import Response
from mmalign.data.variants import DiffusionNoise
from mmalign.generate import Prompt, Sampling, llava_of
from mmalign.processor import pixel_values
from mmalign.sampling.policy import Policy


@dataclass(frozen=True, kw_only=True)
class Noise:
    """How much noise, and how the answer is made."""

    steps: int = 500
    """Into the diffusion process, 0 to 999."""
    answer: Literal["forced", "free"] = "forced"
    """The likeliest token at each place of the chosen answer, or an answer of its own."""
    temperature: float = 0.0
    """For `free`; 0 takes the likeliest token."""
    max_new_tokens: int = 256
    """For `free`: an answer longer than this is cut."""
    seed: int = 0
    """Of noise and decoding, which also depend on the sample's id."""

    def __post_init__(self) -> None:
        """Raise where there is no such noise, or where a setting would do nothing."""
        DiffusionNoise(steps=self.steps)
        if self.temperature < 0:
            raise ValueError(f"`--temperature` must be 0 or more, got {self.temperature}.")
        check_limit(self.max_new_tokens)
        fields = type(self).__dataclass_fields__
        idle = [name for name in ("temperature", "max_new_tokens") if getattr(self, name) != fields[name].default]
        if self.answer == "forced" and idle:
            raise ValueError(
                f"`--answer forced` takes the likeliest token at each place: leave `--{idle[0]}` out, or ask for free."
            )


def answer_noise(
    policy: Policy, positives: Iterable[Positive], settings: Noise, *, batch_size: int
) -> Iterator[tuple[Positive, Response]]:
    """The noisy answer of each sample.

    Args:
        policy: Answers.
        positives: In batches, one behind the other.
        settings: See `Noise`.
        batch_size: Samples that run together.
    """
    waiting = iter(positives)
    sampling = Sampling(max_new_tokens=settings.max_new_tokens, temperature=settings.temperature)
    how = {} if settings.answer == "forced" else {"temperature": settings.temperature}
    while batch := tuple(islice(waiting, batch_size)):
        prompts = [noised_prompt(positive, settings) for positive in batch]
        if settings.answer == "forced":
            texts = forced_answers(policy, prompts, [positive.text for positive in batch])
        else:
            texts = continue_answers(policy, prompts, [""] * len(batch), sampling, batch_size=batch_size)
        for positive, text in zip(batch, texts, strict=True):
            made = {"steps": settings.steps, "answer": settings.answer, **how, "seed": settings.seed}
            yield positive, rejected(policy, positive, text, "povid", made)


def noised_prompt(positive: Positive, settings: Noise) -> Prompt:
    """The prompt with noise over its pictures."""
    noise, name = DiffusionNoise(steps=settings.steps, seed=settings.seed), positive.sample.id
    images = tuple(noise(image, key=f"{name}, picture {n}") for n, image in enumerate(positive.prompt.images))
    return positive.prompt._replace(images=images, seed=seed_for(settings.seed, f"{name}, decoding"))


def forced_answers(policy: Policy, prompts: Sequence[Prompt], answers: Sequence[str]) -> list[str]:
    """The likeliest tokens at the places of an answer, as text; an end token among them says nothing.

    Args:
        policy: Reads.
        prompts: With the pictures that it shall see; they run together.
        answers: One behind each prompt.
    """
    template, device = policy.template, policy.device
    model = policy.model
    llava = llava_of(model)
    targets = [template.encode_response(answer) for answer in answers]
    rows = [template.encode_prompt(p.messages) + ids for p, ids in zip(prompts, targets, strict=True)]
    width, pad = max(map(len, rows)), template.tokenizer.pad_token_id
    tokens = torch.tensor([[pad] * (width - len(row)) + row for row in rows], device=device)
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows], device=device)
    pixels = pixel_values(template.processor, [image for prompt in prompts for image in prompt.images])
    was_training = model.training
    model.eval()
    with torch.inference_mode():
        states = llava.model(
            input_ids=tokens,
            pixel_values=pixels.to(device, policy.dtype),
            attention_mask=mask,
            position_ids=(mask.cumsum(-1) - 1).clamp(min=0),
            use_cache=False,
        ).last_hidden_state
        # A position predicts the token behind it; the last one that counts predicts the end token.
        chosen = [llava.lm_head(row[-len(ids) - 1 : -1]).argmax(-1) for row, ids in zip(states, targets, strict=True)]
    model.train(was_training)
    return [template.decode_response(ids.tolist()) for ids in chosen]
