"""`mmalign evaluate`: what alignment gained and what it cost.

    mmalign evaluate --adapter runs/dpo/adapter --out runs/dpo/evaluation           the embedded world: no data or judge
    mmalign evaluate --suite paper --data benchmarks --adapter ... --out ... --judge.model gpt-4-0613
    mmalign evaluate --suite preferences --shards shards/mine --adapter ... --out ...

Or step by step, for one benchmark; each step goes on where it was stopped, and takes the files that others published:

    mmalign evaluate generate mm_vet --questions mm-vet.json --images images --adapter dpo/adapter --out runs/mm_vet
    mmalign evaluate judge    mm_vet --questions mm-vet.json --answers runs/mm_vet --out runs/mm_vet --model gpt-4-0613
    mmalign evaluate score    mm_vet --questions mm-vet.json --judgments runs/mm_vet --out runs/mm_vet

Tests   tests/tools/test_evaluate.py, tests/tools/test_evaluate_score.py, tests/tools/test_evaluate_suite.py
"""

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from importlib import import_module
from typing import Any

import jsonargparse
from jsonargparse import ArgumentParser

from mmalign.evaluation.benchmarks.registry import BENCHMARKS, benchmark_class

STEPS: Mapping[str, tuple[str, str]] = {
    "generate": (".generate.generate_answers", "let a model answer: answers.jsonl"),
    "judge": (".judge.judge_answers", "let a judge grade the answers: judgments.jsonl"),
    "score": (".score.score_answers", "score by the official rule, offline: score.json, scores.jsonl"),
}
"""Function behind a step, and what it makes."""
FILES = ("--judgments", "--replay")
"""Options that take one file or several."""
SUITES: Mapping[str, str] = {
    "world": "the embedded world: no data, no judge; what is run where no suite is named",
    "preferences": "held-out preference pairs: `--shards DIR`",
    "paper": "the paper's benchmarks, and what the field asks besides: `--data DIR`, a judge",
    "embedded": "the embedded world in the form of a suite",
    "FILE": "benchmarks of your own choice, see configs/suites/paper.yaml",
}
WHOLE = ("world", "preferences")
"""Suites that need no benchmark's data: both models in one set of weights."""


def main(args: Sequence[str] | None = None) -> object:
    """Entry point of `mmalign evaluate`.

    Args:
        args: The command line behind it; None takes it from the shell.
    """
    given = list(sys.argv[2:] if args is None else args)
    if not given or given[0] in ("-h", "--help"):
        print(usage())
        sys.exit(0)  # as the help of every command ends
    jsonargparse.set_parsing_settings(docstring_parse_attribute_docstrings=True)
    if given and given[0] in STEPS:
        return _step(given[0], given[1:])
    if given and not given[0].startswith("-"):
        raise ValueError(
            f"`mmalign evaluate` has no step {given[0]!r}: {', '.join(STEPS)}, or options such as `--suite`."
        )
    suite = _suite_of(given)
    name = ".before_after.evaluate" if suite in WHOLE else ".suite.evaluate_suite"
    return jsonargparse.auto_cli(_found(name), args=given, as_positional=False, prog="mmalign evaluate")


def _suite_of(args: Sequence[str]) -> str:
    """The value of `--suite`."""
    for i, arg in enumerate(args):
        if arg.startswith("--suite="):
            return arg.removeprefix("--suite=")
        if arg == "--suite" and i + 1 < len(args):
            return args[i + 1]
    return WHOLE[0]


def _step(step: str, args: Sequence[str]) -> object:
    """Run one step for one benchmark: its data and settings stand beside the options of the step."""
    name, *given = args or ["--help"]
    if name in ("-h", "--help"):
        print(_usage(step))
        return None
    kind, work = benchmark_class(name), _found(STEPS[step][0])
    if step == "judge" and not _is_judged(kind):
        raise ValueError(f"{kind.title} is scored without a judge: leave this step out, go on with `score`.")
    parser = ArgumentParser(prog=f"mmalign evaluate {step} {name}", description=f"{kind.title}: {STEPS[step][1]}")
    parser.add_class_arguments(kind)
    parser.add_function_arguments(work, as_positional=False, skip={"bench"})
    options: dict[str, Any] = parser.instantiate_classes(parser.parse_args(_listed(given))).as_dict()
    settings = {each.name: options.pop(each.name) for each in fields(kind)}
    return work(kind(**settings), **options)


def _listed(args: Sequence[str]) -> list[str]:
    """`--judgments a b` as `--judgments=["a", "b"]`, which a list of files is to the parser."""
    found, files = list[str](), dict[str, list[str]]()
    option = ""
    for arg in args:
        if arg.startswith("--"):
            option, _, value = arg.partition("=")
            if option in FILES:
                files.setdefault(option, []).extend([value] if value else [])
                continue
        elif option in FILES:
            files[option].append(arg)
            continue
        found.append(arg)
    return found + [f"{option}={_list(names)}" for option, names in files.items()]


def _list(names: Sequence[str]) -> str:
    """In JSON; a list that somebody typed is one already."""
    return names[0] if len(names) == 1 and names[0].startswith("[") else json.dumps(names)


def usage() -> str:
    """All that `mmalign evaluate` can do."""
    steps = "\n".join(f"  {step:12} {about}" for step, (_, about) in STEPS.items())
    suites = "\n".join(f"  {suite:12} {about}" for suite, about in SUITES.items())
    return (
        "usage: mmalign evaluate [--suite SUITE] --adapter DIR --out DIR [options]\n"
        "       mmalign evaluate STEP BENCHMARK [options]\n\n"
        f"Base against aligned, paired, on a whole suite:\n\n{suites}\n\n"
        f"Or one step for one benchmark, of files of your own or published ones:\n\n{steps}\n\n"
        "`mmalign evaluate --suite paper --help` shows a suite's options, `mmalign evaluate score --help` the "
        "benchmarks,\nand `mmalign evaluate score pope --help` the options of a step."
    )


def _is_judged(kind: type[Any]) -> bool:
    """Whether answers to a benchmark wait for a judge: not for a rule, nor for a library that grades as it asks."""
    return hasattr(kind, "judge") and not hasattr(kind, "ask_by_library")


def _usage(step: str) -> str:
    """All benchmarks that have this step."""
    kinds = {name: benchmark_class(name) for name in BENCHMARKS}
    lines = "\n".join(
        f"  {name:16} {kind.title}" for name, kind in kinds.items() if step != "judge" or _is_judged(kind)
    )
    return (
        f"usage: mmalign evaluate {step} BENCHMARK [options]\n\nOne step: {STEPS[step][1]}.\n\n{lines}\n\n"
        f"`mmalign evaluate {step} BENCHMARK --help` shows its options."
    )


def _found(name: str) -> Callable[..., Any]:
    module, _, function = name.rpartition(".")
    found: Callable[..., Any] = getattr(import_module(module, __package__), function)
    return found
