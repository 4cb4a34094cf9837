"""A suite: which benchmarks, with which data.

    mm_vet:
      questions: "{data}/mm-vet/mm-vet.json"      # {data} is the folder of `--data`
    alpaca_eval_2:                                # a benchmark by another name, as it stands there twice
      benchmark: alpaca_eval
      title: AlpacaEval 2
      version: 2

Tests   tests/tools/test_evaluate_suite.py
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import jsonargparse
import yaml

from mmalign.configs import find
from mmalign.evaluation.benchmarks.registry import benchmark_class
from mmalign.evaluation.steps.benchmark import Benchmark

DATA = "{data}"
NAME = re.compile(r"\w[\w-]*")
"""Of an entry; its folder's name, too."""


class Entry(NamedTuple):
    """One benchmark of a suite."""

    bench: Benchmark
    title: str
    """In tables."""


def read_suite_file(suite: str, data: Path | None, only: Sequence[str] = ()) -> dict[str, Entry]:
    """The benchmarks of a suite, by name, in the order of the file.

    Args:
        suite: A shipped one (`paper`), or a file.
        data: Stands for `{data}` in the file.
        only: Of these benchmarks; empty takes all.

    Raises:
        FileNotFoundError: No such suite.
        ValueError: It is no suite, names a benchmark or a setting that there is not, or lacks `data`.
    """
    path = find(f"suites/{suite}.yaml") or find(suite)
    if path is None:
        raise FileNotFoundError(
            f"No suite {suite!r}: neither a file nor one that ships with mmalign. `--suite paper`, `embedded`, "
            "`world`, `preferences`, or a YAML file of benchmarks with their data."
        )
    text = path.read_text(encoding="utf-8")
    if DATA in text and data is None:
        raise ValueError(
            f"The suite {suite!r} reads benchmark data: name its folder with `--data`. {path} says what is in it."
        )
    try:
        found = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is no YAML: {error}") from error
    if not isinstance(found, dict) or not found or not all(isinstance(each, dict) for each in found.values()):
        raise ValueError(
            f"{path} is no suite: it must hold benchmarks by name, each with its settings (`pope: {{...}}`)."
        )
    if strange := [str(name) for name in found if not NAME.fullmatch(str(name))]:
        raise ValueError(
            f"{path}: {strange[0]!r} cannot be a benchmark's name, which is a folder's: letters, digits, _, -."
        )
    if absent := [name for name in only if name not in found]:
        raise ValueError(f"`--only {absent[0]}`: the suite {suite!r} has no such benchmark, but {', '.join(found)}.")
    return {name: _entry(name, each, data, path) for name, each in found.items() if not only or name in only}


def _entry(name: str, record: Mapping[str, object], data: Path | None, path: Path) -> Entry:
    settings = dict(record)
    benchmark = str(settings.pop("benchmark", name))
    kind = benchmark_class(benchmark)
    title = str(settings.pop("title", kind.title))
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(kind)
    try:
        parsed = parser.parse_object({key: _with_data(value, data) for key, value in settings.items()})
    except jsonargparse.ArgumentError as error:
        raise ValueError(
            f"{path}, {name}: {error}. `mmalign evaluate score {benchmark} --help` lists its settings."
        ) from error
    return Entry(kind(**parser.instantiate_classes(parsed).as_dict()), title)


def _with_data(value: object, data: Path | None) -> object:
    if isinstance(value, list):
        return [_with_data(each, data) for each in value]
    return value.replace(DATA, str(data)) if isinstance(value, str) else value
