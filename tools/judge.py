r"""`mmalign judge`: rate all answers of a shard set.

    mmalign judge --judge gemini --shards shards/sampled --out shards/judged            key in GEMINI_API_KEY
    mmalign judge --judge openai --model gpt-4o-mini --shards ... --out ... --max_cost 20 \
        --prices.input 0.15 --prices.output 0.6                                         key in OPENAI_API_KEY
    mmalign judge --judge server --url http://localhost:8000/v1 --model llava ...       vLLM, or `mmalign serve`
    mmalign judge --judge reward --adapter runs/dpo/adapter ...                         an adapter's implicit reward
    mmalign judge --judge claims [--url ... --model ...] ...                            RLAIF-V: a model checks claims
    mmalign judge --judge world ...                                                     exact, for the embedded world

Every response keeps the judgments of other judges; the new one becomes the one that views go by. What a judge says of
no use at every try is `invalid`, with the reason. Stopped and run again, the command goes on where it was, and what was
paid for is never asked for again: replies lie in `OUT.replies`, which outlives the command. The key is read from the
environment or a file and is written nowhere.

Tests   tests/tools/test_judge.py, tests/faults/test_judging.py; numbers: benchmarks/judging.py
"""

import inspect
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jsonargparse
from rich.progress import Progress, TaskID

from mmalign.api.endpoint import Prices
from mmalign.api.request import Structured
from mmalign.data.records import RecordFile
from mmalign.data.sample import Judgment, Sample
from mmalign.judges.aspects import WINS
from mmalign.judges.judge import UNANSWERED, Judge, Metered, is_final, preference_of
from mmalign.template import TemplateName

from .judge_choice import JudgeName, check_options, judge_of
from .making import CONSOLE, Making, finish, making
from .progress import progress_bars

RATED_FILE = "rated.jsonl"
WRITE_EVERY_S = 1.0
"""Between two writes of judgments: what is lost with a kill costs a second of work, and no money."""
MAX_NAMED = 10
"""Samples without ratings that are named on the terminal; the shards name all."""


class Rated(NamedTuple):
    """What the judge said of one sample."""

    id: str
    """The sample's key."""
    judgments: list[dict[str, Any]]
    """Of each response, in order."""
    used: dict[str, int | float]
    """Replies, tokens and cost, by name."""


