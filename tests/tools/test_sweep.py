"""`mmalign sweep`: what it plans, what it refuses, how it goes on. All but the last test stand in for its commands."""

import fcntl
import json
import os
import signal
import sys
import time

import pytest
import yaml

from mmalign.cli import main
from mmalign.evaluation.paired import Direction, Measure, Ratio, compare
from mmalign.evaluation.scores import Scores, read_scores
from mmalign.tools.sweep import command, jobs
from mmalign.tools.sweep.runs import SweepError, config_path, name_of, plan

STAND_IN = """
import json, os, pathlib, shutil, sys, time
command, *args = sys.argv[1:]
given = dict(arg.removeprefix("--").split("=", 1) for arg in args)
root = pathlib.Path(__file__).parent
with (root / "calls.jsonl").open("a") as calls:
    calls.write(json.dumps([command, args, os.environ.get("OMP_NUM_THREADS")]) + "\\n")
if given.get("model.sleep"):
    (root / "pid").write_text(str(os.getpid()))
    time.sleep(float(given["model.sleep"]))
if given.get("model.meet"):  # the other one, which must be at work at the same time
    (root / given["model.beta"]).touch()
    until = time.monotonic() + 30
    while not (root / given["model.meet"]).exists():
        assert time.monotonic() < until
        time.sleep(0.01)
if given.get("model.beta") == "-1":
    sys.exit("beta must be positive")
if command == "export":
    pathlib.Path(given["out"]).mkdir()
if command == "evaluate":
    pathlib.Path(given["out"]).mkdir()
    shutil.copy(root / "scores.json", given["out"])
"""


@pytest.fixture
def sweep(tmp_path, monkeypatch):
    """Run a sweep whose commands only say that they were called; `sweep.calls()` are those since the last look."""
    (tmp_path / "stand_in.py").write_text(STAND_IN)
    half = Ratio.mean([0, 1] * 10)
    measure = Measure(
        name="chair_i", label="c", group="g", description="d", direction=Direction.LOWER, base=half, aligned=half
    )
    Scores(suite="world", comparisons=(compare(measure, resamples=50),), resamples=50, level=0.95).write(tmp_path)
    monkeypatch.setattr(jobs, "COMMAND", (sys.executable, "-S", str(tmp_path / "stand_in.py")))
    monkeypatch.setattr(jobs, "POLL_S", 0.01)
    monkeypatch.setattr(command, "draw_sweep", lambda title, runs: f"<svg>{title}</svg>")  # half a second each
    (tmp_path / "method.yaml").write_text("model: {lr: 1}\n")
    monkeypatch.chdir(tmp_path)

    def run(content, *options):
        shared = {"fit": ["--config=method.yaml"]}
        (tmp_path / "sweep.yaml").write_text(yaml.safe_dump({**shared, **content}, sort_keys=False))
        return main(["sweep", "--config", "sweep.yaml", "--out", "out", *options])

    def calls():
        path = tmp_path / "calls.jsonl"
        found = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        path.unlink(missing_ok=True)
        return found

    run.calls = calls
    run.folder = tmp_path / "out"
    return run


def names(calls):
    """Which command was called for which run."""
    found = []
    for name, args, _ in calls:
        given = dict(arg.removeprefix("--").split("=", 1) for arg in args)
        path = {"fit": "trainer.default_root_dir", "export": "run", "evaluate": "adapter"}[name]
        found.append((given[path].split("/")[1], name))
    return found


def test_own_configs_come_first_and_own_arguments_last():
    """So that an overlay that all share lies over a method's config, and a run's own value wins."""
    (run,) = plan(["--config=scale/tiny.yaml", "--model.beta=1"], {"a": ["--model.beta=2", "--config=dpo.yaml"]}, {})
    assert run.args == ("--config=dpo.yaml", "--config=scale/tiny.yaml", "--model.beta=1", "--model.beta=2")


