"""The implicit reward of a model that was trained with DPO or its kin: how much likelier it finds an answer.

    reward = beta * (log pi(y|x) - log pi_ref(y|x))                                          nats, summed over tokens

pi is the base with its adapter, pi_ref the base alone: where the adapter was trained further from another one, the
reward is that of both together. A trained scalar head (a reward model of its own) is not there yet.

Paper   Rafailov et al., 2023, https://arxiv.org/abs/2305.18290, Eq. 5 without the prompt's own constant, which is the
        same for all answers to a prompt: compare rewards of one prompt only
Tests   tests/judges/test_reward.py
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import Any, NamedTuple, cast

import torch
from lightning.fabric.utilities import move_data_to_device
from peft import PeftModel

from mmalign.backbone import Llava
from mmalign.batch import Batch, Role
from mmalign.data.collate import Collator
from mmalign.data.rows import Answer, EncodedRow, Row, RowEncoder
from mmalign.data.sample import Judgment, Sample, SampleError
from mmalign.judges.judge import Done
from mmalign.logps import response_logps
from mmalign.messages import Message
from mmalign.sampling.policy import Policy

REWARD = "reward"
"""The rating."""
MAX_LENGTH = 3000
"""Tokens of a prompt and one answer, as in the production config; a longer answer is invalid, never cut."""
EMPTY = "the response is empty"


class _Waiting(NamedTuple):
    """A sample whose rewards are still to be computed."""

    sample: Sample
    row: EncodedRow
    """With the answers that are not empty."""


@dataclass(frozen=True, kw_only=True)
class RewardJudge:
    """Rates by the implicit reward of an adapter."""

    policy: Policy
    """With the adapter."""
    beta: float = 0.1
    """Of its training."""
    batch_size: int = 8
    """Samples that run together, each with all its answers."""

    def __post_init__(self) -> None:
        """Raise where there is no reward to compute."""
        if self.policy.adapter is None:
            raise ValueError("`--judge reward` needs `--adapter DIR`: the reward is what the adapter changed.")
        if self.beta <= 0:
            raise ValueError(f"`--beta` must be above 0, got {self.beta:g}. Give that of the training, usually 0.1.")
        if self.batch_size < 1:
            raise ValueError(f"`--batch_size` must be 1 or more, got {self.batch_size}.")

    @property
    def name(self) -> str:
        """Of its judgments: `reward/embedded+demo`."""
        return f"reward/{self.policy.name}"

    def settings(self) -> Mapping[str, Any]:
        """Weights, template and beta."""
        return {"judge": self.name, "beta": self.beta, "max_length": MAX_LENGTH} | self.policy.identity

    def rate(self, samples: Iterable[Sample], done: Done) -> None:
        """Rate samples, a batch at a time.

        Args:
            samples: Read as they are needed.
            done: See `Judge`.
        """
        waiting = iter(samples)
        while batch := list(islice(waiting, self.batch_size)):
            encoded = [each for sample in batch if (each := self._encoded(sample, done)) is not None]
            if encoded:
                self._rate(encoded, done)

    def _encoded(self, sample: Sample, done: Done) -> _Waiting | None:
        """The sample as a row; None where there is nothing to compute, which is told at once."""
        answers = tuple(Answer(each.text, Role.ANSWER) for each in sample.responses if each.text.strip())
        if not answers:
            done(sample, [Judgment(judge=self.name, invalid=EMPTY) for _ in sample.responses])
            return None
        try:
            return _Waiting(sample, self._encoder(Row(sample.key, self._asked(sample), sample.images, answers)))
        except SampleError as error:
            done(sample, [Judgment(judge=self.name, invalid=str(error)) for _ in sample.responses])
            return None

    def _asked(self, sample: Sample) -> tuple[Message, ...]:
        """The prompt as this policy was trained to get it."""
        return sample.messages if self.policy.steering is None else self.policy.steering.ask(sample.messages)

    def _rate(self, waiting: Sequence[_Waiting], done: Done) -> None:
        rewards = iter(self._rewards([each.row for each in waiting]))
        for sample, _ in waiting:
            done(sample, [self._judgment(response.text, rewards) for response in sample.responses])

    def _judgment(self, text: str, rewards: Iterator[float]) -> Judgment:
        if not text.strip():
            return Judgment(judge=self.name, invalid=EMPTY)
        return Judgment(judge=self.name, ratings={REWARD: next(rewards)})

    @torch.no_grad()
    def _rewards(self, rows: Sequence[EncodedRow]) -> list[float]:
        """Of every answer, row after row."""
        batch: Batch = move_data_to_device(self._collator(rows), self.policy.device)
        aligned = response_logps(self._llava, batch).sums.double()
        with cast(PeftModel, self.policy.model).disable_adapter():
            base = response_logps(self._llava, batch).sums.double()
        return [float(value) for value in (self.beta * (aligned - base)).tolist()]

    @cached_property
    def _llava(self) -> Llava:
        return Llava(cast(PeftModel, self.policy.model)).eval()

    @cached_property
    def _encoder(self) -> RowEncoder:
        return RowEncoder(self.policy.template, max_length=MAX_LENGTH)

    @cached_property
    def _collator(self) -> Collator:
        return Collator(pad_token_id=self.policy.template.tokenizer.pad_token_id)