def judge_answers(
    judge: JudgeName,
    shards: str,
    out: Path,
    model: str = "",
    url: str = "",
    aspects: str = "helpsteer",
    name: str = "",
    replies: Path | None = None,
    key_env: str = "",
    key_file: Path | None = None,
    concurrency: int = 16,
    requests_per_minute: float | None = None,
    timeout_s: float = 120.0,
    tries: int = 6,
    max_cost: float | None = None,
    prices: Prices | None = None,
    max_side: int | None = 1024,
    max_tokens: int = 4096,
    temperature: float | None = 0.0,
    structured: Structured = "auto",
    tries_per_reply: int = 3,
    seed: int = 0,
    claims: Literal["model", "sentences", "world"] | None = None,
    noise: float = 0.0,
    checkpoint: str = "embedded",
    adapter: Path | None = None,
    beta: float = 0.1,
    template: TemplateName | None = None,
    pad_images: bool | None = None,
    dtype: Literal["float32", "bfloat16"] = "float32",
    batch_size: int = 8,
    overwrite: bool = False,
) -> None:
    """Rate all answers of a shard set.

    Args:
        judge: Who rates. `gemini`, `openai`: their services. `server`: any OpenAI-compatible one, such as vLLM or
            `mmalign serve`. `reward`: the implicit reward beta * (log p_adapter - log p_base) of an adapter that was
            trained with DPO or its kin; a reward model with a trained scalar head is not there yet. `claims`: a model
            checks the claims of each answer (RLAIF-V), one here, or with `model` or `url` one behind an API. `world`:
            the exact ratings of the embedded world.
        shards: The answers: a folder, an address, or `world` / `world-heldout`, which ship with mmalign.
        out: A new folder for the shards with the ratings. Run again with the same folder to go on.
        model: Of a service or server: which model; left out, gemini-2.5-flash or gpt-4o-mini.
        url: Of a server: its base address, such as http://localhost:8000/v1.
        aspects: What to rate: `helpsteer` (five attributes, 0-4, the paper's), `ultrafeedback` (four, 1-5), `pairwise`
            (two answers at a time in both orders, which hallucinates less; the rating is `wins`, and of two answers the
            one that wins both is preferred), or a YAML file of your own, in the format of
            mmalign/judges/aspect_sets/helpsteer.yaml.
        name: Of the judge, in its judgments; left out, model and aspects. A judgment takes the place of an earlier one
            by the same name.
        replies: Folder of what was paid for; left out, `OUT.replies`. Several sets may share one, one after another.
        key_env: Environment variable that holds the API key; left out, GEMINI_API_KEY or OPENAI_API_KEY, and none for a
            server.
        key_file: A file that holds the API key and nothing else, instead of the variable.
        concurrency: Calls under way at the same time.
        requests_per_minute: Calls, at most, retries included; left out, there is no limit but the server's.
        timeout_s: Seconds that one call may take.
        tries: Calls for one reply, at most, where the server is busy, fails or hangs.
        max_cost: What the replies in `replies` may have cost, earlier ones included. The command stops before it is
            passed, and goes on with a higher one. Needs `prices`.
        prices: Of a million tokens, as on the provider's price list; without them, no cost is shown.
        max_side: Longest side of a picture in pixels; larger ones are sent smaller. null sends all as they are.
        max_tokens: Of a reply, hidden reasoning included.
        temperature: Of the judge. null leaves it to the server: some models take no other than their own.
        structured: Hold the model to the JSON of the ratings: true, false, or auto: if the server can.
        tries_per_reply: Replies to one question, at most, where they cannot be used; then it is invalid.
        seed: Of the order in which answers are shown (`pairwise` shows both), and of `noise`.
        claims: Of `claims`: what cuts an answer into claims. `model`: the model itself, as published; `sentences`: each
            is a claim, for models of few words; `world`: the things of the embedded world, whose model understands no
            other questions. Left out, `model` behind an API, `world` for `--checkpoint embedded`, else `sentences`.
        noise: Of `world`: chance that a rating is drawn anew, to stand for a judge that only reads pictures.
        checkpoint: Of `reward` and `claims`: `embedded`, a folder, or a hub name.
        adapter: Of `reward`: whose reward. Of `claims`: of the model that checks, if it has one.
        beta: Of `reward`: that of the training.
        template: Of `reward` and `claims`: chat format; left out, the one of the training.
        pad_images: Of `reward` and `claims`: pad pictures to a square; left out, as the model was trained.
        dtype: Of `reward` and `claims`: of the base's weights.
        batch_size: Of `reward` and `claims`: samples that run together.
        overwrite: Replace what `out` holds of other settings, instead of refusing.

    Raises:
        FileNotFoundError: No shards, aspects, key file, checkpoint or adapter.
        ValueError: Settings that cannot be, `out` holds something else, the server refuses, or the spend limit is
            reached; what was paid for is kept.
    """
    options = locals()
    check_options(judge, options, inspect.signature(judge_answers))
    rater = judge_of(judge, options)
    with making(shards, out, command="judge", settings=rater.settings(), overwrite=overwrite) as work:
        if work is not None:
            _rate(work, rater)


def _rate(work: Making, rater: Judge) -> None:
    """Judge what is not judged yet, then write all."""
    file: RecordFile[Rated] = work.records(RATED_FILE, Rated)
    keys = [entry.key for entry in work.source.manifest.entries()]
    missing = [number for number, key in enumerate(keys) if key not in file.records]
    with progress_bars() as progress:
        bar = progress.add_task(rater.name, total=len(keys), completed=len(keys) - len(missing), note="")
        journal = _Journal(file, rater, progress, bar)
        try:
            rater.rate((work.source[number] for number in missing), journal.done)
        finally:
            journal.write()
    records = [journal.rated[key] for key in keys]
    counts = _counts(records)
    _say_invalid(work, records)
    if counts["invalid"] > counts["rated"]:
        CONSOLE.print(
            "Most answers have no ratings: see the reasons above. Another model, or more --max_tokens, may do."
        )
    samples = (_judged(work.source[number], record, counts) for number, record in enumerate(records))
    finish(work, samples, counts, following=f"mmalign inspect {work.out}")


