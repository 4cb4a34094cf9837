"""Let a model answer a benchmark: every turn after the one before, each answer on disk as it comes.

    generate(MMVet(questions="mm-vet.json", images="images"), answerer, Path("runs/mm_vet"))
        -> runs/mm_vet/answers.jsonl, in the order of the questions

    asks --> pictures whole? --> answered already? --> answerer --> answers.jsonl
             (all of them, before the first token)     generating_local.py: a model here
                                                       generating_server.py: an OpenAI-compatible endpoint

Killed at any moment and run again, it goes on: what is answered is not asked again, what failed is. Each turn has a
seed of its own, so an answer depends neither on its batch nor on where a run was stopped.

Tests   tests/evaluation/steps/test_generating.py
"""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple, Protocol, runtime_checkable

from mmalign.data.manifest import write_whole
from mmalign.data.records import RecordFile
from mmalign.evaluation.steps.asked import Asked, all_turns, look_through
from mmalign.evaluation.steps.benchmark import Ask, Benchmark, Picture, SelfAsking
from mmalign.evaluation.steps.records import ANSWERS_FILE, Answer
from mmalign.messages import ImageSlot, Message, Text
from mmalign.sampling.asking import Said
from mmalign.sampling.seeds import answer_seed

ANSWERS_IDENTITY_FILE = "answers.identity.json"
"""Beside the answers: all that they depend on. Judgments in the same folder have one of their own."""


@runtime_checkable
class Answerer(Protocol):
    """A model that answers."""

    @property
    def name(self) -> str:
        """Stands in every answer."""

    @property
    def identity(self) -> Mapping[str, str]:
        """All that its answers depend on besides the questions."""

    def answer(self, asks: Sequence[Ask], done: Callable[[Sequence[Answer]], None]) -> None:
        """Answer all questions.

        Args:
            asks: Their pictures can be read.
            done: Is given every finished batch.
        """


class Conversation(NamedTuple):
    """What the model is asked in one turn, with all that came before."""

    messages: tuple[Message, ...]
    pictures: tuple[Picture, ...]
    """Of its image slots, in order."""
    seed: int
    """Of the answer's random numbers."""


def generate(
    bench: Benchmark,
    answerer: Answerer,
    out: Path,
    *,
    on_bad: Literal["error", "count"] = "error",
    overwrite: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Answer]:
    """The model's answers to all questions, in their order; those that it cannot have say why.

    Args:
        bench: Asks.
        answerer: Answers.
        out: Folder of `answers.jsonl`; what it holds already is not asked again.
        on_bad: `count` makes failures of the questions whose pictures are missing or broken, instead of an error.
        overwrite: Drop answers of another model or to other questions, instead of refusing.
        progress: Told the number of questions that are done, and of all.

    Raises:
        FileNotFoundError, ValueError: Questions or pictures are missing, broken or double; how many and which. Or the
            folder holds other answers; in what they differ.
    """
    if isinstance(bench, SelfAsking):
        return bench.ask_by_library(answerer, out, overwrite=overwrite)
    asked = look_through(bench)
    if asked.unaskable and on_bad == "error":
        raise asked.error()
    identity = {"protocol": bench.protocol, **asked.identity(asked.unaskable), **answerer.identity}
    _take_up_mended(out / ANSWERS_IDENTITY_FILE, asked, identity)
    file = RecordFile(out / ANSWERS_FILE, Answer, identity, overwrite=overwrite, identity_file=ANSWERS_IDENTITY_FILE)
    found = {name: each._replace(model=answerer.name) for name, each in file.records.items() if not each.failure}
    for ask in asked.asks:
        if fault := asked.unaskable.get(ask.id):
            found[ask.id] = answer_of(ask, answerer.name, [Said(failure=f"{fault.reason}: {fault.detail}")])

    def done(answers: Sequence[Answer]) -> None:
        file.append([each for each in answers if not each.failure])
        found.update({each.id: each for each in answers})
        progress(len(found), len(asked.asks))

    progress(len(found), len(asked.asks))
    if todo := [ask for ask in asked.asks if ask.id not in found]:
        answerer.answer(todo, done)
    answers = [found[ask.id] for ask in asked.asks]
    file.replace(answers)
    return answers


def _take_up_mended(path: Path, asked: Asked, identity: Mapping[str, str]) -> None:
    """Go on with the answers of a start that went without some questions, once their pictures are mended."""
    found = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    without = set(found.get("without", "").split(", "))
    if without & asked.pictures.keys():
        others = {name: value for name, value in identity.items() if name != "without"}
        if found == others | asked.identity(without & asked.pictures.keys()):
            write_whole(path, f"{json.dumps(identity, indent=2)}\n".encode())


def conversation(ask: Ask, said: Sequence[Said], seed: int) -> Conversation:
    """The turn behind those that are answered.

    Args:
        ask: The question.
        said: Answers to its turns so far.
        seed: Of the run.
    """
    turns = all_turns(ask)[: len(ask.history) + len(said) + 1]
    answers = [answer for _, answer in ask.history] + [each.text for each in said]
    messages = list[Message]()
    for number, turn in enumerate(turns):
        messages.append(Message("user", (*(ImageSlot() for _ in turn.pictures), Text(turn.text))))
        messages += [Message("assistant", (Text(answer),)) for answer in answers[number : number + 1]]
    pictures = tuple(picture for turn in turns for picture in turn.pictures)
    return Conversation(tuple(messages), pictures, answer_seed(ask.id, len(said), seed))


def answer_of(ask: Ask, model: str, said: Sequence[Said]) -> Answer:
    """The record of what was said to a question, turn by turn; a turn that failed is the last.

    Args:
        ask: The question.
        model: Who said it.
        said: One for each turn that was asked.
    """
    spoken = [each for each in said if not each.failure]
    failure = next((each.failure for each in said if each.failure), "")
    return Answer(
        ask.id,
        turns=[each.text for each in spoken],
        model=model,
        pictures=[[picture.name for picture in turn.pictures] for turn in ask.turns],
        finish_reasons=[each.finish_reason for each in spoken],
        failure=f"turn {len(said)}: {failure}" if failure and len(ask.turns) > 1 else failure,
    )
