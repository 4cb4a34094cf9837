"""RLAIF-V: an answer is cut into claims, and a model that sees the picture is asked whether each is right.

Paper   Yu et al., 2024, https://arxiv.org/abs/2405.17220, Sec. 3.2; the words of the prompts are ours
Tests   tests/judges/test_claims.py

    "A red ball lies in the grass."  --rule--> ("The ball is red.", "Is the ball red?"), ("It lies in grass.", ...)
                                     --model, picture--> yes, no  -->  rating `claims` = 1 yes - 2 claims = -1

Rules that cut an answer into claims:

    model       the model is asked for claims, each with a yes/no question                   the paper's, in one step
    sentences   every sentence is a claim, asked whether it is right                         for models of few words
    world       every thing named of the embedded world: "Is there a red circle in the picture?"; not size, not place

0 is the best rating: no claim was found wrong, nor where there are none. A verdict that is neither yes nor no is
unknown, and its claim does not count; where all are unknown the judgment is invalid.
"""

import re
from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal, NamedTuple

from mmalign.contrast.sentences import split
from mmalign.data.sample import Judgment, Sample
from mmalign.generate import Prompt, Sampling, generate
from mmalign.judges.judge import Done, shortened
from mmalign.messages import ImageSlot, Message, Text
from mmalign.processor import open_image
from mmalign.sampling.policy import Policy
from mmalign.world.language import claims as world_claims
from mmalign.world.language import with_article

Rule = Literal["model", "sentences", "world"]
CLAIMS = "claims"
"""The rating."""
SPLIT_PROMPT = """\
Here are a question about a picture and an answer to it. List every fact that the answer states about the picture, \
each once, so that it can be understood without the others. Behind each fact write a question about the picture, to \
be answered with yes if the fact is true and with no if it is not. Leave out opinions, and what says nothing about \
the picture.

Write one line for each fact, in this form and nothing else:
fact => question?
If the answer states no fact about the picture, write only: none

Question: {question}
Answer: {answer}"""
CHECK_PROMPT = "{question} Answer yes or no."
SENTENCE_PROMPT = "Question: {question}\nAnswer: {sentence}\nIs this answer right? Answer yes or no."
SPLIT_TOKENS = 1024
"""Of a list of claims, at most."""
CHECK_TOKENS = 16
"""Of a verdict; more is read by nobody."""
_BULLET = re.compile(r"(?:[-*]|\d+[.)])\s*")
_NONE = re.compile(r"\W*none\W*", re.IGNORECASE)
_VERDICT = re.compile(r"\W*(yes|no)\b", re.IGNORECASE)
EMPTY = "the response is empty"


class Question(NamedTuple):
    """What the model is asked."""

    text: str
    images: tuple[bytes, ...] = ()
    """Encoded; they stand before the text."""
    max_tokens: int = CHECK_TOKENS

    def messages(self) -> tuple[Message, ...]:
        """As a conversation."""
        return (Message("user", (*(ImageSlot() for _ in self.images), Text(self.text))),)


class Claim(NamedTuple):
    """One fact that an answer states."""

    text: str
    question: str
    """Whose answer is yes if it is true."""


Asking = Generator[list[Question], list[str], list[Judgment]]
"""One sample being judged: gives questions, takes the replies, and comes to its judgments."""


def judge_claims(name: str, rule: Rule, sample: Sample) -> Asking:
    """Judge one sample, whoever answers.

    Args:
        name: Of the judge.
        rule: See above.
        sample: Each of its responses gets a judgment.
    """
    question, answers = _question_of(sample), [each.text.strip() for each in sample.responses]
    if rule == "model":
        prompts = [SPLIT_PROMPT.format(question=question, answer=answer) for answer in answers if answer]
        lists = iter((yield [Question(prompt, max_tokens=SPLIT_TOKENS) for prompt in prompts]))
        found = [read_claims(next(lists)) if answer else EMPTY for answer in answers]
    else:
        cut = sentence_claims if rule == "sentences" else named_things
        found = [cut(question, answer) if answer else EMPTY for answer in answers]
    to_check = [claim for claims in found if not isinstance(claims, str) for claim in claims]
    verdicts = iter((yield [Question(claim.question, sample.images) for claim in to_check]))
    return [
        Judgment(judge=name, invalid=claims)
        if isinstance(claims, str)
        else _judgment(name, claims, [read_verdict(next(verdicts)) for _ in claims])
        for claims in found
    ]


def read_claims(reply: str) -> list[Claim] | str:
    """The claims in a reply to `SPLIT_PROMPT`, each once, or why it cannot be used."""
    found = [claim for line in reply.split("\n") if (claim := _claim_in(line))]
    if not found and not _NONE.fullmatch(reply):
        return f"the claims cannot be read: no line `fact => question?` in {reply:.80}"
    return list(dict.fromkeys(found))


