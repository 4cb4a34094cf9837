"""The runs of a sweep: what each is trained with, where it lies on disk, and what is left to do for it."""

import itertools
import json
import re
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from mmalign.configs import SHIPPED, find
from mmalign.evaluation.scores import SCORES_FILE, write_whole
from mmalign.evaluation.sweep import BASE, Setting

RUN_FILE = "run.json"
TRAINED_BY = ("fit", "configs", "needs")
"""Parts of a run's identity that its adapter depends on; its scores depend on `evaluate` besides."""
SET_BY_SWEEP = ("--ckpt_path", "--trainer.default_root_dir")
CONFIG = "--config="
DEFAULTS = "defaults.yaml"
"""What `mmalign fit` lays under every config."""
NEED = re.compile(r"\{([\w.=+-]+)\}")
"""In an argument: the adapter of another run, as `--model.adapters=[{sft}]`."""


class SweepError(ValueError):
    """A sweep that cannot go on as asked; the message says which run and why."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """One training of a sweep."""

    name: str
    args: tuple[str, ...]
    """Of `mmalign fit`, each one `--name=value`."""
    point: Mapping[str, Setting] = field(default_factory=dict)
    """Its place in the grid, by axis."""

    @property
    def needs(self) -> list[str]:
        """Runs whose adapters its arguments name."""
        return [name for arg in self.args for name in NEED.findall(arg)]


def plan(fit: Sequence[str], runs: Mapping[str, Sequence[str]], grid: Mapping[str, Sequence[Setting]]) -> list[Run]:
    """The runs that were listed, then one for each point of the grid.

    A run's own configs come before those of `fit`, so that an overlay in `fit` lies over them; its other arguments come
    last, so that they win.

    Raises:
        SweepError: No runs, two of one name, an empty axis, a config that is not there, an argument that is not
            `--name=value`, or the adapter of a run that does not come before.
    """
    planned = [Run(name=name, args=_merged(fit, own)) for name, own in runs.items()]
    planned += [
        Run(name=name_of(point), args=_merged(fit, _arguments(point)), point=point) for point in grid_points(grid)
    ]
    if not planned:
        raise SweepError("The sweep has no runs: give it `runs`, a `grid`, or both.")
    for run in planned:
        _check(run)
    names = [run.name for run in planned]
    for place, run in enumerate(planned):
        late = [name for name in run.needs if name not in names[:place]]
        if late:
            raise SweepError(f"Run {run.name} needs the adapter of {late[0]}. List a run of that name before it.")
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise SweepError(f"More than one run is called {', '.join(twice)}. Name them apart.")
    return planned


def grid_points(grid: Mapping[str, Sequence[Setting]]) -> list[dict[str, Setting]]:
    """Every combination of the values on the axes; the last axis runs fastest.

    Raises:
        SweepError: An axis without values.
    """
    empty = [axis for axis, values in grid.items() if not values]
    if empty:
        raise SweepError(f"The axis {empty[0]} of the grid has no values. List them, or leave the axis out.")
    return [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())] if grid else []


def name_of(point: Mapping[str, Setting]) -> str:
    """Name of a grid's run: `beta=0.1+lr=0.001`, each axis by its last word."""
    return "+".join(f"{axis.rpartition('.')[2]}={_text(value)}" for axis, value in point.items())


def config_path(name: str) -> Path:
    """A config file, or the shipped one of that name.

    Raises:
        SweepError: There is neither.
    """
    if (path := find(name)) is None:
        raise SweepError(f"There is no config {name}, neither here nor among the shipped ones in {SHIPPED}.")
    return path


def read_config(path: Path) -> Any:
    """A YAML file's content.

    Raises:
        SweepError: It is no YAML, or has one name twice: YAML would take the last and drop the others.
    """
    text = path.read_text(encoding="utf-8")
    try:
        _refuse_twice(yaml.compose(text), path)
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise SweepError(f"{path} is no YAML: {error}") from error


class Step(NamedTuple):
    """One command of a run."""

    name: str
    args: list[str]
    """Of `mmalign`."""


