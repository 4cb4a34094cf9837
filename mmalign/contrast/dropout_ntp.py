"""Dropout next-token prediction (Dropout-NTP): the second half of the chosen answer, written without the picture.

Paper   Wang et al., 2024, Mixed Preference Optimization (MPO), https://arxiv.org/abs/2411.10442, Sec. 3.2
Tests   tests/contrast/test_dropout_ntp.py

    chosen     "There is a red ball in the grass."
    kept       "There is a red"                            half of its words
    rejected   "There is a red car on the road."           the rest, asked without the picture
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

from mmalign.contrast.chance import seed_for
from mmalign.contrast.chosen import Positive, rejected
from mmalign.contrast.continuing import check_limit, continue_answers
from mmalign.contrast.sentences import first_words, num_words
from mmalign.data.sample import Response
from mmalign.generate import Prompt, Sampling
from mmalign.messages import Message, Text
from mmalign.sampling.policy import Policy


@dataclass(frozen=True, kw_only=True)
class DropoutNTP:
    """How much is kept, and how the rest is drawn."""

    keep: float = 0.5
    """Share of the chosen answer's words, in [0, 1), rounded down."""
    temperature: float = 0.7
    """0 takes the likeliest token."""
    max_new_tokens: int = 256
    """Of the part that is written."""
    seed: int = 0
    """Of the decoding, which also depends on the sample's id."""

    def __post_init__(self) -> None:
        """Raise where nothing would be written, or nothing could."""
        if not 0 <= self.keep < 1:
            raise ValueError(f"`--keep` is a share of the words in [0, 1), got {self.keep}. MPO keeps half: 0.5.")
        check_limit(self.max_new_tokens)
        if self.temperature < 0:
            raise ValueError(f"`--temperature` must be 0 or more, got {self.temperature}. MPO takes 0.7.")


def finish_blind(
    policy: Policy, positives: Iterable[Positive], settings: DropoutNTP, *, batch_size: int
) -> Iterator[tuple[Positive, Response]]:
    """The rejected answer of each sample.

    Args:
        policy: Writes.
        positives: In batches, one behind the other.
        settings: See `DropoutNTP`.
        batch_size: Samples that run together.
    """
    waiting = iter(positives)
    sampling = Sampling(max_new_tokens=settings.max_new_tokens, temperature=settings.temperature)
    while batch := tuple(islice(waiting, batch_size)):
        prompts = [blind_prompt(positive, settings) for positive in batch]
        openings = [first_words(p.text, int(num_words(p.text) * settings.keep)) for p in batch]
        rests = continue_answers(policy, prompts, openings, sampling, batch_size=batch_size)
        for positive, opening, rest in zip(batch, openings, rests, strict=True):
            how = {
                "kept_words": num_words(opening),
                "temperature": settings.temperature,
                "seed": settings.seed,
            }
            yield positive, rejected(policy, positive, f"{opening}{rest}", "dropout_ntp", how)


def blind_prompt(positive: Positive, settings: DropoutNTP) -> Prompt:
    """The prompt without its pictures, and without their places."""
    prompt = positive.prompt
    messages = tuple(
        Message(each.role, tuple(part for part in each.content if isinstance(part, Text))) for each in prompt.messages
    )
    return Prompt(messages, seed=seed_for(settings.seed, f"{positive.sample.id}, decoding"))
