"""AlpacaEval's numbers equal its leaderboard's."""

import csv
import json
import math
import subprocess
import sys
import time

import pytest
from published import published

from mmalign.evaluation.benchmarks.alpaca_eval import AlpacaEval
from mmalign.evaluation.benchmarks.alpaca_metrics import leaderboard_row
from mmalign.evaluation.benchmarks.alpaca_records import instruction_id
from mmalign.evaluation.steps.benchmark import JudgedBenchmark
from mmalign.evaluation.steps.comparing import compare_scored
from mmalign.evaluation.steps.faults import UNREADABLE, Handling
from mmalign.evaluation.steps.judging import LibraryJudged
from mmalign.evaluation.steps.reading import read_answers, read_runs
from mmalign.evaluation.steps.records import Answer, JudgeReply
from mmalign.evaluation.steps.scored import read_scored
from mmalign.evaluation.steps.sources import load

OFFICIAL = Handling(compat="official")
COUNT = Handling(on_bad="count")
COUNTS = ("n_wins", "n_wins_base", "n_draws")


def annotation(number, preference, **more):
    row = {"instruction": f"Do {number}.", "output_1": "Base.", "output_2": f"Answer {number}."}
    return row | {"generator_2": "m", "dataset": "koala", "annotator": "judge", "preference": preference} | more


def replies_of(*preferences):
    return AlpacaEval().read_replies([annotation(i, value) for i, value in enumerate(preferences)])


def scored(*preferences, handling=OFFICIAL):
    return AlpacaEval().score(None, [replies_of(*preferences)], handling)


def leaderboard(name):
    with published("alpaca_eval", name).open() as file:
        return {row[""]: row for row in csv.DictReader(file)}


def test_alpaca_7b_has_its_published_win_rate():
    bench = AlpacaEval()
    found = bench.score(None, read_runs(bench, str(published("alpaca_eval", "annotations_alpaca-7b.json"))), Handling())
    want = leaderboard("alpaca_eval_gpt4_leaderboard.csv")["alpaca-7b"]
    assert round(found.headline.official, 2) == 26.46
    assert found.headline.official == pytest.approx(float(want["win_rate"]), rel=1e-14)
    assert float(found.lineage["standard_error"]) == pytest.approx(float(want["standard_error"]), rel=1e-14)
    assert {name: found[name].official for name in (*COUNTS, "avg_length")} == {
        name: float(want[name]) for name in (*COUNTS, "avg_length")
    }
    assert found.headline.value == found.headline.official / 100
    assert (found.model, found.judge, found.num_scored) == ("alpaca-7b", "alpaca_eval_gpt4", 805)


def test_every_model_equals_the_leaderboard():
    """52 of the 53 models of the file stand in the leaderboard; each number equals to the 12th digit and more."""
    path = published("alpaca_eval", "alpaca_eval_1_preferences.jsonl.gz")
    board = leaderboard("alpaca_eval_gpt4_leaderboard.csv")
    rows, compared, of_another_length = load(path), [], []
    began = time.monotonic()
    for name in (row["model"] for row in rows):
        bench = AlpacaEval(judged_model=name)
        found = bench.score(None, [bench.read_replies(rows)], OFFICIAL)
        if (want := board.get(name)) is None:
            continue
        assert found.headline.official == pytest.approx(float(want["win_rate"]), rel=1e-13), name
        assert float(found.lineage["standard_error"]) == pytest.approx(float(want["standard_error"]), rel=1e-13), name
        assert found["discrete_win_rate"].official == pytest.approx(float(want["discrete_win_rate"]), rel=1e-13), name
        assert [found[each].official for each in COUNTS] == [float(want[each]) for each in COUNTS], name
        assert found.lineage["n_total"] == want["n_total"], name
        if found["avg_length"].official != float(want["avg_length"]):
            of_another_length.append(name)
        compared.append(name)
    # Its preferences and lengths are falcon-40b-instruct's, and so is its published win rate.
    assert of_another_length == ["falcon-7b-instruct"]
    assert len(rows) == 53
    assert len(compared) == 52
    assert time.monotonic() - began < 53 * 0.4  # 805 answers each: 10,000 in five seconds