def test_a_grid_is_every_combination_under_names_that_say_where():
    runs = plan([], {"a": []}, {"model.beta": [0.1, 0.2], "model.average_logps": [False, True]})
    assert [run.name for run in runs] == [
        "a",
        "beta=0.1+average_logps=false",
        "beta=0.1+average_logps=true",
        "beta=0.2+average_logps=false",
        "beta=0.2+average_logps=true",
    ]
    assert runs[1].args == ("--model.beta=0.1", "--model.average_logps=false")
    assert runs[1].point == {"model.beta": 0.1, "model.average_logps": False}
    assert name_of({"x.lr": 1.5e-3, "y": "worst"}) == "lr=0.0015+y=worst"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "has no runs"),
        ({"grid": {"model.beta": []}}, "model.beta of the grid has no values"),
        ({"runs": {"a": ["--config=absent.yaml"]}}, "Run a: There is no config absent.yaml"),
        ({"runs": {"a": ["--model.beta", "1"]}}, "Run a: the argument '--model.beta' is not of the form --name=value"),
        ({"runs": {"a": ["--ckpt_path=last"]}}, "Run a: --ckpt_path is set by the sweep"),
        ({"runs": {"../a": []}}, r"cannot be called '\.\./a'"),
        ({"runs": {"base": []}}, "cannot be called 'base'"),
        ({"runs": {"a=1": []}, "grid": {"x.a": [1]}}, "More than one run is called a=1"),
        ({"grid": {"x.a": [1, 2], "y.a": [1]}, "runs": {"a=1+a=1": []}}, r"More than one run is called a=1\+a=1"),
        ({"runs": {"a": ["--x=[{b}]"], "b": []}}, "Run a needs the adapter of b"),
        ({"runs": {"a": []}, "select": "words_said"}, "select: words_said` is no column of the table"),
    ],
)
def test_a_sweep_that_makes_no_sense_is_refused_before_anything_runs(sweep, content, message):
    with pytest.raises(SweepError, match=message):
        sweep(content)
    assert sweep.calls() == []


@pytest.mark.parametrize(
    ("options", "message"),
    [(["--jobs", "0"], "at least 1, got 0"), (["--only", "a,c"], "names c, but the sweep has: a, b")],
)
def test_options_that_do_not_fit_are_refused(sweep, options, message):
    with pytest.raises(SweepError, match=message):
        sweep({"runs": {"a": [], "b": []}}, *options)


def test_a_name_that_stands_twice_is_refused_with_its_line(sweep, tmp_path):
    """YAML itself would take the last one and drop the first."""
    (tmp_path / "twice.yaml").write_text("runs:\n  a: []\n  b: []\n  a: [--x=1]\n")
    with pytest.raises(SweepError, match=r"twice.yaml, line 4: a stands twice"):
        main(["sweep", "--config=twice.yaml", "--out=out"])


def test_an_unknown_field_is_refused(sweep, capsys):
    with pytest.raises(SystemExit):
        sweep({"rnus": {"a": []}})
    assert "rnus" in capsys.readouterr().err


