r"""A model grades answers: every reply is on disk before it is read, nothing is asked twice, nothing becomes a score.

    grader = EndpointGrader(Endpoint(model="gpt-4-0613"), out / "replies" / "judgments")
    judge(MMVet(questions="mm-vet.json"), answers, grader, out)       -> out/judgments.jsonl
    judge(bench, answers, grader, out, run=1)                         -> out/judgments.1.jsonl, asked anew

    calls --> judged by an earlier start? --> judgments.jsonl
          \-> grader: reply --> usable? ------^    ^
                        ^--- next try --no--/ \    |
                               no try is left -----/   as text, from which no score can be read

What came of a call stands in the file as the judge said it; `score` reads scores from it. A call without a reply stands
there as a failure, and is asked again by the next start. A call whose prompt is another by now is asked again, too.

Tests   tests/evaluation/steps/test_judging.py, tests/tools/test_evaluate_judge.py, tests/faults/test_evaluating.py
"""

import json
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Protocol, runtime_checkable

from mmalign.api.endpoint import Endpoint
from mmalign.api.faults import plain
from mmalign.data.manifest import write_whole
from mmalign.data.records import RecordFile, read_records
from mmalign.evaluation.steps.benchmark import JudgeCall, JudgedBenchmark
from mmalign.evaluation.steps.faults import NAMED, NO_REPLY
from mmalign.evaluation.steps.records import JUDGMENTS_FILE, Answer, JudgeReply, prompt_hash

WRITE_EVERY_S = 1.0
"""Between two writes of judgments: what is lost with a kill costs a second of work, and no money."""
Done = Callable[[Sequence[JudgeReply]], None]
LOGGER = logging.getLogger(__name__)


@runtime_checkable
class Grader(Protocol):
    """Somebody who replies to judge calls."""

    @property
    def name(self) -> str:
        """For people."""

    @property
    def identity(self) -> Mapping[str, str]:
        """All that its replies depend on besides the call; no secret."""

    def grade(self, calls: Sequence[JudgeCall], is_usable: Callable[[str], bool], done: Done, *, run: int = 0) -> None:
        """Reply to calls.

        Args:
            calls: With their following tries.
            is_usable: Whether a text holds a score; if not, the next try is made.
            done: Called with the replies, as they come, in any order; each call gets one, be it a failure.
            run: Another run gets other replies to the same calls.
        """


@runtime_checkable
class LibraryJudged(Protocol):
    """A benchmark whose authors' library asks the judge by itself."""

    judge: ClassVar[str]

    @property
    def protocol(self) -> str:
        """See `Benchmark`."""

    def judge_by_library(self, answers: Sequence[Answer], endpoint: Endpoint, out: Path) -> list[JudgeReply]:
        """Judgments of answers.

        Args:
            answers: To judge.
            endpoint: The judge.
            out: Where the library keeps what it has; it goes on there when it is run again.
        """


def judge(
    bench: JudgedBenchmark,
    answers: Sequence[Answer],
    grader: Grader,
    out: Path,
    *,
    run: int = 0,
    overwrite: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
    warn: Callable[[str], None] = LOGGER.warning,
) -> list[JudgeReply]:
    """Judgments of all answers, in the order of the calls; `judgments.jsonl` holds them.

    Args:
        bench: Knows what is asked.
        answers: To it; those that it leaves out are not judged.
        grader: Who is asked.
        out: Folder; run again with the same one to go on.
        run: Of several that are compared; each has a file of its own.
        overwrite: Drop judgments of another judge or protocol, instead of refusing.
        progress: Called with how many calls are done, of how many; first with those of earlier starts.
        warn: Called where the replies turn out to be of several judges, or judgments of earlier starts no longer fit.

    Raises:
        ValueError: Nothing to judge, an answer stands twice, `out` holds the judgments of another judge, or the grader
            cannot go on; what came before is kept.
    """
    calls = _calls(bench, answers)
    file = judgment_file(out, run, {"protocol": bench.protocol, **grader.identity}, overwrite=overwrite)
    fitting = _fitting(file, calls, warn)
    if fitting != file.records:
        _write(file.path, fitting.values())
    journal = _Journal(file, fitting, len(calls), progress, warn)
    try:
        missing = [call for call in calls if call.id not in fitting]
        if missing:
            grader.grade(missing, bench.is_usable, journal.done, run=run)
    finally:
        journal.write()
    _write(file.path, [journal.replies[call.id] for call in calls])
    return read_records(file.path, JudgeReply)


def judge_by_library(
    bench: LibraryJudged,
    answers: Sequence[Answer],
    endpoint: Endpoint,
    out: Path,
    *,
    run: int = 0,
    overwrite: bool = False,
) -> list[JudgeReply]:
    """As `judge`, where the benchmark's own library asks; it keeps what it has, run for run."""
    identity = {"protocol": bench.protocol, **endpoint.identity()}
    file = judgment_file(out, run, identity, overwrite=overwrite)
    replies = bench.judge_by_library(answers, endpoint, out / f"run-{run}" if run else out)
    _write(file.path, replies)
    return replies


