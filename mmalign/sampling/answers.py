"""K answers to every prompt of a shard set, in batches that are the same however many ranks share them.

    manifest, num, batch_size -> batches of (sample, number of the answer): [((3, 0), (3, 1), (3, 2)), ((3, 3), ...]
                              -> one `Sampled` each, in a record file

Which answers run together follows from the manifest and the batch size alone, never from ranks, nor from where a run
was killed: what is padded, and so the last bit of every logit, is the same each time. Other batch sizes pad otherwise.
In float32 that has not changed an answer in any test; in bfloat16 it may.

Tests   tests/sampling/test_answers.py
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import NamedTuple, TypeVar

import torch

from mmalign.data.manifest import Entry, Manifest
from mmalign.data.reader import ShardSet
from mmalign.data.records import RecordFile
from mmalign.data.sample import Response, Sample
from mmalign.generate import Prompt, Sampling, generate_ids
from mmalign.processor import open_image
from mmalign.sampling.asking import Said
from mmalign.sampling.policy import Policy
from mmalign.sampling.seeds import answer_seed

CHARACTERS_PER_TOKEN = 4
"""Roughly, of English in Llama's tokenizer."""
WINDOW = 1024
"""Samples among which long prompts go first: enough for batches of like lengths, few enough to read shards in order."""
COLDEST = 0.01
"""Temperatures above 0 and below this one are 0 in all but name."""

T = TypeVar("T")


class Asked(NamedTuple):
    """One answer that is wanted."""

    sample: int
    """Number in the manifest."""
    number: int
    """Of the answer, from 0."""


class Sampled(NamedTuple):
    """One answer, as it is kept until the shards are written."""

    id: str
    """See `answer_id`."""
    text: str = ""
    finish_reason: str = ""
    """`stop`, or `length` where it was cut at the limit."""
    tokens: int = 0
    """Of the answer."""
    failure: str = ""
    """Why there is no answer."""


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """How many answers, by whom, and how they are drawn."""

    model: str
    """The name that stands at every answer."""
    num: int = 4
    """Answers a prompt."""
    temperature: float = 0.7
    """0 takes the likeliest token, for one answer a prompt."""
    top_p: float = 1.0
    """Keep the smallest set of tokens with this much probability."""
    max_new_tokens: int = 256
    """An answer longer than this is cut."""
    seed: int = 0
    """Another one gives other answers."""

    def __post_init__(self) -> None:
        """Raise `ValueError` where nothing, or nothing sensible, could be drawn."""
        for name in ("num", "max_new_tokens"):
            if getattr(self, name) < 1:
                raise ValueError(f"`--{name}` must be 1 or more, got {getattr(self, name)}.")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"`--top_p` is a probability in (0, 1], got {self.top_p:g}. 1 keeps all tokens.")
        if self.temperature < 0 or 0 < self.temperature < COLDEST:
            raise ValueError(
                f"`--temperature` is 0 or at least {COLDEST}, got {self.temperature:g}. The paper samples at 0.7."
            )
        if self.temperature == 0 and self.num > 1:
            raise ValueError(
                f"At temperature 0 all {self.num} answers of a prompt would be equal. Set `--temperature 0.7`, as the "
                "paper does, or `--num 1`."
            )

    def drawn(self, sample: Sample, number: int) -> dict[str, int | float]:
        """How one answer is drawn."""
        return {
            "seed": answer_seed(sample.id, number, self.seed),
            "temperature": self.temperature,
            "top_p": self.top_p,
            "max_new_tokens": self.max_new_tokens,
        }

    def answered(self, sample: Sample, answers: Sequence["Sampled"], more: Mapping[str, str]) -> Sample:
        """The sample with its answers behind the responses that it has; those that failed are left out.

        Args:
            sample: That was asked.
            answers: In the order of their numbers.
            more: What else there is to know of how they were made.
        """
        responses = [
            Response(
                text=each.text,
                model=self.model,
                sampling={**self.drawn(sample, number), "finish_reason": each.finish_reason, **more},
            )
            for number, each in enumerate(answers)
            if not each.failure
        ]
        return replace(sample, responses=(*sample.responses, *responses))

    def check_unanswered(self, sample: Sample) -> None:
        """Raise `ValueError` where a sample has an answer already that would be drawn again."""
        for old in (each for each in sample.responses if each.model == self.model and "seed" in each.sampling):
            if any(
                all(old.sampling.get(name, value) == value for name, value in self.drawn(sample, number).items())
                for number in range(self.num)
            ):
                raise ValueError(
                    f"sample {sample.key!r} has an answer by {self.model} with seed {old.sampling['seed']} already, "
                    "and would get it again. Give another `--seed`; or `--model NAME`, if this model is another."
                )


def answer_id(key: str, number: int) -> str:
    """Of an answer: a slash stands in no key."""
    return f"{key}/{number}"


def make_batches(manifest: Manifest, num: int, batch_size: int, image_tokens: int) -> Iterator[tuple[Asked, ...]]:
    """Every answer wanted, in batches of prompts of like length.

    Args:
        manifest: Of the prompts.
        num: Answers a prompt.
        batch_size: Answers that run together.
        image_tokens: Of one picture.
    """
    lengths = [_estimated_length(entry, image_tokens) for entry in manifest.entries()]
    windows = _chunks(range(len(lengths)), WINDOW)
    order = (i for window in windows for i in sorted(window, key=lambda i: -lengths[i]))
    return _chunks((Asked(sample, number) for sample in order for number in range(num)), batch_size)


