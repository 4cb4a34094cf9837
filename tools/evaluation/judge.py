r"""`mmalign evaluate judge`: let a model grade the answers to a benchmark, or replay judgments that are stored.

    mmalign evaluate judge mm_vet --questions mm-vet.json --answers runs/mm_vet --out runs/mm_vet \
        --max_cost 5 --prices.input 30 --prices.output 60                     gpt-4-0613, key in OPENAI_API_KEY
    mmalign evaluate judge mm_vet ... --url http://localhost:8000/v1 --model judge --runs 3      vLLM, `mmalign serve`
    mmalign evaluate judge mm_vet ... --replay llava-v1.5-7b_gpt-4-grade-3runs.json              nobody is asked

Stopped and run again, the command goes on where it was, and what was paid for is never asked for again: replies lie in
`OUT/replies/judgments`. The key is read from the environment or a file and is written nowhere.

Tests   tests/tools/test_evaluate_judge.py, tests/faults/test_evaluating.py
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from inspect import signature
from pathlib import Path
from typing import Any

from rich.console import Console

from mmalign.api.endpoint import Endpoint, Prices
from mmalign.api.faults import plain
from mmalign.evaluation.steps.benchmark import JudgedBenchmark
from mmalign.evaluation.steps.graders import EndpointGrader, ReplayGrader
from mmalign.evaluation.steps.judging import Grader, LibraryJudged, is_final, judge, judge_by_library, mixture
from mmalign.evaluation.steps.reading import read_answers, read_runs
from mmalign.evaluation.steps.records import JUDGMENTS_FILE, Answer, JudgeReply

from ..progress import progress_bars

CONSOLE = Console(soft_wrap=True, highlight=False, markup=False)
REPLIES = Path("replies") / "judgments"
"""In OUT: what was paid for."""
OF_A_REPLAY = ("bench", "answers", "out", "replay", "overwrite")
OF_CALLS = ("temperature", "max_tokens", "replies")
"""What a library that asks by itself has its own way of."""
MAX_NAMED = 5
"""Failures that are named on the terminal; the file names all."""


def judge_answers(
    bench: JudgedBenchmark,
    answers: str,
    out: Path,
    model: str = "",
    url: str = "",
    replay: list[str] | None = None,
    runs: int = 1,
    temperature: float | None = None,
    max_tokens: int | None = None,
    replies: Path | None = None,
    key_env: str = "",
    key_file: Path | None = None,
    concurrency: int = 16,
    requests_per_minute: float | None = None,
    timeout_s: float = 120.0,
    tries: int = 6,
    max_cost: float | None = None,
    prices: Prices | None = None,
    overwrite: bool = False,
) -> list[Path]:
    """Let a judge grade the answers to a benchmark; `mmalign evaluate score` makes numbers of it.

    Args:
        bench: The benchmark.
        answers: The folder of `mmalign evaluate generate`, or a file in the layout that the benchmark publishes.
        out: Folder for `judgments.jsonl`, and `judgments.1.jsonl` ... of further runs; may be that of the answers. Run
            again with the same folder to go on.
        model: The judge; left out, the one that graded the published numbers. Name an exact snapshot, such as
            gpt-4-0613: grades of different ones cannot be compared.
        url: Base address of an OpenAI-compatible server, such as http://localhost:8000/v1; left out, OpenAI's own.
        replay: Stored judgments to take instead of asking: files of ours, or in the layout that the benchmark
            publishes; several are runs. What is not stored is counted as a failure.
        runs: How often to grade all answers; each run asks anew, so that the score has a deviation. Of an earlier
            start with more runs, the further ones are dropped; their replies are kept.
        temperature: Of the judge, at every try; left out, as the benchmark's rule has it.
        max_tokens: Of a reply; left out, as the benchmark's rule has it, which may be too few for a judge that thinks
            before it speaks.
        replies: Folder of what was paid for; left out, `OUT/replies/judgments`. Several may share one, one after
            another.
        key_env: Environment variable that holds the API key; left out, OPENAI_API_KEY for OpenAI's own address, and
            none for another.
        key_file: A file that holds the API key and nothing else, instead of the variable.
        concurrency: Calls under way at the same time.
        requests_per_minute: Calls, at most, retries included; left out, there is no limit but the server's.
        timeout_s: Seconds that one call may take.
        tries: Calls for one reply, at most, where the server is busy, fails or hangs.
        max_cost: What the replies in `replies` may have cost, earlier ones included. The command stops before it is
            passed, and goes on with a higher one. Needs `prices`.
        prices: Of a million tokens, as on the provider's price list; without them, no cost is shown.
        overwrite: Drop what `out` holds of another judge or protocol, instead of refusing.

    Returns:
        The files, run for run.

    Raises:
        FileNotFoundError: No answers, no stored judgments, or no key file.
        ValueError: Settings that cannot be, `out` holds the judgments of another judge, the server refuses, or the
            spend limit is reached; what was paid for is kept.
    """
    options = locals()
    _check(bench, options)
    given = read_answers(bench, answers)
    stored = [run for place in replay or () for run in read_runs(bench, place)]
    if unanswered := sum(bool(each.failure) for each in given):
        CONSOLE.print(f"{unanswered} of {len(given)} answers are failures of the model: no judge is asked about them.")
    files = _files(out, len(stored) if replay is not None else runs)
    if replay is not None:
        found = [_judged(bench, given, ReplayGrader(each), out, run, overwrite) for run, each in enumerate(stored)]
    elif isinstance(bench, LibraryJudged):
        endpoint = _endpoint(bench, options)
        found = [judge_by_library(bench, given, endpoint, out, run=run, overwrite=overwrite) for run in range(runs)]
    else:
        grader = EndpointGrader(_endpoint(bench, options), replies or out / REPLIES, temperature, max_tokens)
        found = [_judged(bench, given, grader, out, run, overwrite) for run in range(runs)]
        _say_asked(bench, grader)
    _drop_further_runs(out, files)
    return [_said(bench, each, file) for each, file in zip(found, files, strict=True)]


def _check(bench: JudgedBenchmark, options: Mapping[str, Any]) -> None:
    """Raise where an option is given that is not obeyed, or makes no sense."""
    defaults = {name: each.default for name, each in signature(judge_answers).parameters.items()}
    changed = {name for name, value in options.items() if value != defaults[name]}
    refused, by = sorted(changed - set(OF_A_REPLAY)), "A replay asks nobody, and"
    if options["replay"] is None:
        refused, by = sorted(changed & set(OF_CALLS)), f"The library of {bench.title} asks in its own way, and"
        if not isinstance(bench, LibraryJudged):
            refused = []
    if refused:
        raise ValueError(f"{by} does not obey {', '.join(f'`--{name}`' for name in refused)}: leave it out.")
    for name in ("runs", "max_tokens"):
        if options[name] is not None and options[name] < 1:
            raise ValueError(f"`--{name}` must be 1 or more, got {options[name]}.")


def _endpoint(bench: JudgedBenchmark, options: Mapping[str, Any]) -> Endpoint:
    given = {name: options[name] for name in set(Endpoint.__dataclass_fields__) & set(options)}
    return Endpoint(**given | {"model": options["model"] or bench.judge})


def _judged(
    bench: JudgedBenchmark, answers: Sequence[Answer], grader: Grader, out: Path, run: int, overwrite: bool
) -> list[JudgeReply]:
    """One run, with a bar."""
    with _progress(grader, run) as progress:
        return judge(bench, answers, grader, out, run=run, overwrite=overwrite, progress=progress, warn=CONSOLE.print)


@contextmanager
def _progress(grader: Grader, run: int) -> Iterator[Callable[[int, int], None]]:
    """A bar; where calls are paid for, with what they took."""
    with progress_bars() as bars:
        bar = bars.add_task(f"{grader.name}{f', run {run}' if run else ''}", total=None, note="")

        def show(done: int, total: int) -> None:
            note = grader.usage.note() if isinstance(grader, EndpointGrader) else ""
            bars.update(bar, completed=done, total=total, note=note)

        yield show


def _files(out: Path, runs: int) -> list[Path]:
    """The file of each run."""
    first = out / JUDGMENTS_FILE
    return [first, *(first.with_suffix(f".{run}.jsonl") for run in range(1, runs))]


def _drop_further_runs(out: Path, files: Sequence[Path]) -> None:
    """Delete the runs of an earlier start that had more; what was paid for stays in the replies."""
    for other in set(out.glob(f"{Path(JUDGMENTS_FILE).stem}.*.jsonl")) - set(files):
        other.unlink()
        other.with_suffix(".identity.json").unlink(missing_ok=True)


def _say_asked(bench: JudgedBenchmark, grader: EndpointGrader) -> None:
    """What it took, and what the numbers may be compared with."""
    CONSOLE.print(f"{grader.usage.note()}; {grader.usage.reused} replies were kept from before.")
    if grader.num_cut:
        CONSOLE.print(
            f"{grader.num_cut} replies were cut at the token limit and hold no score: `--max_tokens` allows more, in a "
            "new `--out`."
        )
    if grader.name != bench.judge:
        CONSOLE.print(
            f"Published numbers of {bench.title} were graded by {bench.judge}: compare these only with others by "
            f"{grader.name}."
        )


def _said(bench: JudgedBenchmark, replies: Sequence[JudgeReply], file: Path) -> Path:
    """Say what came of one run: how many can be scored, and why others cannot."""
    failed = {reply.id: reply.failure for reply in replies if reply.failure}
    unreadable = [reply.id for reply in replies if not reply.failure and not bench.is_usable(reply.text)]
    judges = Counter(reply.judge for reply in replies if not reply.failure)
    by = ", ".join(plain(name) or "an unnamed judge" for name in judges) or "nobody"
    CONSOLE.print(
        f"{file}: {len(replies) - len(failed) - len(unreadable)} of {len(replies)} answers judged by {by}; "
        f"{len(failed)} failed, {len(unreadable)} without a score."
    )
    for name, reason in list(failed.items())[:MAX_NAMED]:
        CONSOLE.print(f"  failed: {name}: {plain(reason)}")
    if not all(map(is_final, replies)):
        CONSOLE.print("Where there was no reply there may be one later: run the same command again.")
    if unreadable:
        CONSOLE.print(f"  without a score: {', '.join(unreadable[:MAX_NAMED])}")
    if len(judges) > 1:
        CONSOLE.print(mixture(judges))
    return file
