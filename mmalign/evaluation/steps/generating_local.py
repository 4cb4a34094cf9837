"""Answers to a benchmark from a model here: a checkpoint, with or without an adapter, in the template of its training.

    PolicyAnswerer(load_policy("embedded", Path("runs/dpo/adapter")), batch_size=16)

Questions of one temperature and limit run together, long ones first; a batch goes through all of its turns before the
next begins. An answer has as many tokens as the question allows and the model's context has left.

Tests   tests/evaluation/steps/test_generating.py
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence

from mmalign.evaluation.steps.benchmark import Ask
from mmalign.evaluation.steps.generating import answer_of, conversation
from mmalign.evaluation.steps.records import Answer
from mmalign.generate import Prompt, Sampling
from mmalign.messages import Message
from mmalign.processor import open_image
from mmalign.sampling.answers import say
from mmalign.sampling.asking import Said
from mmalign.sampling.policy import Policy


class PolicyAnswerer:
    """A model here."""

    def __init__(self, policy: Policy, *, batch_size: int = 16, seed: int = 0, name: str = "") -> None:
        """Remember it; weights load with the first batch.

        Args:
            policy: The model, and how it is spoken to.
            batch_size: Questions that run together.
            seed: Another one gives other answers, where they are drawn.
            name: That stands in every answer; empty: the policy's own.

        Raises:
            ValueError: A batch of none.
        """
        if batch_size < 1:
            raise ValueError(f"`--batch_size` must be 1 or more, got {batch_size}.")
        self.policy, self.batch_size, self.seed = policy, batch_size, seed
        self.name = name or policy.name

    @property
    def identity(self) -> Mapping[str, str]:
        """Hashes of the weights, template and seed."""
        return {**self.policy.identity, "seed": str(self.seed)}

    def answer(self, asks: Sequence[Ask], done: Callable[[Sequence[Answer]], None]) -> None:
        """Answer all questions, a batch at a time; one that does not fit the model's context says so.

        Args:
            asks: Their pictures can be read.
            done: Is given every batch.

        Raises:
            ValueError: A batch is too large for the GPU.
        """
        lengths = {ask.id: self._length(self._messages(ask, ())) for ask in asks}
        too_long = [ask for ask in asks if not self._room(ask, lengths[ask.id])]
        if too_long:
            done([answer_of(ask, self.name, [self._does_not_fit(lengths[ask.id])]) for ask in too_long])
        refused = {ask.id for ask in too_long}
        for batch in self._batches([ask for ask in asks if ask.id not in refused], lengths):
            done(self._answers(batch))

    def _batches(self, asks: Sequence[Ask], lengths: Mapping[str, int]) -> Iterator[Sequence[Ask]]:
        """What runs together: the same batches wherever a run goes on, as they are done in this order."""
        alike = defaultdict[tuple[float, int], list[Ask]](list)
        for ask in sorted(asks, key=lambda ask: -lengths[ask.id]):
            alike[ask.temperature, ask.max_new_tokens].append(ask)
        for group in alike.values():
            for start in range(0, len(group), self.batch_size):
                yield group[start : start + self.batch_size]

    def _answers(self, batch: Sequence[Ask]) -> list[Answer]:
        """Turn by turn, all questions that still have one."""
        said = {ask.id: list[Said]() for ask in batch}
        while going := [ask for ask in batch if _goes_on(ask, said[ask.id])]:
            for ask, each in zip(going, self._next_turns(going, said), strict=True):
                said[ask.id].append(each)
        return [answer_of(ask, self.name, said[ask.id]) for ask in batch]

    def _next_turns(self, asks: Sequence[Ask], said: Mapping[str, Sequence[Said]]) -> list[Said]:
        """What is said to the next turn of each."""
        prompts, rooms, found = list[Prompt](), list[int](), dict[str, Said]()
        for ask in asks:
            messages = self._messages(ask, said[ask.id])
            length = self._length(messages)
            if room := self._room(ask, length):
                prompts.append(self._prompt(ask, said[ask.id], messages))
                rooms.append(room)
            else:
                found[ask.id] = self._does_not_fit(length)
        sampling = Sampling(max_new_tokens=asks[0].max_new_tokens, temperature=asks[0].temperature)
        answers = iter(say(self.policy, prompts, sampling, rooms=rooms))
        return [found[ask.id] if ask.id in found else next(answers) for ask in asks]

    def _prompt(self, ask: Ask, said: Sequence[Said], messages: tuple[Message, ...]) -> Prompt:
        talk = conversation(ask, said, self.seed)
        images = tuple(open_image(picture.read(), where=f"{ask.id}: {picture.name}") for picture in talk.pictures)
        return Prompt(messages, images, talk.seed)

    def _messages(self, ask: Ask, said: Sequence[Said]) -> tuple[Message, ...]:
        """As the model was trained to be asked."""
        messages = conversation(ask, said, self.seed).messages
        return messages if self.policy.steering is None else self.policy.steering.ask(messages)

    def _length(self, messages: Sequence[Message]) -> int:
        return len(self.policy.template.encode_prompt(messages))

    def _room(self, ask: Ask, length: int) -> int:
        """Tokens that the answer may have; 0 where the prompt does not fit."""
        return max(0, min(ask.max_new_tokens, self.policy.context - length))

    def _does_not_fit(self, length: int) -> Said:
        return Said(
            failure=f"its prompt of {length} tokens leaves no room for an answer in the model's context of "
            f"{self.policy.context}"
        )


def _goes_on(ask: Ask, said: Sequence[Said]) -> bool:
    return len(said) < len(ask.turns) and not any(each.failure for each in said)
