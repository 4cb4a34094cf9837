r"""`mmalign evaluate --suite`: benchmarks on base and aligned, from answers to the table of differences.

    mmalign evaluate --suite paper --data benchmarks --checkpoint llava-hf/llava-1.5-13b-hf \
        --adapter runs/dpo/adapter --out runs/dpo/suite --judge.model gpt-4-0613
    mmalign report --evaluation runs/dpo/suite

    runs/dpo/suite/base/mm_vet/answers.jsonl, judgments.jsonl, score.json, scores.jsonl
    runs/dpo/suite/aligned/mm_vet/...
    runs/dpo/suite/suite.json, comparisons.json

A suite is a file of benchmarks with their data, see configs/suites/paper.yaml. Stopped and run again, it goes on where
it was; a benchmark that cannot be run or scored is named at the end, the others are there.

Tests   tests/tools/test_evaluate_suite.py
"""

import json
import platform
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from inspect import signature
from pathlib import Path
from typing import Any, Literal, NamedTuple

from rich.console import Console

from mmalign.api.endpoint import Endpoint, Prices
from mmalign.evaluation.scores import write_whole
from mmalign.evaluation.steps.benchmark import JudgedBenchmark
from mmalign.evaluation.steps.faults import Handling
from mmalign.evaluation.steps.generating import Answerer, generate
from mmalign.evaluation.steps.judging import LibraryJudged
from mmalign.evaluation.steps.reading import read_answers, read_runs
from mmalign.evaluation.steps.records import JUDGMENTS_FILE, SCORE_FILE, JudgeReply
from mmalign.evaluation.suite.results import SUITE_FILE, SuiteResults, read_suite
from mmalign.evaluation.suite.table import suite_table

from ..progress import progress_bars
from .judge import judge_answers
from .suite_file import Entry, read_suite_file
from .suite_models import SIDES, Local, Served, Who, answerer, training

CONSOLE = Console(soft_wrap=True, highlight=False, markup=False)
PACKAGES = ("mmalign", "torch", "transformers", "peft")
Failed = dict[str, str]
"""Why a benchmark has no score, by its name."""


class Earlier(NamedTuple):
    """Benchmarks of an earlier start, with `--only` of others."""

    benchmarks: list[str]
    failed: Failed


@dataclass(frozen=True, kw_only=True)
class Judge:
    """Who grades all benchmarks that have a judge, as in `mmalign evaluate judge`."""

    model: str = ""
    """Left out, each benchmark's own: the one that graded its published numbers. Name an exact snapshot."""
    url: str = ""
    """Base address of an OpenAI-compatible server; left out, OpenAI's own."""
    runs: int = 1
    """How often all answers are graded; from several, scores get a deviation."""
    key_env: str = ""
    """Environment variable that holds the API key; left out, OPENAI_API_KEY for OpenAI, none elsewhere."""
    key_file: Path | None = None
    """A file that holds the API key, instead of the variable."""
    concurrency: int = 16
    """Calls under way at the same time."""
    requests_per_minute: float | None = None
    """At most, retries included."""
    timeout_s: float = 120.0
    """Seconds that one call may take."""
    tries: int = 6
    """Calls for one reply, at most, where the server is busy, fails or hangs."""
    max_cost: float | None = None
    """What all replies of one benchmark and model may cost; needs `prices`."""
    prices: Prices | None = None
    """Of a million tokens."""