def test_win_rate_by_hand():
    """Wins 2, 1.8; draws 0 and 1.5; lost 1: (1 + 0.8 + 0.5 + 0.5 + 0) / 5 = 56 %."""
    found = scored(2, 1.8, 0, 1.5, 1)
    assert found.headline.official == pytest.approx(56)
    assert found["discrete_win_rate"].official == pytest.approx(60)
    assert [found[name].official for name in COUNTS] == [2, 1, 2]
    shares = [1, 0.8, 0.5, 0.5, 0]
    variance = sum((x - 0.56) ** 2 for x in shares) / 4
    assert float(found.lineage["standard_error"]) == pytest.approx(100 * math.sqrt(variance / 5))


@pytest.mark.parametrize("nothing", [None, math.nan, -1, 2.5, "2"])
def test_what_is_no_preference_is_counted_and_in_no_mean(nothing):
    found = scored(2, nothing, 1, handling=COUNT)
    assert found.headline.official == 50
    assert (found.num_questions, found.num_scored) == (3, 2)
    assert list(found.failures.values()) == [(instruction_id("Do 1."),)]
    assert found["avg_length"].num_samples == 3  # of what it said, as the library does
    with pytest.raises(ValueError, match="1: judge text without a score: do-1-"):
        scored(2, nothing, 1, handling=Handling())


def test_one_preference_has_no_standard_error():
    assert math.isnan(leaderboard_row([2.0]).standard_error)


def test_runs_of_the_judge_are_averaged_and_kept_apart():
    found = AlpacaEval().score(None, [replies_of(2, 1), replies_of(2, 2)], Handling())
    assert found.headline.runs == (50, 100)
    assert found.headline.official == 75
    assert found.headline.value == 0.75
    assert found.headline.num_samples == 2


def test_a_model_among_several_is_chosen_by_name(tmp_path):
    rows = [{"model": name, "preference": [1, 2], "len_2": [3, 5]} for name in ("a", "b")]
    with pytest.raises(ValueError, match=r"2 models.*--judged_model.*a, b"):
        AlpacaEval().read_replies(rows)
    found = AlpacaEval(judged_model="b").score(None, [AlpacaEval(judged_model="b").read_replies(rows)], Handling())
    assert (found.model, found["avg_length"].value) == ("b", 4)


@pytest.fixture
def questions(tmp_path):
    rows = [{"instruction": f"Do {i}.", "output": "Base.", "generator": "base", "dataset": "oasst"} for i in range(3)]
    path = tmp_path / "alpaca_eval.json"
    path.write_text(json.dumps(rows))
    return str(path)


def test_questions_are_asked_greedily(questions):
    asks = AlpacaEval(questions=questions).asks()
    assert [ask.turns[0].text for ask in asks] == ["Do 0.", "Do 1.", "Do 2."]
    assert {(ask.temperature, ask.max_new_tokens) for ask in asks} == {(0.0, 1024)}
    assert len({ask.id for ask in asks}) == 3


def test_published_answers_are_read(questions, tmp_path):
    path = tmp_path / "model_outputs.json"
    path.write_text(json.dumps([{"instruction": "Do 0.", "output": "Done.", "generator": "m"}]))
    bench = AlpacaEval(questions=questions)
    assert read_answers(bench, str(path)) == [Answer(bench.asks()[0].id, ("Done.",), "m")]


def test_missing_double_and_unknown_annotations_are_named(questions):
    bench = AlpacaEval(questions=questions)
    rows = [annotation(0, 2), annotation(1, 2), annotation(1, 1), annotation(7, 1)]
    with pytest.raises(ValueError, match="1: no judgment: do-2") as error:
        bench.score(None, [bench.read_replies(rows)], Handling())
    assert "1: judged more than once: do-1" in str(error.value)
    assert "do-7" in str(error.value)
    official = bench.score(None, [bench.read_replies(rows)], OFFICIAL)
    assert official.headline.official == 50  # the library takes every row that there is
    assert official.failures


def test_annotations_of_other_answers_are_refused():
    answer = Answer(instruction_id("Do 0."), ("Another answer.",), "m")
    with pytest.raises(ValueError, match="judged by another prompt"):
        AlpacaEval().score([answer], [replies_of(2)], Handling())


def test_a_failed_reply_is_counted():
    replies = [*replies_of(2, 2)[:1], JudgeReply(instruction_id("Do 1."), "", failure="no reply of the judge: 503")]
    found = AlpacaEval().score(None, [replies], COUNT)
    assert (found.num_scored, list(found.failures)) == (1, ["no reply of the judge"])


