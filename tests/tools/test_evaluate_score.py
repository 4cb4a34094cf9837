"""`mmalign evaluate score` through the command line: published files as they are, in; published numbers, out."""

import json
import subprocess
import sys

import pytest
from published import published

from mmalign.cli import main
from mmalign.evaluation.benchmarks.registry import BENCHMARKS
from mmalign.evaluation.steps.scored import read_scored
from mmalign.tools.evaluation.command import STEPS, SUITES, _listed


def score(bench, *options):
    return main(["evaluate", "score", bench, *map(str, options)])


def grades(runs):
    return published("mm_vet", f"llava-v1.5-7b_gpt-4-grade-{runs}runs.json")


def questions():
    return published("mm_vet", "mm-vet.json")


def test_published_grades_give_the_published_number(capsys):
    scored = score("mm_vet", "--questions", questions(), "--judgments", grades(1))
    assert scored.headline.official == 31.2
    assert "218 of 218 scored, 0 failed" in capsys.readouterr().out


def test_runs_are_shown_with_their_deviation(capsys):
    score("mm_vet", "--questions", questions(), "--judgments", grades(3))
    assert "31.1 ± 0.2 (31.2, 30.8, 31.2)" in " ".join(capsys.readouterr().out.split())


def test_several_files_are_runs():
    folder = published("llava_bench")
    files = [folder / f"llava-v1.5-7b-eval{run}.jsonl" for run in (1, 2, 3)]
    scored = score("llava_bench", "--questions", folder / "questions.jsonl", "--judgments", *files)
    assert scored.headline.runs == (64.7, 65.3, 66.3)


@pytest.mark.parametrize(
    ("typed", "parsed"),
    [
        (["--judgments", "a", "b", "--out", "c"], ["--out", "c", '--judgments=["a", "b"]']),
        (["--judgments=a", "--judgments=b"], ['--judgments=["a", "b"]']),
        (["--replay", "[a, b]"], ["--replay=[a, b]"]),
        (["--out", "c"], ["--out", "c"]),
    ],
)
def test_files_may_be_typed_as_one_likes(typed, parsed):
    assert _listed(typed) == parsed


def test_a_score_is_written_and_read_back(tmp_path):
    scored = score("mm_vet", "--questions", questions(), "--judgments", grades(3), "--out", tmp_path)
    again = read_scored(tmp_path)
    assert [metric.value for metric in again.metrics] == [metric.value for metric in scored.metrics]
    assert again.items == tuple(item._replace(pictures=list(item.pictures)) for item in scored.items)
    assert len((tmp_path / "scores.jsonl").read_text().splitlines()) == 218


def test_what_cannot_be_scored_is_an_error_that_says_how_many(capsys):
    weak = published("mt_bench", "judgments_weak_judge_120_unparsable.jsonl.gz")
    options = ("--questions", published("mt_bench", "question.jsonl"), "--judgments", weak)
    with pytest.raises(ValueError, match=r"120: judge text without a score: 81/1, .*115 more(?s:.*)--on_bad count"):
        score("mt_bench", *options)
    scored = score("mt_bench", *options, "--on_bad", "count")
    assert "40 of 160 scored, 120 failed" in capsys.readouterr().out
    assert scored.num_scored == 40


def test_judgments_for_a_benchmark_without_a_judge_are_refused():
    coco = published("pope")
    with pytest.raises(ValueError, match="POPE is scored by a rule"):
        score("pope", "--questions", coco, "--answers", coco / "llava-v1.5-7b.jsonl.gz", "--judgments", grades(1))


def test_a_file_of_another_layout_is_named(tmp_path):
    (tmp_path / "grades.json").write_text(json.dumps([{"rating": 4}]))
    with pytest.raises(ValueError, match=r"grades\.json: .*grade file of MM-Vet"):
        score("mm_vet", "--questions", questions(), "--judgments", tmp_path / "grades.json")


def test_a_file_that_is_not_there_is_named():
    command = [sys.executable, "-m", "mmalign.cli", "evaluate", "score", "mm_vet", "--questions", "nowhere/mm-vet.json"]
    told = subprocess.run([*command, "--judgments", str(grades(1))], capture_output=True, text=True)
    assert told.stderr.startswith("mmalign: No file nowhere/mm-vet.json. Give a path, or a name on the")


def test_every_benchmark_is_listed(capsys):
    main(["evaluate", "score", "--help"])
    listed = capsys.readouterr().out
    assert all(name in listed for name in BENCHMARKS)


def test_an_unknown_benchmark_is_told_which_there_are():
    with pytest.raises(ValueError, match=r"No benchmark 'popes'\. There are pope, "):
        score("popes")


def test_scoring_needs_no_torch():
    options = ["--questions", str(questions()), "--judgments", str(grades(1))]
    code = (
        "import sys; from mmalign.cli import main; main(['evaluate', 'score', 'mm_vet', *sys.argv[1:]]);"
        "sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, *options], check=True, capture_output=True)


@pytest.mark.parametrize("typed", [[], ["--help"], ["-h"]])
def test_help_shows_the_steps_and_the_suites_and_where_to_read_on(capsys, typed):
    with pytest.raises(SystemExit, match="0"):
        main(["evaluate", *typed])
    said = capsys.readouterr().out
    assert [name for name in (*STEPS, *SUITES, "--suite") if name not in said] == []
    assert "mmalign evaluate --suite paper --help" in said


def test_help_of_a_suite_shows_its_options(capsys):
    with pytest.raises(SystemExit):
        main(["evaluate", "--suite", "paper", "--help"])
    assert "--base_folder" in capsys.readouterr().out