class Answerer:
    """A model here, that answers a batch at a time."""

    def __init__(self, policy: Policy, drawing: Drawing) -> None:
        """Remember both; weights load with the first batch."""
        self.policy, self.drawing = policy, drawing
        self.sampling = Sampling(
            max_new_tokens=drawing.max_new_tokens, temperature=drawing.temperature, top_p=drawing.top_p
        )

    def answer(self, source: ShardSet, batch: Sequence[Asked]) -> list[Sampled]:
        """The answers of a batch, in order; a prompt that cannot be asked says why.

        Raises:
            ShardError, SampleError, GoneError: See `ShardSet`.
            ValueError: The batch is too large for the GPU.
        """
        samples = {number: source[number] for number in dict.fromkeys(asked.sample for asked in batch)}
        for sample in samples.values():
            self.drawing.check_unanswered(sample)
        prompts = {number: self._prompt(sample) for number, sample in samples.items()}
        seeded = [
            prompt._replace(seed=answer_seed(samples[asked.sample].id, asked.number, self.drawing.seed))
            for asked in batch
            if isinstance(prompt := prompts[asked.sample], Prompt)
        ]
        answers = iter(say(self.policy, seeded, self.sampling))
        found = []
        for asked in batch:
            name, prompt = answer_id(samples[asked.sample].key, asked.number), prompts[asked.sample]
            said = Said(failure=prompt) if isinstance(prompt, str) else next(answers)
            found.append(Sampled(name, *said))
        return found

    def _prompt(self, sample: Sample) -> Prompt | str:
        """What the model is asked, or why it is not."""
        steering = self.policy.steering
        try:
            messages = sample.messages if steering is None else steering.ask(sample.messages)
            images = [open_image(data, where=f"picture {i}") for i, data in enumerate(sample.images)]
        except ValueError as error:
            return str(error)
        length = len(self.policy.template.encode_prompt(messages))
        if length + self.drawing.max_new_tokens > self.policy.context:
            return (
                f"{length} tokens of prompt and {self.drawing.max_new_tokens} of answer do not fit the model's context "
                f"of {self.policy.context}. Shorten the prompt, or lower `--max_new_tokens`."
            )
        return Prompt(messages, tuple(images))


def say(
    policy: Policy, prompts: Sequence[Prompt], sampling: Sampling, *, rooms: Sequence[int] | None = None
) -> list[Said]:
    """What a model here says to prompts that run together, and why each answer ended.

    Args:
        policy: The model.
        prompts: Each fits the context.
        sampling: How they are decoded.
        rooms: Tokens that each answer may have, at most; left out, `sampling` alone says so.

    Raises:
        ValueError: They are too many for the GPU.
    """
    if not prompts:
        return []
    rooms = rooms or [sampling.max_new_tokens] * len(prompts)
    widest = replace(sampling, max_new_tokens=min(sampling.max_new_tokens, max(rooms)))
    try:
        found = generate_ids(policy.model, policy.template, prompts, widest, batch_size=len(prompts))
    except torch.OutOfMemoryError as error:
        raise ValueError(
            f"{len(prompts)} prompts at a time are too many for this GPU's memory. Run the same command with a "
            "smaller `--batch_size`; what is answered is kept."
        ) from error
    return [_said(policy, ids, room) for ids, room in zip(found, rooms, strict=True)]


def _said(policy: Policy, ids: Sequence[int], room: int) -> Said:
    is_cut = len(ids) >= room  # the end token, which is not among them, takes a place, too
    return Said(policy.template.decode_response(ids[:room]), "length" if is_cut else "stop", len(ids[:room]))


def answer_all(
    source: ShardSet,
    batches: Sequence[Sequence[Asked]],
    done: set[str],
    answer: Callable[[ShardSet, Sequence[Asked]], list[Sampled]],
    file: RecordFile[Sampled],
    progress: Callable[[int], None],
) -> None:
    """Have every batch answered that is not answered yet, each kept as soon as it is there.

    A batch that was answered in part is answered again whole, so that the same prompts run together.

    Args:
        source: The prompts.
        batches: See `make_batches`; of several ranks each has its own.
        done: Ids of the answers that there are.
        answer: Answers a batch.
        file: Keeps the answers.
        progress: Called with the number of answers done, batch by batch.
    """
    for batch in batches:
        missing = {answer_id(source.manifest.key(asked.sample), asked.number) for asked in batch} - done
        if missing:
            file.append([sampled for sampled in answer(source, batch) if sampled.id in missing])
        progress(len(batch))


def _chunks(items: Iterable[T], size: int) -> Iterator[tuple[T, ...]]:
    rest = iter(items)
    while chunk := tuple(islice(rest, size)):
        yield chunk


def _estimated_length(entry: Entry, image_tokens: int) -> int:
    return len(entry.images) * image_tokens + entry.prompt_length // CHARACTERS_PER_TOKEN