def _claim_in(line: str) -> Claim | None:
    """The claim of a line `fact => question?`; no backtracking: a model gone mad writes blanks by the thousand."""
    fact, _, question = (part.strip() for part in line.partition("=>"))
    text = fact[bullet.end() :] if (bullet := _BULLET.match(fact)) else fact
    if not text or len(question) < 2 or not question.endswith("?"):
        return None
    return Claim(text, CHECK_PROMPT.format(question=question))


def sentence_claims(question: str, answer: str) -> list[Claim]:
    """Every sentence of an answer, each once."""
    sentences = dict.fromkeys(each.strip() for each in split(answer))
    return [Claim(each, SENTENCE_PROMPT.format(question=question, sentence=each)) for each in sentences if each]


def named_things(question: str, answer: str) -> list[Claim]:
    """The things of the embedded world that an answer says are there, each once, in words its model knows."""
    del question  # the things say it all
    named = dict.fromkeys(" ".join(filter(None, (each.colour, each.shape))) for each in world_claims(answer))
    return [
        Claim(f"There is {with_article(each)}.", f"Is there {with_article(each)} in the picture?") for each in named
    ]


def read_verdict(reply: str) -> str:
    """`yes`, `no` or `unknown`, by the reply's first word."""
    match = _VERDICT.match(reply)
    return match[1].lower() if match else "unknown"


def _judgment(name: str, claims: Sequence[Claim], verdicts: Sequence[str]) -> Judgment:
    lines = [f"{verdict}: {claim.text}" for verdict, claim in zip(verdicts, claims, strict=True)]
    if claims and set(verdicts) == {"unknown"}:
        return Judgment(judge=name, invalid=shortened(f"no verdict can be read: {'; '.join(lines)}"))
    rationale = shortened("\n".join(lines) or "No claims.")
    return Judgment(judge=name, ratings={CLAIMS: -verdicts.count("no")}, rationale=rationale)


def _question_of(sample: Sample) -> str:
    """The text of the last turn."""
    return "".join(part.text for part in sample.messages[-1].content if isinstance(part, Text)).strip()


@dataclass(frozen=True, kw_only=True)
class ClaimsJudge:
    """A model here checks the claims."""

    policy: Policy
    rule: Rule = "sentences"
    batch_size: int = 8
    """Samples, and questions, that run together."""

    def __post_init__(self) -> None:
        """Raise where nothing could run."""
        if self.batch_size < 1:
            raise ValueError(f"`--batch_size` must be 1 or more, got {self.batch_size}.")

    @property
    def name(self) -> str:
        """Of its judgments: `claims/embedded`."""
        return f"claims/{self.policy.name}"

    def settings(self) -> Mapping[str, Any]:
        """Rule and weights."""
        return {"judge": self.name, "claims": self.rule} | self.policy.identity

    def rate(self, samples: Iterable[Sample], done: Done) -> None:
        """Rate samples, a batch at a time.

        Args:
            samples: Read as they are needed.
            done: See `Judge`.
        """
        waiting = iter(samples)
        while batch := list(islice(waiting, self.batch_size)):
            running = list[tuple[Sample, Asking, list[Question]]]()
            for sample in batch:
                if fault := fault_of(sample):
                    done(sample, [Judgment(judge=self.name, invalid=fault) for _ in sample.responses])
                else:
                    asking = judge_claims(self.name, self.rule, sample)
                    running.append((sample, asking, next(asking)))
            while running:
                running = self._step(running, done)

    def _step(
        self, running: Sequence[tuple[Sample, Asking, list[Question]]], done: Done
    ) -> list[tuple[Sample, Asking, list[Question]]]:
        """Have all questions of the samples at hand answered together."""
        replies = iter(self._ask([question for *_, questions in running for question in questions]))
        further = []
        for sample, asking, questions in running:
            try:
                further.append((sample, asking, asking.send([next(replies) for _ in questions])))
            except StopIteration as end:
                done(sample, end.value)
        return further

    def _ask(self, questions: Sequence[Question]) -> list[str]:
        prompts = [
            Prompt(each.messages(), tuple(open_image(data, where="picture") for data in each.images))
            for each in questions
        ]
        limit = max((each.max_tokens for each in questions), default=CHECK_TOKENS)
        sampling = Sampling(max_new_tokens=limit)
        return generate(self.policy.model, self.policy.template, prompts, sampling, batch_size=self.batch_size)


def fault_of(sample: Sample) -> str:
    """Why no claim of a sample can be checked; empty where they can.

    Args:
        sample: Whose pictures shall be asked about.
    """
    if not sample.images:
        return "no picture to check claims against"
    try:
        for number, data in enumerate(sample.images):
            open_image(data, where=f"picture {number}")
    except ValueError as error:
        return str(error)
    return ""
