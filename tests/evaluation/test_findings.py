import pytest

from mmalign.evaluation.findings import findings
from mmalign.evaluation.paired import Comparison, Direction, Estimate, verdict
from mmalign.evaluation.scores import Scores


def comparison(name, base, aligned, half, direction=Direction.LOWER):
    difference = Estimate(aligned - base, aligned - base - half, aligned - base + half)
    return Comparison(
        name=name,
        label=name,
        group="G",
        description="d",
        direction=direction,
        percent=True,
        num_samples=300,
        base=Estimate(base, base - half, base + half),
        aligned=Estimate(aligned, aligned - half, aligned + half),
        difference=difference,
        verdict=verdict(difference, direction),
    )


def scores(*comparisons, suite="world"):
    return Scores(suite=suite, comparisons=comparisons, resamples=100, level=0.95)


@pytest.mark.parametrize(
    ("aligned", "headline"),
    [
        (0.15, "After alignment the model makes up 50 % fewer objects"),
        (0.45, "Alignment did harm: the model makes up 50 % more objects than before"),
        (0.29, "Alignment did not measurably change how many objects the model makes up"),
    ],
)
def test_headline_says_what_the_interval_says(aligned, headline):
    assert findings(scores(comparison("chair_i", 0.3, aligned, 0.05))).headline == headline


def test_small_gain_is_called_less_than_hoped():
    assert "less than the third" in findings(scores(comparison("chair_i", 0.3, 0.25, 0.01))).summary
    assert "less than the third" not in findings(scores(comparison("chair_i", 0.3, 0.19, 0.01))).summary


def test_cost_in_recall_stands_at_the_top():
    found = findings(
        scores(
            comparison("chair_i", 0.3, 0.15, 0.05),
            comparison("object_recall", 0.95, 0.85, 0.02, Direction.HIGHER),
            comparison("text_accuracy", 0.9, 0.89, 0.05, Direction.HIGHER),
        )
    )
    assert found.caution.startswith("It cost recall of true objects: \N{MINUS SIGN}10.0")
    assert "text-only tasks shows no measurable change" in found.caution
    assert len(found.better) == len(found.worse) == len(found.unclear) == 1


def test_measure_without_a_better_side_is_neither_gain_nor_loss():
    found = findings(scores(comparison("words", 0.5, 0.3, 0.05, Direction.NEITHER)))
    assert (found.better, found.worse, found.unclear) == ([], [], [])
    assert len(found.shifted) == 1


def test_guessing_is_called_guessing():
    found = findings(scores(comparison("preference_accuracy", 0.5, 0.51, 0.03, Direction.HIGHER), suite="preferences"))
    assert "did not measurably change" in found.headline
    assert "guessing" in found.caution
