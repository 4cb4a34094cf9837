"""What a benchmark is: questions to a model, perhaps questions to a judge about its answers, and a rule that scores.

    bench = MMVet(questions="mm-vet.json", images="images")
    bench.asks()                             what the model is asked, as the benchmark's rule has it   (generating.py)
    bench.calls(answers)                     what the judge is asked about the answers                 (judging.py)
    bench.score(answers, [replies], Handling())  -> Scored: metrics, with each sample's share in them

A benchmark is a frozen dataclass in a file of its own. Its fields are its data files and settings, and become the
options of the commands; `registry.py` lists them all. Scoring is pure: no network, no model, no torch.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Protocol, runtime_checkable

from mmalign.evaluation.steps.faults import Handling
from mmalign.evaluation.steps.records import Answer, JudgeReply
from mmalign.evaluation.steps.scored import Scored


class Picture(NamedTuple):
    """A picture of a question: a file, or bytes that came with the question."""

    name: str
    """As records name it: a file's name, or what it shows (`blank`)."""
    path: Path | None = None
    data: bytes | None = None
    """Encoded."""

    def read(self) -> bytes:
        """The encoded picture.

        Raises:
            FileNotFoundError: It is gone.
        """
        if self.data is not None:
            return self.data
        if self.path is None or not self.path.is_file():
            raise FileNotFoundError(
                f"No picture {self.name} at {self.path}. Give the pictures' folder with `--images`."
            )
        return self.path.read_bytes()


class Turn(NamedTuple):
    """One user turn; its pictures stand before the text."""

    text: str
    pictures: tuple[Picture, ...] = ()


class Ask(NamedTuple):
    """One question as the model gets it."""

    id: str
    """Unique in the benchmark; answers, judgments and scores are joined on it."""
    turns: tuple[Turn, ...]
    """Each is answered before the next is asked; a later one sees the answers so far."""
    temperature: float = 0.0
    max_new_tokens: int = 1024
    history: tuple[tuple[Turn, str], ...] = ()
    """Earlier turns with the answers that were given to them; they come before the first of `turns`."""


class JudgeCall(NamedTuple):
    """One question to a judge, as text."""

    id: str
    """Unique in the benchmark; of the answer that it is about, with the turn where there are several."""
    system: str
    """Empty: no system message."""
    user: str
    """Empty: no user message."""
    temperature: float = 0.0
    max_tokens: int = 1024
    then: tuple["JudgeCall", ...] = ()
    """What is asked next, one after the other, while the reply cannot be used; empty where the rule asks only once."""

    def messages(self) -> list[dict[str, str]]:
        """In OpenAI's form."""
        said = {"system": self.system, "user": self.user}
        return [{"role": role, "content": text} for role, text in said.items() if text]


@runtime_checkable
class Benchmark(Protocol):
    """Questions, and the rule that scores their answers."""

    name: ClassVar[str]
    """In commands and files: `pope`."""
    title: ClassVar[str]
    """In reports: POPE."""

    @property
    def protocol(self) -> str:
        """Name and version of rule and data, `pope/llava15-e3e3926`; results of different ones are never compared."""

    def asks(self) -> Sequence[Ask]:
        """What the model is asked.

        Raises:
            FileNotFoundError, ValueError: No such questions, or broken ones.
        """

    def read_answers(self, rows: Any) -> list[Answer]:
        """Answers from their published layout.

        Args:
            rows: What the file holds, see `sources.load`.

        Raises:
            ValueError: Another layout; it says which is read.
        """

    def score(
        self, answers: Sequence[Answer] | None, replies: Sequence[Sequence[JudgeReply]], handling: Handling
    ) -> Scored:
        """Score by the official rule.

        Args:
            answers: In any order; None where published judgments alone are scored.
            replies: Of the judge, one sequence for each of its runs; empty where there is no judge.
            handling: What to do about what cannot be scored.

        Raises:
            ValueError: Something cannot be scored, and `handling` says that this is an error; how many and which.
        """


@runtime_checkable
class JudgedBenchmark(Benchmark, Protocol):
    """A benchmark whose answers a model grades."""

    judge: ClassVar[str]
    """The model that the published numbers were graded by."""

    def calls(self, answers: Sequence[Answer]) -> Sequence[JudgeCall]:
        """What the judge is asked about these answers, in the order of the questions; unanswered ones are left out."""

    def is_usable(self, text: str) -> bool:
        """Whether a judge's text holds a score by the official parser."""

    def read_replies(self, rows: Any) -> list[JudgeReply]:
        """Judgments from their published layout; see `read_answers`."""


@runtime_checkable
class SelfAsking(Benchmark, Protocol):
    """A benchmark whose library asks the model by itself, and grades what it says."""

    def ask_by_library(self, answerer: Any, out: Path, *, overwrite: bool) -> list[Answer]:
        """Answers and grades, which are written into the folder as the steps write them.

        Args:
            answerer: The model, see `generating.Answerer`.
            out: Folder; run again with the same one to go on.
            overwrite: Drop what is there of another model, instead of refusing.
        """


@runtime_checkable
class SeveralRuns(JudgedBenchmark, Protocol):
    """A benchmark whose authors publish several runs of the judge in one file."""

    def read_runs(self, rows: Any) -> list[list[JudgeReply]]:
        """Judgments from that layout, a list for each run."""
