import numpy as np
import pandas as pd
import pytest
from suites import FAKES, fake_scored

from mmalign.evaluation.suite.drawings import heatmap, scaling_curves
from mmalign.evaluation.suite.scaling import Correlation, correlation_of, models_of, pearson, share_of


@pytest.fixture
def further(tmp_path):
    """`further("a", 0.3)`: another model's folder, with `<benchmark>/score.json` and nothing else."""

    def make(label, strength, judge="fake-judge-0"):
        for fake in FAKES[:4]:
            scored = fake_scored(fake, model=f"fake-{label}", size=60, shift=strength)
            scored.__class__(**{**vars(scored), "judge": judge}).write(tmp_path / label / fake.name)
        return tmp_path / label

    return make


def test_pearson_equals_pandas_and_numpy():
    """Pairs of models that both have; fewer than three, or a constant column, say nothing."""
    table = np.random.default_rng(0).normal(size=(6, 5))
    np.testing.assert_allclose(pearson(table), np.corrcoef(table.T), atol=1e-12)
    table[0, 0] = table[1, 2] = np.nan
    table[:4, 4] = np.nan
    np.testing.assert_allclose(pearson(table), pd.DataFrame(table).corr(min_periods=3).to_numpy(), atol=1e-12)
    table[:, 3] = 0.5
    assert np.isnan(pearson(table)[3]).all()


@pytest.mark.parametrize(
    ("label", "share"),
    [("0.25", 0.25), ("25%", 0.25), ("100 %", 1.0), (".5", 0.5), ("llava-rlhf", None), ("v1.5", None)],
)
def test_a_label_is_a_share_or_a_name(label, share):
    assert share_of(label) == share


@pytest.mark.parametrize("label", ["0", "25", "120%"])
def test_a_number_that_is_no_share_is_an_error(label):
    with pytest.raises(ValueError, match="is no share of the pairs"):
        share_of(label)


def test_models_stand_by_share_and_names_behind(good, further):
    others = {"rival": further("rival", 0.2), "50%": further("half", 0.05), "0.25": further("quarter", 0.02)}
    models, problems = models_of(good, others)
    assert [(model.label, model.share) for model in models] == [
        ("base", 0.0),
        ("0.25", 0.25),
        ("50%", 0.5),
        ("aligned", 1.0),
        ("rival", None),
    ]
    assert problems == []
    assert models[1].headlines["mm_vet"].low < models[1].headlines["mm_vet"].value
    curves = scaling_curves(good, models)
    assert [curve.title for curve in curves] == ["MT-Bench", "AlpacaEval", "MM-Vet", "LLaVA-Bench"]
    assert "at the base" in curves[0].caption


def test_another_judge_keeps_a_model_off_the_curve(good, further):
    models, problems = models_of(good, {"0.5": further("half", 0.05, judge="other")})
    assert models[1].headlines == {}
    assert len(problems) == 4
    assert problems[0].startswith("0.5: MT-Bench: base and aligned cannot be compared, they differ in judge")
    assert scaling_curves(good, models) == []


def test_two_models_have_no_correlation(good):
    models, _ = models_of(good, {})
    assert "needs at least 3" in correlation_of(good, models)
    assert scaling_curves(good, models) == []


def test_correlation_is_over_all_models(good, further):
    models, _ = models_of(good, {"rival": further("rival", 0.2)})
    correlation = correlation_of(good, models)
    assert correlation.models == ["base", "aligned", "rival"]
    values = [[model.headlines[name].value for name in ("mt_bench", "mm_vet")] for model in models]
    assert correlation.matrix[0, 2] == pytest.approx(np.corrcoef(np.array(values).T)[0, 1])
    assert np.isnan(correlation.matrix[0, 4])  # the rival has no POPE
    drawn = heatmap(correlation)
    assert "over 3 models (base, aligned, rival)" in drawn.caption
    assert "below 1.00" in drawn.caption


def test_least_coefficient_is_that_of_the_tables():
    """Critical values of Pearson's r, two-sided 5 %: 0.997 at n = 3, 0.754 at n = 7."""
    three, seven = (Correlation(["a"], np.ones((1, 1)), ["m"] * count) for count in (3, 7))
    assert three.least == pytest.approx(0.997, abs=5e-4)
    assert seven.least == pytest.approx(0.754, abs=5e-4)


def test_an_empty_folder_is_an_error(good, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"0.5: no score of any of the suite's benchmarks"):
        models_of(good, {"0.5": tmp_path})