def evaluate_suite(
    suite: str,
    out: Path,
    adapter: Path | None = None,
    data: Path | None = None,
    only: list[str] = [],  # noqa: B006, read only
    checkpoint: str = "embedded",
    template: Literal["vicuna_v1", "llava_hf"] | None = None,
    pad_images: bool | None = None,
    dtype: Literal["float32", "bfloat16"] = "float32",
    attributes: dict[str, int] | None = None,
    served: Served | None = None,
    base_folder: Path | None = None,
    judge: Judge = Judge(),
    batch_size: int = 16,
    seed: int = 0,
    compat: Literal["strict", "official"] = "strict",
    on_bad: Literal["error", "count"] = "error",
    resamples: int = 10_000,
    overwrite: bool = False,
) -> SuiteResults:
    """Run benchmarks on base and aligned, and compare the two, paired.

    Args:
        suite: `paper`: all of the paper's, and what the field asks besides. `embedded`: the embedded world, without
            data or judge. Or a YAML file of benchmarks with their data, see configs/suites/paper.yaml.
        out: Where everything goes. Run again with the same folder to go on.
        adapter: The aligned model's PEFT directory, as `mmalign export` writes it.
        data: Folder of the benchmarks' data; the suite's file says what is looked for there.
        only: Some of the suite's benchmarks, such as `[pope, mm_vet]`.
        checkpoint: The base: `embedded`, a folder, or a hub name.
        template: Chat format of both; left out, the one that the adapter was trained with.
        pad_images: Pad pictures to a square; left out, as the adapter was trained.
        dtype: Of the base's weights.
        attributes: What to ask an adapter of SteerLM for, instead of what its export says.
        served: Both models on a server, instead of `adapter` and `checkpoint`.
        base_folder: A folder for the base's answers and judgments, for several adapters to share; left out, `OUT/base`.
        judge: Who grades.
        batch_size: Questions that run together.
        seed: Of answers that are drawn, and of the bootstrap.
        compat: See `mmalign evaluate score`.
        on_bad: See `mmalign evaluate score`; pictures included.
        resamples: Bootstrap draws for the intervals.
        overwrite: Drop answers and judgments of other models, questions or judges, instead of refusing to mix them.

    Raises:
        FileNotFoundError: No suite, checkpoint or adapter.
        ValueError: Settings that cannot be; or, when all else is done, benchmarks that have no score, and why.
    """
    models = _models(locals())
    benches = read_suite_file(suite, data, only)
    _check(benches, judge, resamples)
    scores: Mapping[Who, Path] = {who: out / who for who in SIDES}
    folders = {**scores, "base": base_folder or out / "base"}
    for folder in scores.values():
        for name in benches:  # of an earlier start: no longer what they say, until they are made again
            (folder / name / SCORE_FILE).unlink(missing_ok=True)
    failed: Failed = {}
    _each(benches, failed, out, _read)
    identities = dict[Who, Mapping[str, str]]()
    for who in SIDES:
        asked = answerer(who, models, folders[who], seed)
        identities[who] = {"name": asked.name, **asked.identity, **training(asked)}
        _each(benches, failed, folders[who], partial(_answer, asked=asked, on_bad=on_bad, overwrite=overwrite))
    handling = Handling(compat=compat, on_bad=on_bad)
    for who in SIDES:
        _each(benches, failed, folders[who], partial(_judge, judge=judge, overwrite=overwrite))
        _each(benches, failed, folders[who], partial(_score, scores=scores[who], handling=handling))
    earlier = _earlier(out, benches)
    record: dict[str, object] = {
        "suite": suite,
        "base": identities["base"],
        "aligned": identities["aligned"],
        "benchmarks": [*earlier.benchmarks, *benches],
        "failed": earlier.failed | failed,
        "lineage": _lineage(seed, compat, on_bad),
    }
    write_whole(out / SUITE_FILE, json.dumps(record, indent=1, ensure_ascii=False) + "\n")
    results = read_suite(out, resamples=resamples, seed=seed)
    CONSOLE.print(suite_table(results))
    CONSOLE.print(f"{out / SUITE_FILE}; a page of it: mmalign report --evaluation {out}")
    if failed:
        reasons = "\n".join(f"  {name}: {reason}" for name, reason in failed.items())
        raise ValueError(
            f"{len(failed)} of {len(benches)} benchmarks have no score:\n{reasons}\nMend that and run the same command "
            "again: the others are done, and what these have is kept."
        )
    return results