def test_a_config_is_looked_up_here_and_then_among_the_shipped_ones(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert config_path("sweeps/search.yaml").parts[-3:] == ("configs", "sweeps", "search.yaml")
    (tmp_path / "dpo.yaml").touch()
    assert str(config_path("dpo.yaml")) == "dpo.yaml"
    with pytest.raises(SweepError, match="nor among the shipped ones"):
        config_path("absent.yaml")


@pytest.mark.parametrize(("name", "number"), [("methods", 26), ("data_scaling", 4), ("search", 12)])
def test_shipped_sweeps_can_be_planned(name, number):
    content = yaml.safe_load(config_path(f"sweeps/{name}.yaml").read_text())
    assert len(plan(content["fit"], content.get("runs", {}), content.get("grid", {}))) == number


def test_every_run_is_fitted_exported_evaluated_and_put_into_the_table(sweep):
    sweep({"runs": {"a": [], "b": ["--model.beta=2"]}, "evaluate": ["--seed=3"], "title": "Two"})
    calls = sweep.calls()
    assert names(calls) == [(run, step) for run in "ab" for step in ("fit", "export", "evaluate")]
    own = ["--ckpt_path=auto", "--trainer.default_root_dir=out/b"]
    assert calls[3][1] == ["--config=method.yaml", "--model.beta=2", *own]
    assert calls[5][1] == ["--adapter=out/b/adapter", "--out=out/b/evaluation", "--base_answers=out/base", "--seed=3"]
    assert {threads for *_, threads in calls} == {"1"}
    table = json.loads((sweep.folder / "table.json").read_text())
    assert [run["name"] for run in table["runs"]] == ["a", "b"]
    assert set(table["runs"][0]["seconds"]) == {"fit", "export", "evaluate"}
    assert table["machine"]["jobs"] == 1
    assert (sweep.folder / "table.md").read_text().startswith("# Two\n")
    assert (sweep.folder / "plot.svg").read_text() == "<svg>Two</svg>"
    assert (
        (sweep.folder / "a" / "log.txt").read_text().startswith("$ mmalign fit --config=method.yaml --ckpt_path=auto")
    )


def test_run_again_it_does_nothing_twice(sweep):
    sweep({"runs": {"a": [], "b": []}}, "--only", "b")
    assert names(sweep.calls()) == [("b", "fit"), ("b", "export"), ("b", "evaluate")]
    assert "- a: not run yet\n" in (sweep.folder / "table.md").read_text()
    sweep({"runs": {"a": [], "b": []}})
    assert {run for run, _ in names(sweep.calls())} == {"a"}
    sweep({"runs": {"a": [], "b": []}})
    assert sweep.calls() == []


def test_a_failed_run_is_named_and_the_others_go_on(sweep):
    content = {"runs": {"a": ["--model.beta=-1"], "b": ["--x=[{a}]"], "c": []}}
    with pytest.raises(SweepError) as failed:
        sweep(content)
    assert str(failed.value).startswith(
        "2 of 3 runs failed: a (fit ended with exit status 1, see out/a/log.txt); b (needs the adapter of a, which is "
        "not there)."
    )
    assert "beta must be positive" in (sweep.folder / "a" / "log.txt").read_text()
    assert names(sweep.calls()) == [("a", "fit"), ("c", "fit"), ("c", "export"), ("c", "evaluate")]
    assert "- a: fit ended with exit status 1, see " in (sweep.folder / "table.md").read_text()
    with pytest.raises(SweepError, match="2 of 3"):
        sweep(content)
    assert names(sweep.calls()) == [("a", "fit")], "it is tried again, and nothing else"


def test_a_run_may_start_from_the_adapter_of_an_earlier_one(sweep):
    """Two at a time, and still one after the other."""
    sweep({"runs": {"a": [], "b": ["--model.adapters=[{a}]"]}}, "--jobs", "2")
    calls = sweep.calls()
    fit_b = names(calls).index(("b", "fit"))
    assert "--model.adapters=[out/a/adapter]" in calls[fit_b][1]
    assert names(calls).index(("a", "export")) < fit_b


def test_changed_settings_are_refused_by_name_and_redone_on_request(sweep):
    sweep({"runs": {"a": [], "b": []}})
    sweep.calls()
    changed = {"runs": {"a": [], "b": ["--model.beta=2"]}}
    with pytest.raises(SweepError, match=r"b \(fit\).*--overwrite true --only b"):
        sweep(changed)
    assert sweep.calls() == []
    sweep(changed, "--overwrite", "true")
    assert {run for run, _ in names(sweep.calls())} == {"b"}


def test_a_run_of_other_settings_stays_out_of_the_table(sweep):
    sweep({"runs": {"a": [], "b": []}})
    sweep({"runs": {"a": [], "b": ["--model.beta=2"]}}, "--only", "a")
    table = json.loads((sweep.folder / "table.json").read_text())
    assert [run["name"] for run in table["runs"]] == ["a"]
    assert table["missing"] == {"b": "run with other settings"}


def test_a_changed_config_file_is_noticed_and_a_comment_is_none(sweep, tmp_path):
    sweep({"runs": {"a": []}})
    (tmp_path / "method.yaml").write_text("model: {lr: 1} # as in the paper\n")
    sweep({"runs": {"a": []}})
    (tmp_path / "method.yaml").write_text("model: {lr: 2}\n")
    with pytest.raises(SweepError, match=r"a \(configs\)"):
        sweep({"runs": {"a": []}})


def test_another_evaluation_needs_no_other_training(sweep):
    sweep({"runs": {"a": []}})
    sweep.calls()
    sweep({"runs": {"a": []}, "evaluate": ["--seed=1"]}, "--overwrite", "true")
    assert names(sweep.calls()) == [("a", "evaluate")]


def test_who_started_from_a_changed_run_has_changed_too(sweep):
    sweep({"runs": {"a": [], "b": ["--x={a}"]}})
    with pytest.raises(SweepError, match=r"a \(fit\); b \(needs\)"):
        sweep({"runs": {"a": ["--model.beta=2"], "b": ["--x={a}"]}})


def test_a_folder_of_somebody_else_is_left_alone(sweep):
    (sweep.folder / "a").mkdir(parents=True)
    (sweep.folder / "a" / "thesis.txt").touch()
    with pytest.raises(SweepError, match="no run of a sweep"):
        sweep({"runs": {"a": []}}, "--overwrite", "true")
    assert (sweep.folder / "a" / "thesis.txt").exists()


def test_jobs_run_side_by_side(sweep):
    """Each waits for the other to have begun."""
    runs = {"a": ["--model.beta=1", "--model.meet=2"], "b": ["--model.beta=2", "--model.meet=1"]}
    sweep({"runs": runs}, "--jobs", "2")


def test_stopped_it_takes_its_commands_along(sweep, tmp_path, monkeypatch):
    """One SIGTERM, sent as soon as the first command says that it is at work."""
    pid = tmp_path / "pid"
    sent = []

    def wait(seconds):
        if pid.exists() and pid.read_text() and not sent:
            sent.append(signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(jobs.time, "sleep", wait)
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt):
        sweep({"runs": {"a": ["--model.sleep=600"]}})
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid.read_text()), 0)
    assert signal.getsignal(signal.SIGTERM) == before


