"""The newest stay, and the best; the others go, and only when a newer one is whole."""

import json

import pytest

from mmalign.checkpoint import newest_checkpoint
from mmalign.checkpoint.retention import forget_scores, read_scores, staying, write_score

NAMES = ["step-1", "step-2", "step-3", "step-4", "step-5"]
SCORES = {"step-1": 0.1, "step-2": 0.9, "step-4": 0.5, "step-5": 0.5}


@pytest.mark.parametrize(
    ("keep_last", "keep_best", "mode", "stay"),
    [
        (1, 0, "min", {5}),
        (2, 0, "min", {4, 5}),
        (1, 1, "min", {1, 5}),
        (1, 1, "max", {2, 5}),
        (1, 2, "min", {1, 5}),  # 4 and 5 are equally good: the newer one
        (1, 3, "min", {1, 4, 5}),
        (9, 9, "min", {1, 2, 3, 4, 5}),
    ],
)
def test_newest_and_best_stay(keep_last, keep_best, mode, stay):
    found = staying(NAMES, SCORES, keep_last=keep_last, keep_best=keep_best, mode=mode)
    assert found == {f"step-{number}" for number in stay}


def test_a_best_one_outlives_newer_ones(train, toy, names, tmp_path):
    """Eight steps an epoch, validated behind each: the second is the best."""
    train(toy(scores=[0.5, 0.2, 0.9, 0.8]), max_epochs=4, every_n_steps=3, keep_last=2)
    assert names() == ["best.json", "latest", "step-000016", "step-000030", "step-000032"]
    assert (tmp_path / "checkpoints/latest").read_text() == "step-000032\n"
    assert read_scores(tmp_path / "checkpoints", "val/loss")["step-000016"] == pytest.approx(0.2)


def test_the_best_is_known_after_a_resume(train, toy, names, tmp_path):
    scores = [0.5, 0.2, 0.9, 0.8]
    train(toy(scores=scores), max_epochs=3, every_n_steps=100, keep_last=1)
    train(toy(scores=scores), max_epochs=4, every_n_steps=100, keep_last=1, resume=newest_checkpoint(tmp_path))
    assert names() == ["best.json", "latest", "step-000016", "step-000032"]


def test_a_score_that_is_no_number_is_never_the_best(train, toy, names):
    train(toy(scores=[0.5, float("nan"), 0.9]), max_epochs=3, every_n_steps=100, keep_last=1)
    assert names() == ["best.json", "latest", "step-000008", "step-000024"]


def test_a_metric_that_is_not_logged_is_named_with_those_that_are(train, toy):
    with pytest.raises(ValueError, match=r"'val/reward', and validation logged no such metric, but \['val/loss'\]"):
        train(toy(scores=[0.5, 0.5]), monitor="val/reward")


@pytest.mark.parametrize("text", ["", "[]", '{"val/loss": 3}', '{"val/other": {"step-000016": 0.1}}'])
def test_torn_scores_and_those_of_another_metric_are_none(tmp_path, text):
    (tmp_path / "best.json").write_text(text)
    assert read_scores(tmp_path, "val/loss") == {}


def test_scores_of_checkpoints_that_are_gone_are_dropped(train, toy, tmp_path):
    train(toy(scores=[0.5, 0.2, 0.9, 0.8]), max_epochs=4, every_n_steps=100, keep_last=1)
    assert set(json.loads((tmp_path / "checkpoints/best.json").read_text())["val/loss"]) == {
        "step-000016",
        "step-000032",
    }


@pytest.mark.parametrize(("name", "value"), [("every_n_steps", 0), ("keep_last", 0), ("keep_best", -1)])
def test_counts_must_count(train, toy, name, value):
    with pytest.raises(ValueError, match=f"`checkpoint.{name}` counts something"):
        train(toy(), **{name: value})


def test_a_checkpoint_that_was_set_aside_leaves_no_score(tmp_path):
    """The one of its name that the run will save anew has none yet."""
    for name, score in (("step-000001", 0.3), ("step-000002", 0.1)):
        (tmp_path / name).mkdir()
        write_score(tmp_path, "val/loss", name, score)
    (tmp_path / "step-000002").rename(tmp_path / "left-step-000002")
    forget_scores(tmp_path, "val/loss")
    assert read_scores(tmp_path, "val/loss") == {"step-000001": 0.3}
