"""`mmalign agree` on the command line: the embedded world, and the first author's human pairs."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from mmalign import cli
from mmalign.data.reader import ShardSet
from mmalign.data.rowset import Source
from mmalign.data.shards import ShardWriter
from mmalign.judges.exact import ExactWorldJudge
from mmalign.tools.agree import agree

SHARED = Path(__file__).parents[3] / "shared" / "data"
real_data = pytest.mark.skipif(not SHARED.is_dir(), reason="the real data is not beside this checkout")


@pytest.fixture(scope="module")
def judged(tmp_path_factory):
    """Thirty samples of the shipped shards, rated by two noisy judges."""
    source = ShardSet(Source(path="world-heldout").resolve())
    folder = tmp_path_factory.mktemp("agree") / "judged"
    with ShardWriter(folder) as writer:
        for number in range(30):
            sample = source[number]
            responses = [replace(response, ratings={}, rationale="") for response in sample.responses]
            for judge in (ExactWorldJudge(noise=0.2), ExactWorldJudge(noise=0.2, seed=1)):
                said = judge.judgments(sample)
                responses = [each.judged(judgment) for each, judgment in zip(responses, said, strict=True)]
            writer.write(replace(sample, responses=tuple(responses)))
    return folder


def test_all_raters_that_are_found_are_compared(judged, tmp_path, capsys):
    """Without `--raters`; tables on the terminal, numbers and pictures in the folder."""
    cli.main(["agree", "--shards", str(judged), "--out", str(tmp_path / "out"), "--resamples", "20"])
    told = capsys.readouterr().out
    for text in ("30 samples", "world-noise-0.2", "Which answer is better?", "The same ratings?", "agree.json"):
        assert text in told
    record = json.loads((tmp_path / "out/agree.json").read_text())
    assert [each["name"] for each in record["raters"]] == ["world-noise-0.2", "world-noise-0.2-seed-1"]
    assert record["lineage"]["manifest"] == ShardSet(str(judged)).manifest.hash


def test_the_exact_world_is_a_rater(judged, tmp_path):
    """Named, it is asked on the spot; each judge agrees with it more than with the other."""
    raters = ["world", "world-noise-0.2", "world-noise-0.2-seed-1"]
    report = agree(str(judged), tmp_path, raters=raters, resamples=20)
    equal = {
        each.raters: each.values["exact"].value
        for each in report.findings
        if each.section == "ratings" and each.aspects[0] == "verbosity"
    }
    assert min(equal["world", raters[1]], equal["world", raters[2]]) > equal[raters[1], raters[2]]


def test_one_rater_alone_is_told_what_to_add(tmp_path, capsys):
    """The shipped shards: its biases, and how to ask the exact judge."""
    agree("world-heldout", tmp_path, resamples=2)
    told = " ".join(capsys.readouterr().out.split())
    assert "Only one rater, unnamed" in told
    assert "--raters '[unnamed, world]'" in told


def test_unknown_raters_and_ratings_are_refused_with_those_there_are(judged, tmp_path):
    """Before anything is computed."""
    with pytest.raises(ValueError, match=r"no rater 'gpt'. There are: world-noise-0.2, .*`--raters`"):
        agree(str(judged), tmp_path, raters=["gpt"])
    with pytest.raises(ValueError, match=r"`--score` names \['-wit'\], but the raters give coherence, "):
        agree(str(judged), tmp_path, score=["helpfulness", "-wit"])
    assert not list(tmp_path.iterdir())


@real_data
@pytest.mark.slow
def test_human_preference_and_gpt4v_ratings_hardly_correlate(tmp_path, capsys):
    """The paper's |r| < 0.1 (its figure 3, with another judge): so here, of 121 pairs, on each of five ratings.

    An interval of 121 pairs is about 0.18 to both sides, so weak correlations cannot be excluded. What is clear of
    chance: people prefer the longer answer, the judge the one that it is shown second.
    """
    source = str(SHARED / "human_pairs" / "extracted_attributes_*.json")
    cli.main(["import", "human_pairs", source, "--out", str(tmp_path / "pairs"), "--text_only", "true"])
    report = agree(str(tmp_path / "pairs"), tmp_path / "agree")
    assert "makes no choice of its own" in " ".join(capsys.readouterr().out.split())
    aspects = [each for each in report.findings if each.section == "aspects"]
    assert len(aspects) == 5
    for each in aspects:
        correlation = each.values["correlation"]
        assert each.counts["pairs"] == 121
        assert abs(correlation.value) < 0.1
        assert correlation.low < 0 < correlation.high
        assert 0.1 < correlation.high - correlation.low < 0.4
    first = next(e for e in report.findings if e.section == "position" and e.aspects == ("helpfulness",))
    assert first.values["first_wins"].high < 0.5
    longer = next(e for e in report.findings if e.section == "length" and e.raters == ("preference",))
    assert longer.values["longer_wins"].low > 0.5


@real_data
@pytest.mark.slow
def test_graded_figure_answers_show_the_graders_love_of_length(tmp_path):
    """One grader, no second rater: it grades the longer answer higher far more often than not."""
    source = str(SHARED / "scigraphqa" / "*.jsonl")
    cli.main(["import", "scigraphqa", source, "--out", str(tmp_path / "figures"), "--text_only", "true"])
    report = agree(str(tmp_path / "figures"), tmp_path / "agree")
    (grader,) = report.raters
    assert grader.judged == 299
    (choice,) = [each for each in report.findings if each.section == "length" and each.aspects == ("",)]
    assert choice.values["longer_wins"].low > 0.6