def test_two_sweeps_do_not_share_a_folder(sweep):
    sweep.folder.mkdir()
    with (sweep.folder / ".lock").open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(SweepError, match="Another sweep is at work in out"):
            sweep({"runs": {"a": []}})


def test_readme_is_filled_once_every_run_is_there(sweep, tmp_path):
    readme = tmp_path / "README.md"
    text = "<!-- measured -->\n| config |\n| --- |\n| `a.yaml` |\n| `b.yaml` |\n<!-- /measured -->\n"
    readme.write_text(text)
    with pytest.raises(SweepError, match=r"no scores of b"):
        sweep({"runs": {"a": [], "b": []}}, "--only", "a", "--readme", "README.md")
    assert readme.read_text() == text
    sweep({"runs": {"a": [], "b": []}}, "--readme", "README.md")
    assert "| `b.yaml` | 50.0 (" in readme.read_text()


def test_a_readme_without_a_row_for_a_run_is_refused_before_anything_runs(sweep, tmp_path):
    (tmp_path / "README.md").write_text("<!-- measured -->\n| config |\n| --- |\n| a |\n<!-- /measured -->\n")
    with pytest.raises(ValueError, match="no row for b"):
        sweep({"runs": {"a": [], "b": []}}, "--readme", "README.md")
    assert sweep.calls() == []


@pytest.mark.slow
def test_two_runs_on_a_random_llava_end_in_one_table(tiny_llava, color_shards, tmp_path):
    """Through the real commands; the base is asked once, and all runs are compared with the same answers."""
    config = {
        "fit": [
            "--config=dpo.yaml",
            "--config=scale/tiny.yaml",
            f"--model.backbone.checkpoint={tiny_llava}",
            "--model.backbone.lora_rank=2",
            f"--data.shards={color_shards}",
            f"--data.val_shards={color_shards}",
            "--data.batch_size=8",
            "--data.micro_batch_size=8",
            "--trainer.max_steps=2",
        ],
        "runs": {"one": [], "two": ["--model.beta=0.5"]},
        "evaluate": [
            f"--checkpoint={tiny_llava}",
            *("--sizes.describe=2", "--sizes.yes_no=2", "--sizes.text=2", "--sizes.other=0", "--resamples=50"),
        ],
    }
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump(config))
    began = time.time()
    main(["sweep", "--config", str(tmp_path / "sweep.yaml"), "--out", str(tmp_path / "out"), "--jobs", "2"])
    table = json.loads((tmp_path / "out" / "table.json").read_text())
    assert [run["name"] for run in table["runs"]] == ["one", "two"]
    assert len((tmp_path / "out" / "base" / "base_answers.jsonl").read_text().splitlines()) == 6
    for name in ("one", "two"):
        written = (tmp_path / "out" / name / "run.json").stat().st_mtime
        assert written > began
        assert read_scores(tmp_path / "out" / name / "evaluation").suite == "world"