def test_two_judges_are_never_mixed():
    rows = [annotation(0, 2), annotation(1, 2, annotator="another")]
    with pytest.raises(ValueError, match="2 judges are mixed"):
        AlpacaEval().score(None, [AlpacaEval().read_replies(rows)], OFFICIAL)


def test_versions_are_different_protocols():
    assert AlpacaEval(version=1).protocol == "alpaca_eval/1-alpaca_eval_gpt4"
    assert AlpacaEval(version=2).protocol == "alpaca_eval/2-weighted_alpaca_eval_gpt4_turbo"


def test_base_and_aligned_are_paired(tmp_path):
    base, aligned = scored(1, 1, 2, 1), scored(2, 1, 2, 2)
    aligned.write(tmp_path)
    found = {each.name: each for each in compare_scored(base, read_scored(tmp_path), resamples=100)}
    assert found["win_rate"].difference.value == 0.5
    assert {"win_rate_koala", "avg_length", "words", "n_draws"} <= set(found)


def test_doubled_instructions_are_refused(tmp_path):
    path = tmp_path / "q.json"
    path.write_text(json.dumps([{"instruction": "Do.", "output": "Done."}] * 2))
    with pytest.raises(ValueError, match="1 instructions are there twice"):
        AlpacaEval(questions=str(path)).asks()


def test_without_annotations_it_says_where_they_go():
    with pytest.raises(ValueError, match="--judgments"):
        AlpacaEval().score([], [], Handling())


def test_length_control_needs_all_annotations():
    with pytest.raises(ValueError, match=r"of all 805 instructions; there are 1\."):
        AlpacaEval(length_controlled=True).score(None, [replies_of(2)], Handling())


def test_it_is_what_the_commands_expect():
    assert isinstance(AlpacaEval(), JudgedBenchmark)
    assert isinstance(AlpacaEval(), LibraryJudged)


def test_scoring_imports_neither_torch_nor_the_library():
    code = (
        "import sys; from mmalign.evaluation.benchmarks.alpaca_eval import AlpacaEval;"
        "print({'torch', 'alpaca_eval', 'pandas'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


@pytest.mark.parametrize(("column", "said"), [("generator_1", "2 baselines"), ("generator_2", "2 models")])
def test_annotations_of_several_models_are_never_mixed(column, said):
    rows = [annotation(i, 2, **{column: name}) for i, name in enumerate(("one", "other"))]
    with pytest.raises(ValueError, match=f"{said} are mixed"):
        AlpacaEval().score(None, [AlpacaEval().read_replies(rows)], OFFICIAL)


def test_annotations_of_another_version_are_refused():
    rows = [annotation(1, 2, annotator="alpaca_eval_gpt4")]
    assert AlpacaEval().score(None, [AlpacaEval().read_replies(rows)], Handling()).num_scored == 1
    bench = AlpacaEval(version=2)
    with pytest.raises(ValueError, match="another version's"):
        bench.score(None, [bench.read_replies(rows)], Handling())


def test_the_baseline_is_a_part_of_the_protocol():
    rows = [annotation(1, 2, generator_1="text_davinci_003")]
    assert (
        AlpacaEval().score(None, [AlpacaEval().read_replies(rows)], Handling()).protocol.endswith("/text_davinci_003")
    )


def test_double_and_missing_answers_are_named():
    run = replies_of(2, 1)
    first = Answer(run[0].id, ["Answer 0."])
    with pytest.raises(ValueError, match=f"1: answered more than once: {run[0].id}"):
        AlpacaEval().score([first, first], [run], Handling())
    found = AlpacaEval().score([first], [run], OFFICIAL)
    assert (found.num_questions, found.num_scored) == (2, 2)


@pytest.mark.parametrize("text", ["5", "5 5", "?", "[1]", '{"preference": "2", "output_2": 5}'])
def test_a_text_that_is_no_annotation_has_no_preference(text):
    assert not AlpacaEval().is_usable(text)
    run = [*replies_of(2), JudgeReply("x", text, "judge")]
    found = AlpacaEval().score(None, [run], COUNT)
    assert found.failures == {UNREADABLE: ("x",)}
