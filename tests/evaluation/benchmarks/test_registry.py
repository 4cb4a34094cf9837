"""Whatever a benchmark needs to stand on the command line beside the others."""

import ast
import inspect
import subprocess
import sys
from dataclasses import fields, is_dataclass

import pytest

from mmalign.evaluation.benchmarks.registry import BENCHMARKS, benchmark_class
from mmalign.evaluation.steps.benchmark import Benchmark, JudgedBenchmark, SeveralRuns
from mmalign.tools.evaluation.command import main
from mmalign.tools.evaluation.generate import generate_answers
from mmalign.tools.evaluation.judge import judge_answers
from mmalign.tools.evaluation.score import score_answers

STEPS = (generate_answers, judge_answers, score_answers)
OF_SUITES = {"data", "suite"}
WITH_TORCH = {"text_run", "text_models"}
"""Modules that run a model."""

every_benchmark = pytest.mark.parametrize("name", BENCHMARKS)


def members(protocol: type) -> set[str]:
    return {
        name
        for base in protocol.__mro__
        for name in {*vars(base), *vars(base).get("__annotations__", ())}
        if not name.startswith("_")
    }


def documented(kind: type) -> dict[str, str]:
    """The string under each field, of the class and of those that it extends."""
    found: dict[str, str] = {}
    for base in reversed(kind.__mro__[:-1]):
        (tree,) = ast.parse(inspect.getsource(base)).body
        assert isinstance(tree, ast.ClassDef)
        for node, below in zip(tree.body, tree.body[1:], strict=False):
            if isinstance(node, ast.AnnAssign) and isinstance(below, ast.Expr):
                found[ast.unparse(node.target)] = ast.literal_eval(below.value)
    return found


@every_benchmark
def test_it_is_a_frozen_keyword_only_dataclass_that_is_named_by_its_key(name):
    kind = benchmark_class(name)
    assert is_dataclass(kind)
    assert kind.__dataclass_params__.frozen
    assert all(each.kw_only for each in fields(kind))
    assert kind.name == name
    assert kind.title


@every_benchmark
def test_it_has_all_that_the_steps_ask_of_it_with_the_same_arguments(name):
    """What has anything of a judged benchmark has all of it."""
    kind = benchmark_class(name)
    of_judges = members(JudgedBenchmark) - members(Benchmark)
    promised = JudgedBenchmark if of_judges & {*dir(kind)} else Benchmark
    promised = SeveralRuns if hasattr(kind, "read_runs") else promised
    assert members(promised) <= {*dir(kind)}
    for member in members(promised):
        if inspect.isfunction(asked := getattr(promised, member, None)):
            assert [*inspect.signature(getattr(kind, member)).parameters] == [*inspect.signature(asked).parameters]


@every_benchmark
def test_its_fields_are_no_options_of_a_step(name):
    """They stand side by side on one command line."""
    taken = {parameter for step in STEPS for parameter in inspect.signature(step).parameters} | OF_SUITES
    assert not taken & {each.name for each in fields(benchmark_class(name))}


@every_benchmark
def test_its_help_has_what_is_written_under_each_field(name, capsys):
    kind = benchmark_class(name)
    with pytest.raises(SystemExit):
        main(["score", name, "--help"])
    shown = "".join(capsys.readouterr().out.split())
    texts = documented(kind)
    assert not [each.name for each in fields(kind) if "".join(texts[each.name].split()) not in shown]
    assert all(f"--{each.name}" in shown for each in fields(kind))


def test_an_unknown_one_is_told_all():
    with pytest.raises(ValueError, match=r"^No benchmark 'mmvet'\. There are pope, .*mm_vet.*, world\.$"):
        benchmark_class("mmvet")


def test_none_brings_torch_before_a_model_runs():
    """Scoring must start at once, on a machine that has no torch."""
    code = f"""
import importlib, pkgutil, sys
from mmalign.evaluation import benchmarks
names = {{each.name for each in pkgutil.iter_modules(benchmarks.__path__)}} - {WITH_TORCH}
for name in sorted(names):
    importlib.import_module(f"mmalign.evaluation.benchmarks.{{name}}")
    assert "torch" not in sys.modules, name
print(len(names))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= len(BENCHMARKS)
