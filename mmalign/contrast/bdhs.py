"""Bias-Driven Hallucination Sampling (BDHS): the model rewrites a chosen answer with the picture mostly hidden.

Paper   Amirloo et al., 2024, https://arxiv.org/abs/2407.02477, Sec. 3.4 and Algorithm 1
Tests   tests/contrast/test_bdhs.py

    chosen          "There is a red ball. A dog sleeps."
    first parts     "There is" | "There is a red ball. A"              cut at random, behind the true sentences before
    completed       "There is a cat." | "A child sleeps."              each to its full stop, the picture hidden
    rejected        "There is a cat. A child sleeps."                  if it is unlike enough; else another round

Hidden is either a random share `rho` of the image tokens, which no position may look at in any layer, or the picture
behind diffusion noise. All sentences of all samples at hand run as one batch.

The paper leaves open, and here is: temperature 1; cuts between words, so that at least one word is written anew; a
yes or no that was turned round is kept; sentences as `mmalign.contrast.sentences` splits them.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Literal, NamedTuple

from PIL import Image

from mmalign.contrast.chance import seed_for, uniforms
from mmalign.contrast.chosen import Positive, rejected
from mmalign.contrast.continuing import check_limit, continue_answers
from mmalign.contrast.sentences import END, first_words, is_finished, num_words, split, swap_yes_no
from mmalign.contrast.similarity import Similarity
from mmalign.data.sample import Response
from mmalign.data.variants import DiffusionNoise
from mmalign.generate import Prompt, Sampling
from mmalign.sampling.policy import Policy


@dataclass(frozen=True, kw_only=True)
class BDHS:
    """How the picture is hidden, and when an answer is unlike enough."""

    hide: Literal["attention", "noise"] = "attention"
    """Mask image tokens, or noise the picture."""
    rho: float = 0.99
    """Chance of an image token to be masked, in [0, 1]: 0 shows all, 1 nothing."""
    steps: int = 500
    """Of diffusion noise, 0 to 999."""
    max_similarity: float = 0.97
    """An answer this much like the chosen one, or more, is tried again; the paper's epsilon_s."""
    rounds: int = 5
    """Tries. The last of several is written without first parts, and taken as it is."""
    temperature: float = 1.0
    """0 takes the likeliest token."""
    max_new_tokens: int = 256
    """Of one completion, or of the last try."""
    seed: int = 0
    """Of all random numbers, which also depend on the sample's id, the round and the sentence."""

    def __post_init__(self) -> None:
        """Raise where there is no such share, noise or number."""
        if not 0 <= self.rho <= 1:
            raise ValueError(f"`--rho` is a chance and must lie in [0, 1], got {self.rho}. BDHS takes 0.99.")
        if self.rounds < 1:
            raise ValueError(f"`--rounds` must be 1 or more, got {self.rounds}. BDHS takes 5.")
        if self.temperature < 0:
            raise ValueError(f"`--temperature` must be 0 or more, got {self.temperature}. Usually 1.")
        check_limit(self.max_new_tokens)
        DiffusionNoise(steps=self.steps)
        idle, other = ("steps", "noise") if self.hide == "attention" else ("rho", "attention")
        if getattr(self, idle) != type(self).__dataclass_fields__[idle].default:
            raise ValueError(f"`--{idle}` is for `--hide {other}`. Leave it out, or ask for that.")


class Attempt(NamedTuple):
    """One try at a rejected answer."""

    positive: Positive
    number: int = 1
    """The round, from 1."""

    def purpose(self, what: str) -> str:
        """Names what a random number is for."""
        return f"{self.positive.sample.id}, round {self.number}, {what}"


class Opened(NamedTuple):
    """One sentence that is to be written anew."""

    before: str
    """The true sentences before it."""
    first: str
    """Its first part, which stays."""
    is_whole: bool
    """Whether nothing is left to complete: a sentence of one word that was turned round."""

    @property
    def opening(self) -> str:
        """What the model goes on from: white space at the end is its own to write."""
        return f"{self.before}{self.first}".rstrip()


def rewrite(
    policy: Policy, positives: Iterable[Positive], settings: BDHS, similarity: Similarity, *, batch_size: int
) -> Iterator[tuple[Positive, Response]]:
    """The rejected answer of each sample, in the order in which they are done.

    Args:
        policy: Writes.
        positives: Taken up as others are done: so many are always at work.
        settings: See `BDHS`.
        similarity: Tells whether an answer is unlike enough.
        batch_size: Samples at work together, and rows that the model completes together.
    """
    waiting, active = iter(positives), list[Attempt]()
    while active := [*active, *map(Attempt, islice(waiting, batch_size - len(active)))]:
        texts, again = _write(policy, active, settings, batch_size), list[Attempt]()
        for attempt in active:
            text = texts[_key(attempt)]
            alike = similarity(text, attempt.positive.text) if text.strip() else None
            if attempt.number < settings.rounds and (alike is None or alike >= settings.max_similarity):
                again.append(attempt._replace(number=attempt.number + 1))
            else:
                yield attempt.positive, _response(policy, attempt, text, alike, settings, similarity.name)
        active = again


