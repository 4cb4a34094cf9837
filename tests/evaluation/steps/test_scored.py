import json
import math
import re
from dataclasses import replace

import numpy as np
import pytest

from mmalign.evaluation.paired import Direction, Ratio
from mmalign.evaluation.steps.faults import UNREADABLE
from mmalign.evaluation.steps.scored import Item, Metric, Scored, ratio_value, read_scored


def metric(name: str, terms: Ratio, **settings) -> Metric:
    ids = tuple(f"q{i}" for i in range(len(terms.numerators)))
    return Metric(name=name, label=name, description="d", ids=ids, terms=terms, **settings)


PLAIN = metric("accuracy", Ratio.mean([1, 0, 1, 1]), headline=True, official=0.75)
UNDEFINED = metric("precision", Ratio.of([0, 0], [0, 0]), direction=Direction.LOWER, group="split")
RUNS = metric("total", Ratio.mean(np.array([[1, 0], [1, 0.5]])), percent=False, official=62.5, runs=(100.0, 25.0))
SCORED = Scored(
    benchmark="mm_vet",
    title="MM-Vet",
    protocol="mm_vet/1",
    model="embedded+dpo",
    judge="gpt-4-0613",
    num_questions=5,
    num_scored=4,
    failures={UNREADABLE: ["q4"]},
    metrics=(PLAIN, UNDEFINED, RUNS),
    items=(
        Item("q0", "Größe?", "a\u2028b\n", 1.0, "rec", "b", "good", ["1.jpg"]),
        Item("q4", "Who?", "", None, pictures=[]),
    ),
    lineage={"questions": "9f2c"},
)


def plain(found: Metric) -> dict:
    return vars(found) | {"terms": [each.tolist() for each in found.terms]}


def test_a_score_comes_back_as_it_was_written(tmp_path):
    """Undefined values, terms with columns, several runs and failures included; from the folder or the file."""
    path = SCORED.write(tmp_path)
    for found in (read_scored(path), read_scored(tmp_path)):
        assert list(map(plain, found.metrics)) == list(map(plain, SCORED.metrics))
        assert found.items == SCORED.items
        assert replace(found, metrics=(), items=()) == replace(SCORED, metrics=(), items=())


def test_what_is_undefined_is_null_for_any_reader(tmp_path):
    record = json.loads(SCORED.write(tmp_path).read_text("utf-8"), parse_constant=pytest.fail)
    assert [each["value"] for each in record["metrics"]] == [0.75, None, 0.625]
    assert len((tmp_path / "scores.jsonl").read_bytes().splitlines()) == 2


def test_a_value_is_a_ratio_of_sums_or_the_mean_of_such():
    """(1 + 0) / (1 + 3) = 1/4; columns 1/2 and 3/8 make 7/16, and not the 4/10 of all together."""
    assert ratio_value(Ratio.of([1, 0], [1, 3])) == 1 / 4
    assert ratio_value(Ratio.of(np.array([[1, 0], [0, 3]]), np.array([[1, 1], [1, 7]]))) == 7 / 16
    assert math.isnan(UNDEFINED.value)
    assert math.isnan(metric("none", Ratio.mean([])).value)


def test_the_deviation_is_that_of_the_runs():
    """Means 1 and 1/4: each is 3/8 from theirs. One run, or columns that are no runs, have none."""
    assert RUNS.std == 3 / 8
    assert replace(RUNS, runs=()).std is None
    assert replace(PLAIN, runs=(0.75,)).std is None


def test_the_deviation_of_nothing_is_undefined():
    assert math.isnan(metric("total", Ratio.mean(np.zeros((0, 2))), runs=(0.0, 0.0)).std)


def test_an_official_number_that_is_undefined_is_none_to_a_reader(tmp_path):
    """JSON has no NaN; nor have the runs, one of which lacks."""
    undefined = replace(RUNS, official=math.nan, runs=(math.nan, 25.0))
    replace(SCORED, metrics=(undefined,)).write(tmp_path)
    (found,) = read_scored(tmp_path).metrics
    assert (found.official, found.runs, found.value) == (None, (), RUNS.value)


def test_metrics_are_found_by_name_and_the_headline_by_its_mark():
    assert SCORED["precision"] is UNDEFINED
    assert SCORED.headline is PLAIN
    assert PLAIN.num_samples == 4


def test_a_missing_score_says_which_command_writes_it(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"score\.json.*`mmalign evaluate score`"):
        read_scored(tmp_path / "score.json")


@pytest.mark.parametrize(
    ("damage", "what"),
    [
        (lambda text: text[:-20], "JSONDecodeError"),
        (lambda _: "[]", "TypeError"),
        (lambda _: "{}", "KeyError: 'metrics'"),
        (lambda text: text.replace('"title"', '"name"'), "TypeError: .*'title'"),
        (lambda text: text.replace('"higher"', '"up"'), "ValueError: 'up'"),
        (lambda text: text.replace('"numerators"', '"counts"'), "KeyError: 'numerators'"),
    ],
    ids=["cut", "list", "empty", "no title", "no such direction", "no terms"],
)
def test_a_damaged_score_is_named_and_what_to_do(damage, what, tmp_path):
    path = SCORED.write(tmp_path)
    path.write_text(damage(path.read_text("utf-8")), "utf-8")
    with pytest.raises(ValueError, match=rf"^{re.escape(str(path))} is not a whole score file \({what}") as error:
        read_scored(tmp_path)
    assert str(error.value).endswith("Delete it and score again.")


def test_a_score_without_its_questions_is_not_whole(tmp_path):
    path = SCORED.write(tmp_path)
    (tmp_path / "scores.jsonl").unlink()
    with pytest.raises(ValueError, match="FileNotFoundError"):
        read_scored(path)


def test_half_an_emoji_is_written(tmp_path):
    """A model that is cut leaves one; it must not take the score with it."""
    replace(SCORED, items=(Item("q0", "?", "Nice \ud83d", 1.0),)).write(tmp_path)
    assert read_scored(tmp_path).items[0].answer.startswith("Nice ")


def test_a_script_that_prints_nan_does_not_stop_the_writing(tmp_path):
    nan = replace(RUNS, official=math.nan, runs=(math.nan, 1.0))
    replace(SCORED, metrics=(nan,)).write(tmp_path)
    (found,) = read_scored(tmp_path).metrics
    assert (found.official, found.runs) == (None, ())
