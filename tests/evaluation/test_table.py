import math

import pytest
from rich.console import Console

from mmalign.evaluation.paired import Direction, Measure, Ratio, compare
from mmalign.evaluation.scores import Scores, read_scores
from mmalign.evaluation.table import markdown_table, number, scores_table


@pytest.mark.parametrize(
    ("value", "settings", "shown"),
    [
        (0.1234, {"percent": True}, "12.3"),
        (-0.1234, {"percent": True}, "\N{MINUS SIGN}12.3"),
        (-0.0001, {"percent": True, "signed": True}, "0.0"),
        (0.05, {"percent": False, "signed": True}, "+0.05"),
        (math.nan, {"percent": True}, "undefined"),
    ],
)
def test_numbers(value, settings, shown):
    assert number(value, **settings) == shown


@pytest.fixture
def scores() -> Scores:
    """One measure with an interval, one without."""
    measures = [
        Measure(
            name=name, label=name, group="G", description="d", direction=Direction.HIGHER, base=base, aligned=aligned
        )
        for name, base, aligned in (
            ("whole", Ratio.mean([0] * 20 + [1] * 20), Ratio.mean([1] * 40)),
            ("sparse", Ratio.of([1, 0, 0], [1, 0, 0]), Ratio.mean([1, 1, 0])),
        )
    ]
    return Scores(
        suite="world",
        comparisons=tuple(compare(measure, resamples=200) for measure in measures),
        lineage={"seed": "0"},
        resamples=200,
        level=0.95,
    )


def test_tables_say_the_verdict_in_words(scores):
    console = Console(width=160, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(scores_table(scores))
    for text in (console.export_text(), markdown_table(scores)):
        assert "better" in text
        assert "too few to say" in text
    console.file.close()


def test_scores_come_back_as_they_were_written(scores, tmp_path):
    """Undefined bounds too, which JSON has no number for."""
    path = scores.write(tmp_path)
    again = read_scores(tmp_path)
    assert "NaN" not in path.read_text()
    assert again["whole"] == scores["whole"]
    assert math.isnan(again["sparse"].base.low)
    assert again.lineage == scores.lineage


def test_damaged_scores_are_named(tmp_path):
    (tmp_path / "scores.json").write_text("{}")
    with pytest.raises(ValueError, match=r"scores.json is not a whole scores file"):
        read_scores(tmp_path)
