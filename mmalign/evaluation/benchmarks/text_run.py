"""Runs lm_eval's tasks on a model of ours, and keeps every sample's answer and grade.

    run_text(TextKnowledge(tasks=["mmlu"]), load_policy("embedded", adapter), Path("runs/text"), batch_size=16)
        -> runs/text/answers.jsonl, judgments.jsonl; results.json is lm_eval's own summary

    bench.score(*run_text(bench, policy, out), Handling())

Run again it goes on where it was stopped.

Tests   tests/evaluation/benchmarks/test_text_run.py
"""

import importlib.metadata
import json
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mmalign.api.endpoint import Endpoint
from mmalign.data.manifest import write_whole
from mmalign.data.records import RecordFile
from mmalign.evaluation.benchmarks.text import Graded, TextKnowledge
from mmalign.evaluation.steps.records import ANSWERS_FILE, JUDGMENTS_FILE, Answer, JudgeReply
from mmalign.sampling.policy import Policy

REQUESTS_FILE = "requests.jsonl"
REQUESTS_IDENTITY_FILE = "requests.identity.json"
RESULTS_FILE = "results.json"
QUESTION_CHARACTERS = 1000
"""Of a question's end that are shown: before it stand the solved examples."""
LOGGER = logging.getLogger(__name__)


class TextRun(NamedTuple):
    """What `TextKnowledge.score` takes."""

    answers: list[Answer]
    replies: list[list[JudgeReply]]


def run_text(
    bench: TextKnowledge, model: Policy | Endpoint, out: Path, *, batch_size: int = 16, overwrite: bool = False
) -> TextRun:
    """Answer and grade all tasks.

    Args:
        bench: Which tasks, and how.
        model: A checkpoint, with its adapter, or an endpoint, which can only write answers.
        out: Folder of `answers.jsonl` and `judgments.jsonl`; what it holds already is not done again.
        batch_size: Requests that run together; nothing depends on it but speed.
        overwrite: Drop the results of another model or other settings, instead of refusing.

    Raises:
        ValueError: The extra is not installed, a task is unknown or its data is not to be had, or `out` holds something
            else.
    """
    manager = _task_manager(bench)
    version = f"lm_eval {importlib.metadata.version('lm_eval')}"
    own = model.identity() if isinstance(model, Endpoint) else model.identity
    identity = {"lm_eval": version, "chat": str(bench.chat), **own}
    from mmalign.evaluation.benchmarks.text_models import Done, EndpointLM, PolicyLM

    file = RecordFile(out / REQUESTS_FILE, Done, identity, overwrite=overwrite, identity_file=REQUESTS_IDENTITY_FILE)
    name = model.model if isinstance(model, Endpoint) else model.name
    lm = (
        EndpointLM(model, out / "replies")
        if isinstance(model, Endpoint)
        else PolicyLM(model, file, batch_size=batch_size, chat=bench.chat)
    )
    results = _evaluated(bench, lm, manager)
    samples = list(_samples(bench, results))
    answers = [each.answer._replace(model=name) for each in samples]
    replies = [JudgeReply(each.answer.id, each.graded.text(), judge=version) for each in samples]
    _write(out / ANSWERS_FILE, answers)
    _write(out / JUDGMENTS_FILE, replies)
    summary = {each: results[each] for each in ("results", "groups", "versions", "n-shot") if each in results}
    write_whole(out / RESULTS_FILE, json.dumps(summary, indent=1, default=str).encode())
    return TextRun(answers, [replies])


def _task_manager(bench: TextKnowledge) -> Any:
    """lm_eval's, which knows all tasks that are asked for.

    Raises:
        ValueError: The library is not installed, or a task is unknown.
    """
    try:
        from lm_eval.tasks import TaskManager
    except ImportError as error:
        raise ValueError(
            f"Text knowledge is measured by lm_eval: `pip install 'mmalign[lm-eval]'` ({error})."
        ) from error
    if bench.task_definitions:  # the library takes long to read all of its own
        own = TaskManager(include_path=bench.task_definitions, include_defaults=False)
        if bench.tasks and set(bench.tasks) <= set(own.all_subtasks):
            return own
    manager = TaskManager(include_path=bench.task_definitions or None)
    unknown = [name for name in bench.tasks if name not in manager.all_tasks]
    if unknown or not bench.tasks:
        raise ValueError(
            f"lm_eval knows no task {', '.join(unknown) or 'without a name'}. Choose `--tasks` among those that "
            "`lm-eval ls tasks` lists, or give the folder of your own with `--task_definitions`."
        )
    return manager


