"""The smallest benchmark with a judge: sums, an answer each, a grade from 0 to 1.

    bench = Graded(num=20)
    bench.calls(bench.answers())

Used by  tests/evaluation/steps/test_judging.py, tests/tools/test_evaluate_judge.py,
         tests/faults/test_evaluating.py
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from mmalign.evaluation.steps.benchmark import Ask, JudgeCall, Turn
from mmalign.evaluation.steps.faults import Handling
from mmalign.evaluation.steps.records import Answer, JudgeReply
from mmalign.evaluation.steps.scored import Scored


@dataclass(frozen=True, kw_only=True)
class Graded:
    """How much is i + i?"""

    name: ClassVar[str] = "graded"
    title: ClassVar[str] = "Sums"
    judge: ClassVar[str] = "judge-1"
    num: int = 20
    following: int = 2
    """Tries after the first."""
    release: str = "1"

    @property
    def protocol(self) -> str:
        return f"graded/{self.release}"

    def asks(self) -> Sequence[Ask]:
        return [Ask(f"q{i}", (Turn(f"{i} + {i}?"),)) for i in range(self.num)]

    def answers(self) -> list[Answer]:
        """Of a model that is always right."""
        return [Answer(f"q{i}", [str(2 * i)], model="m") for i in range(self.num)]

    def read_answers(self, rows: Any) -> list[Answer]:
        return [Answer(id, [text]) for id, text in rows.items()]

    def calls(self, answers: Sequence[Answer]) -> Sequence[JudgeCall]:
        return [self._call(answer) for answer in answers if not answer.failure]

    def _call(self, answer: Answer) -> JudgeCall:
        first = JudgeCall(answer.id, "Grade sums.", f"{answer.id}: {answer.text}", max_tokens=64)
        then = [
            first._replace(user=f"{first.user}\nA number, please.", temperature=0.5 * (i + 1))
            for i in range(self.following)
        ]
        return first._replace(then=tuple(then))

    def is_usable(self, text: str) -> bool:
        return text in ("0", "0.5", "1")

    def read_replies(self, rows: Any) -> list[JudgeReply]:
        return [JudgeReply(id, text, judge="judge-1") for id, text in rows.items()]

    def score(
        self, answers: Sequence[Answer] | None, replies: Sequence[Sequence[JudgeReply]], handling: Handling
    ) -> Scored:
        raise NotImplementedError