class _Journal:
    """Takes judgments as they come, shows how far it is, and writes them once a second."""

    def __init__(self, file: RecordFile[Rated], rater: Judge, progress: Progress, bar: TaskID) -> None:
        self._file, self._rater, self._progress, self._bar = file, rater, progress, bar
        self.rated = dict(file.records)
        self._waiting = list[Rated]()
        self._written = time.monotonic()

    def done(self, sample: Sample, judgments: Sequence[Judgment]) -> None:
        """Take those of one sample."""
        metered = self._rater if isinstance(self._rater, Metered) else None
        used = dict(metered.used_for(sample.key)) if metered else {}
        record = Rated(sample.key, [vars(each) for each in judgments], used)
        self.rated[record.id] = record
        if is_final(judgments):  # what got no reply may get one when the command runs again
            self._waiting.append(record)
        if time.monotonic() - self._written > WRITE_EVERY_S:
            self.write()
        self._progress.update(self._bar, advance=1, note=metered.note() if metered else "")

    def write(self) -> None:
        """Put on disk what is not there yet."""
        if self._waiting:
            self._file.append(self._waiting)
        self._waiting, self._written = [], time.monotonic()


def _judged(sample: Sample, record: Rated, counts: dict[str, int | float]) -> Sample:
    """A sample with the judgments; a pairwise judge's verdict on two answers is its preference, unless it has one."""
    judgments = [Judgment(**each) for each in record.judgments]
    responses = tuple(each.judged(judgment) for each, judgment in zip(sample.responses, judgments, strict=True))
    preference = sample.preference or preference_of(judgments, WINS)
    if sample.preference is None and preference is not None:
        counts["preferences set"] = counts.get("preferences set", 0) + 1
    return replace(sample, responses=responses, preference=preference)


def _counts(records: Sequence[Rated]) -> dict[str, int | float]:
    """Samples, answers rated or invalid, and what that took."""
    judgments = [each for record in records for each in record.judgments]
    invalid = sum(bool(each["invalid"]) for each in judgments)
    counts: dict[str, int | float] = {
        "samples": len(records),
        "answers": len(judgments),
        "rated": len(judgments) - invalid,
        "invalid": invalid,
    }
    for name in dict.fromkeys(name for record in records for name in record.used):
        counts[name] = round(sum(record.used.get(name, 0) for record in records), 6)
    return counts


def _say_invalid(work: Making, records: Sequence[Rated]) -> None:
    """Name samples without ratings, with the reason; a judge's words may be among it, so nothing is taken as markup."""
    reasons = {record.id: each["invalid"] for record in records for each in record.judgments if each["invalid"]}
    for key, reason in list(reasons.items())[:MAX_NAMED]:
        CONSOLE.print(f"invalid: sample {key}: {printable(reason)}")
    if len(reasons) > MAX_NAMED:
        CONSOLE.print(f"and {len(reasons) - MAX_NAMED} samples more; each says why, under `judgments`.")
    if any(reason.startswith(UNANSWERED) for reason in reasons.values()):
        CONSOLE.print(f"Where there was no reply there may be one later: remove {work.out} and run the command again.")


def printable(text: str) -> str:
    """A text without control characters, which a terminal would obey."""
    return "".join(each if each.isprintable() else " " for each in text)


def main(args: Sequence[str] | None = None) -> None:
    """Entry point of `mmalign judge`."""
    jsonargparse.set_parsing_settings(docstring_parse_attribute_docstrings=True)
    jsonargparse.auto_cli(
        judge_answers, args=None if args is None else list(args), as_positional=False, prog="mmalign judge"
    )