def _evaluated(bench: TextKnowledge, lm: Any, manager: Any) -> Mapping[str, Any]:
    """lm_eval's results, with samples.

    Raises:
        ValueError: The data of a task is not to be had.
    """
    from lm_eval.evaluator import simple_evaluate

    try:
        results: Mapping[str, Any] = simple_evaluate(
            model=lm,
            tasks=list(bench.tasks),
            task_manager=manager,
            num_fewshot=bench.num_fewshot,
            limit=bench.limit,
            bootstrap_iters=0,
            log_samples=True,
        )
    except OSError as error:
        raise ValueError(
            f"lm_eval cannot read the data of {', '.join(bench.tasks)} ({type(error).__name__}: {error}). Check the "
            "network, or fetch the data on another machine and set HF_HOME to where it lies."
        ) from error
    return results


class _Sample(NamedTuple):
    answer: Answer
    graded: Graded


def _samples(bench: TextKnowledge, results: Mapping[str, Any]) -> Iterator[_Sample]:
    """Every document once, with the metrics of all filters."""
    asked_for = {task: name for name in bench.tasks for task in _leaves(name, results.get("group_subtasks", {}))}
    for task, rows in results["samples"].items():
        by_document: dict[int, list[Mapping[str, Any]]] = {}
        for row in rows:
            by_document.setdefault(row["doc_id"], []).append(row)
        values = {number: _values(each) for number, each in by_document.items()}
        kept = _means(task, values, results["results"][task])
        better = results.get("higher_is_better", {}).get(task, {})
        higher = [key for key in kept if better.get(key.partition(",")[0], True)]
        if not kept:
            LOGGER.warning("%s: none of its metrics is a mean over samples; see results.json.", task)
            continue
        for number, each in by_document.items():
            metrics = {key: values[number][key] for key in kept if key in values[number]}
            graded = _graded(each[0], task, asked_for.get(task, task))._replace(metrics=metrics, higher=higher)
            yield _Sample(Answer(f"{task}/{number}", (_said(each[0]),)), graded)


def _leaves(name: str, groups: Mapping[str, Sequence[str]]) -> list[str]:
    below = [task for task in groups.get(name, ()) if task != name]
    return [leaf for task in below for leaf in _leaves(task, groups)] or [name]


def _values(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Numbers of one document, by lm_eval's key."""
    return {
        f"{metric},{row['filter']}": float(row[metric])
        for row in rows
        for metric in row["metrics"]
        if isinstance(row[metric], int | float)  # NumPy's float is one
    }


def _means(task: str, values: Mapping[int, Mapping[str, float]], summary: Mapping[str, Any]) -> list[str]:
    """Keys of the metrics that are means over documents: those whose mean is what lm_eval says."""
    kept, left = list[str](), list[str]()
    for key in dict.fromkeys(key for each in values.values() for key in each):
        own = [each[key] for each in values.values() if key in each]
        said = summary.get(key)
        mean = math.fsum(own) / len(own)
        same = isinstance(said, int | float) and math.isclose(mean, said, rel_tol=1e-9, abs_tol=1e-12)
        (kept if same else left).append(key)
    if left:
        LOGGER.warning("%s: %s are no means over samples; see results.json.", task, ", ".join(left))
    return kept


def _graded(row: Mapping[str, Any], task: str, of: str) -> Graded:
    context = str(row["arguments"][0][0])
    return Graded(
        task=task,
        of=of,
        metrics={},
        higher=(),
        question=context[-QUESTION_CHARACTERS:],
        expected=_expected(row),
        generated=not _is_choice(row),
    )


def _is_choice(row: Mapping[str, Any]) -> bool:
    """Whether its replies are log-likelihoods of given texts."""
    return not isinstance(row["filtered_resps"][0], str)


def _said(row: Mapping[str, Any]) -> str:
    if not _is_choice(row):
        return str(row["filtered_resps"][0])
    likelihoods = [reply[0] if isinstance(reply, list | tuple) else reply for reply in row["filtered_resps"]]
    best = max(range(len(likelihoods)), key=lambda i: float(likelihoods[i]))
    arguments = row["arguments"][best]
    return str(arguments[1] if len(arguments) > 1 else arguments[0]).strip()


def _expected(row: Mapping[str, Any]) -> str:
    target = row["target"]
    if _is_choice(row) and isinstance(target, int) and 0 <= target < len(row["arguments"]):
        return str(row["arguments"][target][-1]).strip()
    return str(target)


def _write(path: Path, records: Sequence[Answer] | Sequence[JudgeReply]) -> None:
    lines = "".join(json.dumps(each._asdict(), ensure_ascii=False) + "\n" for each in records)
    write_whole(path, lines.encode())