def _each(benches: Mapping[str, Entry], failed: Failed, folder: Path, work: Callable[[Entry, Path], None]) -> None:
    """Do one step of every benchmark that has come so far; why one cannot is kept for the end."""
    for name, entry in benches.items():
        if name not in failed:
            try:
                work(entry, folder / name)
            except (FileNotFoundError, ValueError) as error:
                failed[name] = str(error)
                CONSOLE.print(f"{entry.title}: {error}")


def _models(options: Mapping[str, Any]) -> Local | Served:
    """Both models.

    Raises:
        ValueError: The aligned one is not named, or named twice; or an option that a server does not obey.
    """
    served: Served | None = options["served"]
    if (options["adapter"] is None) == (served is None):
        raise ValueError("Name the aligned model: either `--adapter DIR`, or `--served.url` and `--served.aligned`.")
    given = {name: options[name] for name in Local.__dataclass_fields__}
    if served is None:
        return Local(**given)
    defaults = signature(evaluate_suite).parameters
    if unused := [f"`--{name}`" for name, value in given.items() if value != defaults[name].default]:
        raise ValueError(f"A server has its own: leave {', '.join(unused)} out with `--served.url`.")
    return served


def _check(benches: Mapping[str, Entry], judge: Judge, resamples: int) -> None:
    """Raise where the last steps could not be taken, before the first costs anything."""
    for name, value in {"judge.runs": judge.runs, "resamples": resamples}.items():
        if value < 1:
            raise ValueError(f"`--{name}` must be 1 or more, got {value}.")
    for kind in (type(entry.bench) for entry in benches.values()):  # an instance would read its data to be looked at
        if hasattr(kind, "judge") and not hasattr(kind, "ask_by_library"):
            given = {name: value for name, value in vars(judge).items() if name in Endpoint.__dataclass_fields__}
            Endpoint(**given | {"model": judge.model or kind.judge}).key()


def _earlier(out: Path, benches: Mapping[str, Entry]) -> Earlier:
    """What an earlier start with other benchmarks left here."""
    path = out / SUITE_FILE
    record = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return Earlier(
        [name for name in record.get("benchmarks", ()) if name not in benches],
        {name: reason for name, reason in record.get("failed", {}).items() if name not in benches},
    )


def _read(entry: Entry, folder: Path) -> None:
    """Read the questions, and what the judge is told: what is not there is named before the first answer."""
    entry.bench.asks()
    if isinstance(entry.bench, JudgedBenchmark):
        entry.bench.calls([])


def _answer(entry: Entry, folder: Path, *, asked: Answerer, on_bad: Literal["error", "count"], overwrite: bool) -> None:
    with progress_bars() as bars:
        bar = bars.add_task(f"{entry.title}: answers of {asked.name}", total=None, note="")
        generate(
            entry.bench,
            asked,
            folder,
            on_bad=on_bad,
            overwrite=overwrite,
            progress=lambda done, total: bars.update(bar, completed=done, total=total),
        )


def _judge(entry: Entry, folder: Path, *, judge: Judge, overwrite: bool) -> None:
    """Have the answers judged, where anything is asked of a judge."""
    bench = entry.bench
    if isinstance(bench, JudgedBenchmark) and (
        isinstance(bench, LibraryJudged) or bench.calls(read_answers(bench, str(folder)))
    ):
        judge_answers(bench, str(folder), folder, **vars(judge), overwrite=overwrite)


def _score(entry: Entry, folder: Path, *, scores: Path, handling: Handling) -> None:
    bench = entry.bench
    answers, replies = read_answers(bench, str(folder)), list[list[JudgeReply]]()
    if isinstance(bench, JudgedBenchmark) and (folder / JUDGMENTS_FILE).is_file():
        replies = read_runs(bench, str(folder))
    replace(bench.score(answers, replies, handling), title=entry.title).write(scores / folder.name)


def _lineage(seed: int, compat: str, on_bad: str) -> dict[str, str]:
    settings = {"seed": str(seed), "compat": compat, "on_bad": on_bad}
    return settings | {name: version(name) for name in PACKAGES} | {"python": platform.python_version()}