class RunFolder:
    """A run on disk: `run.json` says what it is, its adapter and its scores say what is done."""

    def __init__(self, run: Run, out: Path, evaluate: Sequence[str], others: Mapping[str, "RunFolder"]) -> None:
        """Nothing is written yet.

        Args:
            run: What is trained.
            out: Of the sweep.
            evaluate: Further arguments of `mmalign evaluate`.
            others: The runs before it, by name.
        """
        self.run = run
        self.path = out / run.name
        self.log = self.path / "log.txt"
        self.adapter = self.path / "adapter"
        self.evaluation = self.path / "evaluation"
        self.needs = {name: others[name] for name in run.needs}
        self._base_answers = out / BASE
        self._evaluate = list(evaluate)
        configs = [arg.removeprefix(CONFIG) for arg in run.args if arg.startswith(CONFIG)]
        identity = {
            "fit": list(run.args),
            "configs": {DEFAULTS: read_config(SHIPPED / DEFAULTS)}
            | {name: read_config(config_path(name)) for name in configs},
            "needs": {name: [other.identity[part] for part in TRAINED_BY] for name, other in self.needs.items()},
            "evaluate": self._evaluate,
        }
        # As it comes back from `run.json`: YAML knows dates, which become text.
        self.identity: dict[str, Any] = json.loads(json.dumps(identity, default=str))

    @property
    def seconds(self) -> dict[str, float]:
        """What each step that is done took."""
        return dict(self._record().get("seconds", {}))

    def changed(self) -> list[str]:
        """What is asked for now and was not when the run was started: nothing for a run that was never started.

        Raises:
            SweepError: The folder is there and no sweep wrote it.
        """
        record = self._record()
        if not record and any(not path.name.startswith(".") for path in self.path.glob("*")):
            raise SweepError(f"{self.path} is there and is no run of a sweep. Give another `--out`.")
        return [name for name, value in self.identity.items() if record and record.get(name) != value]

    def claim(self) -> None:
        """Make the folder this run's: what it holds of other settings is dropped, the rest is kept."""
        changed = self.changed()
        if set(changed) & set(TRAINED_BY):
            shutil.rmtree(self.path)
        elif changed:
            shutil.rmtree(self.evaluation, ignore_errors=True)
        self._write(self.seconds)

    def done(self) -> bool:
        """Whether scores of just this run are there."""
        return bool(self._record()) and not self.changed() and (self.evaluation / SCORES_FILE).is_file()

    def steps(self) -> list[Step]:
        """What is left to do; each step goes on where it was stopped."""
        base = [f"--base_answers={self._base_answers}"]
        steps = []
        if not self.exported():
            args = [NEED.sub(lambda found: str(self.needs[found[1]].adapter), arg) for arg in self.run.args]
            steps += [
                Step("fit", [*args, "--ckpt_path=auto", f"--trainer.default_root_dir={self.path}"]),
                Step("export", [f"--run={self.path}", f"--out={self.adapter}"]),
            ]
        if not (self.evaluation / SCORES_FILE).is_file():
            evaluate = [f"--adapter={self.adapter}", f"--out={self.evaluation}", *base, *self._evaluate]
            steps.append(Step("evaluate", evaluate))
        return steps

    def exported(self) -> bool:
        """Whether its adapter is there: whole, as an export is there whole or not at all."""
        return bool(self._record()) and not set(self.changed()) & set(TRAINED_BY) and self.adapter.is_dir()

    def took(self, step: str, began: float) -> None:
        """Note a step's time; one that was stopped and goes on counts from its last start.

        Args:
            step: Its name.
            began: `time.monotonic()` at its start.
        """
        self._write(self.seconds | {step: time.monotonic() - began})

    def _record(self) -> dict[str, Any]:
        path = self.path / RUN_FILE
        return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}

    def _write(self, seconds: Mapping[str, float]) -> None:
        record = self.identity | {"seconds": dict(seconds)}
        write_whole(self.path / RUN_FILE, json.dumps(record, indent=1) + "\n")


def _merged(fit: Sequence[str], own: Sequence[str]) -> tuple[str, ...]:
    configs = [arg for arg in own if arg.startswith(CONFIG)]
    return (*configs, *fit, *(arg for arg in own if not arg.startswith(CONFIG)))


def _arguments(point: Mapping[str, Setting]) -> list[str]:
    return [f"--{axis}={_text(value)}" for axis, value in point.items()]


def _text(value: Setting) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _check(run: Run) -> None:
    if not re.fullmatch(r"[\w.=+-]+", run.name) or run.name == BASE or run.name.startswith("."):
        raise SweepError(
            f"A run cannot be called {run.name!r}: it names a folder, so letters, digits and _ . = + - only, and "
            f"{BASE!r} is taken."
        )
    for arg in run.args:
        if not re.match(r"--[\w.+]+=", arg):
            raise SweepError(f"Run {run.name}: the argument {arg!r} is not of the form --name=value. Write it so.")
        if arg.partition("=")[0] in SET_BY_SWEEP:
            raise SweepError(f"Run {run.name}: {arg.partition('=')[0]} is set by the sweep. Leave it out.")
        if arg.startswith(CONFIG):
            try:
                config_path(arg.removeprefix(CONFIG))
            except SweepError as error:
                raise SweepError(f"Run {run.name}: {error}") from error


def _refuse_twice(node: yaml.Node | None, path: Path) -> None:
    if isinstance(node, yaml.SequenceNode):
        for each in node.value:
            _refuse_twice(each, path)
    if isinstance(node, yaml.MappingNode):
        names = [key.value for key, _ in node.value]
        twice = [key for key, _ in node.value if names.count(key.value) > 1]
        if twice:
            line = twice[-1].start_mark.line + 1
            raise SweepError(f"{path}, line {line}: {twice[-1].value} stands twice. Name them apart.")
        for _, value in node.value:
            _refuse_twice(value, path)