def open_sentences(attempt: Attempt, seed: int) -> list[Opened]:
    """The sentences of the chosen answer, each cut at random between two words, behind the true ones before it.

    Args:
        attempt: Says which answer, and which round.
        seed: Of the draws.
    """
    opened, before = list[Opened](), ""
    for number, sentence in enumerate(split(attempt.positive.text)):
        turn, cut = uniforms(seed, attempt.purpose(f"sentence {number}"), 2).tolist()
        swapped = swap_yes_no(sentence) if turn >= 0.5 else None
        words, least = num_words(sentence), int(swapped is not None)
        kept = least + int(cut * max(1, words - least))
        first = first_words(swapped or sentence, kept)
        opened.append(Opened(before, first, kept == words and is_finished(first)))
        before += sentence
    return opened


def _write(policy: Policy, active: Sequence[Attempt], settings: BDHS, batch_size: int) -> dict[str, str]:
    """The answer of each attempt, by the sample's key."""
    guided = [each for each in active if not _is_free(each, settings)]
    free = [each for each in active if _is_free(each, settings)]
    prompts = [_seeded(hide(policy, each, settings), each, "decoding", settings) for each in free]
    texts = continue_answers(policy, prompts, [""] * len(free), _sampling(settings), batch_size=batch_size)
    return dict(zip(map(_key, free), texts, strict=True)) | _write_sentences(policy, guided, settings, batch_size)


def _write_sentences(policy: Policy, guided: Sequence[Attempt], settings: BDHS, batch_size: int) -> dict[str, str]:
    """The same, sentence by sentence."""
    hidden = {_key(each): hide(policy, each, settings) for each in guided}
    parts = [(each, *part) for each in guided for part in enumerate(open_sentences(each, settings.seed))]
    asked = [part for part in parts if not part[2].is_whole]
    completions = iter(
        continue_answers(
            policy,
            [_seeded(hidden[_key(each)], each, f"decoding {number}", settings) for each, number, _ in asked],
            [sentence.opening for *_, sentence in asked],
            _sampling(settings, until=END),
            batch_size=batch_size,
        )
    )
    texts = dict.fromkeys(hidden, "")
    for each, _, sentence in parts:
        texts[_key(each)] += sentence.first + ("" if sentence.is_whole else next(completions))
    return texts


def hide(policy: Policy, attempt: Attempt, settings: BDHS) -> Prompt:
    """The prompt with its pictures hidden, alike for all sentences of a round."""
    prompt = attempt.positive.prompt
    if settings.hide == "noise":
        noise, key = DiffusionNoise(steps=settings.steps, seed=settings.seed), attempt.purpose("picture")
        return prompt._replace(images=_noised(prompt.images, noise, key))
    count = len(prompt.images) * policy.template.num_image_tokens
    drawn = uniforms(settings.seed, attempt.purpose("mask"), count)
    return prompt._replace(hidden=tuple((drawn < settings.rho).nonzero()[0].tolist()))


def _noised(images: Sequence[Image.Image], noise: DiffusionNoise, key: str) -> tuple[Image.Image, ...]:
    return tuple(noise(image, key=f"{key} {number}") for number, image in enumerate(images))


def _seeded(prompt: Prompt, attempt: Attempt, what: str, settings: BDHS) -> Prompt:
    return prompt._replace(seed=seed_for(settings.seed, attempt.purpose(what)))


def _sampling(settings: BDHS, until: str = "") -> Sampling:
    return Sampling(max_new_tokens=settings.max_new_tokens, temperature=settings.temperature, until=until)


def _key(attempt: Attempt) -> str:
    return attempt.positive.sample.key


def _is_free(attempt: Attempt, settings: BDHS) -> bool:
    """Whether this is the last of several rounds, which goes by no reference."""
    return attempt.number == settings.rounds > 1


def _response(
    policy: Policy, attempt: Attempt, text: str, alike: float | None, settings: BDHS, similarity: str
) -> Response:
    """The answer with how it was made."""
    hidden = {"rho": settings.rho} if settings.hide == "attention" else {"steps": settings.steps}
    how = {
        "hide": settings.hide,
        **hidden,
        "iteration": attempt.number,
        "guided": not _is_free(attempt, settings),
        "similarity": alike,
        "similarity_by": similarity,
        "max_similarity": settings.max_similarity,
        "temperature": settings.temperature,
        "seed": settings.seed,
    }
    return rejected(policy, attempt.positive, text, "bdhs", how)