def judgment_file(
    out: Path, run: int, identity: Mapping[str, str], *, overwrite: bool = False
) -> RecordFile[JudgeReply]:
    """The judgments of one run, with what an earlier start left.

    Args:
        out: Folder.
        run: Of several.
        identity: All that they depend on besides the prompts.
        overwrite: Drop what is there of another identity.

    Raises:
        ValueError: There is something of another identity.
    """
    path = (out / JUDGMENTS_FILE).with_suffix(f".{run}.jsonl" if run else ".jsonl")
    name = path.with_suffix(".identity.json").name
    return RecordFile(path, JudgeReply, identity, overwrite=overwrite, identity_file=name)


def is_final(reply: JudgeReply) -> bool:
    """Whether the judge has said what it has to say, be it nothing usable; else it is asked again."""
    return not reply.failure.startswith(NO_REPLY)


def _calls(bench: JudgedBenchmark, answers: Sequence[Answer]) -> Sequence[JudgeCall]:
    calls = bench.calls(answers)
    twice = [name for name, times in Counter(call.id for call in calls).items() if times > 1]
    if twice:
        raise ValueError(
            f"{bench.title}: {len(twice)} answers stand there more than once ({', '.join(twice[:NAMED])}). Take the "
            "doubles out of the answers, then judge them."
        )
    if not calls:
        raise ValueError(
            f"{bench.title}: none of the {len(answers)} answers can be judged. Give answers to its questions with "
            "`--answers`."
        )
    return calls


def _fitting(
    file: RecordFile[JudgeReply], calls: Sequence[JudgeCall], warn: Callable[[str], None]
) -> dict[str, JudgeReply]:
    """Judgments of earlier starts that are still what is asked for, in the order of the calls."""
    hashes = {call.id: prompt_hash(call.messages()) for call in calls}
    final = {name: reply for name, reply in file.records.items() if name in hashes and is_final(reply)}
    fitting = {name: final[name] for name in hashes if name in final and final[name].prompt_hash in ("", hashes[name])}
    stale = [name for name in final if name not in fitting]
    if stale:
        warn(
            f"{len(stale)} judgments in {file.path} are of other answers or another prompt "
            f"({', '.join(stale[:NAMED])}): these are judged anew."
        )
    return fitting


class _Journal:
    """Takes replies as they come, says how far it is, and writes them once a second."""

    def __init__(
        self,
        file: RecordFile[JudgeReply],
        fitting: Mapping[str, JudgeReply],
        total: int,
        progress: Callable[[int, int], None],
        warn: Callable[[str], None],
    ) -> None:
        self.replies = dict(fitting)
        self._file, self._total, self._progress, self._warn = file, total, progress, warn
        self._judges = Counter[str]()
        self._waiting = list[JudgeReply]()
        self._written = time.monotonic()
        self._count_judges(self.replies.values())
        progress(len(self.replies), total)

    def done(self, replies: Sequence[JudgeReply]) -> None:
        """Take some."""
        self.replies |= {reply.id: reply for reply in replies}
        self._waiting += [reply for reply in replies if not reply.failure]  # failures stand at the end of a whole run
        if time.monotonic() - self._written > WRITE_EVERY_S:
            self.write()
        self._count_judges(replies)
        self._progress(len(self.replies), self._total)

    def write(self) -> None:
        """Put on disk what is not there yet."""
        if self._waiting:
            self._file.append(self._waiting)
        self._waiting, self._written = [], time.monotonic()

    def _count_judges(self, replies: Iterable[JudgeReply]) -> None:
        """Warn as soon as a further judge turns up: `score` will refuse the mixture."""
        before = len(self._judges)
        self._judges.update(reply.judge for reply in replies if not reply.failure)
        if len(self._judges) > max(before, 1):
            self._warn(mixture(self._judges))


def mixture(judges: Mapping[str, int]) -> str:
    """What is said where replies are of several judges.

    Args:
        judges: Replies of each.
    """
    named = ", ".join(f"{number} by {plain(judge) or 'an unnamed one'}" for judge, number in judges.items())
    return (
        f"WARNING: {len(judges)} different judges have replied ({named}), and `score` refuses to mix them. The server "
        "gives several models, or a new snapshot, under one name: stop, name one exact snapshot with `--model`, and "
        "judge all answers with it in a new `--out`."
    )


def _write(path: Path, replies: Iterable[JudgeReply]) -> None:
    """All of them or the old ones."""
    lines = "".join(json.dumps(reply._asdict(), ensure_ascii=False) + "\n" for reply in replies)
    write_whole(path, lines.encode())
