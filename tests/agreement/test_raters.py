"""Columns of what raters said, from samples."""

from dataclasses import replace

import numpy as np
import pytest

from mmalign.agreement.raters import NO_ANSWER, NO_PLACE, collect
from mmalign.data.reader import ShardSet
from mmalign.data.rowset import Source
from mmalign.data.sample import Judgment


def test_every_answer_has_its_place_in_every_column(answer, sample):
    """Raters, and aspects, that come late or miss an answer have NaN there; samples may have no answer."""
    found = collect(
        [
            sample(answer(" four ", gpt={"helpfulness": 3}), answer("seven..", gpt={"helpfulness": 1}), chosen=(1, 0)),
            sample(),
            sample(answer("x"), answer("yy", gpt={"quality": 2.5}, gem={"helpfulness": 4})),
        ]
    )
    assert list(found.raters) == ["preference", "gem", "gpt"]
    np.testing.assert_array_equal(found.starts, [0, 2, 2, 4])
    np.testing.assert_array_equal(found.lengths, [4, 7, 1, 2])
    np.testing.assert_array_equal(found.chosen, [1, NO_ANSWER, NO_ANSWER])
    np.testing.assert_array_equal(found.rejected, [0, NO_ANSWER, NO_ANSWER])
    nan = np.nan
    np.testing.assert_array_equal(found.raters["gpt"].values["helpfulness"], [3, 1, nan, nan])
    np.testing.assert_array_equal(found.raters["gpt"].values["quality"], [nan, nan, nan, 2.5])
    np.testing.assert_array_equal(found.raters["gem"].values["helpfulness"], [nan, nan, nan, 4])
    np.testing.assert_array_equal(found.raters["gpt"].judged, [True, True, False, True])
    assert not found.raters["preference"].values
    assert found.num_samples == 3


def test_an_invalid_judgment_is_marked_and_has_no_number(answer, sample):
    """Never zero; places are kept where they are known."""
    found = collect(
        [
            sample(
                answer(gpt="cut off", places={"gpt": 1}),
                answer(gpt={"helpfulness": 0}, places={"gpt": 0}),
                answer(gpt={"helpfulness": 1}),
            )
        ]
    )
    gpt = found.raters["gpt"]
    np.testing.assert_array_equal(gpt.invalid, [True, False, False])
    np.testing.assert_array_equal(gpt.places, [1, 0, NO_PLACE])
    np.testing.assert_array_equal(gpt.values["helpfulness"], [np.nan, 0, 1])


def test_ratings_are_the_latest_whoever_gave_them(answer, sample):
    """Views go by them. A judge without a name is `unnamed`; one with a name of ours gets a prefix."""
    first = answer(gpt={"helpfulness": 1}, gem={"helpfulness": 4})
    samples = [sample(first, answer(gem={"helpfulness": 0}, gpt={"helpfulness": 2}))]
    found = collect(samples, ["ratings", "gem"])
    np.testing.assert_array_equal(found.raters["ratings"].values["helpfulness"], [4, 2])
    assert list(found.raters) == ["ratings", "gem"]
    nameless = [sample(replace(first, judge=""), answer(world={"helpfulness": 1}))]
    assert list(collect(nameless).raters) == ["gpt", "judge:world", "unnamed"]


def test_a_judge_that_stands_there_twice_counts_once(answer, sample):
    """The first, which is the latest, in foreign records; the others keep their places."""
    twice = replace(answer(gpt={"helpfulness": 3}), judgments=(Judgment(judge="gpt", ratings={"helpfulness": 1}),))
    found = collect([sample(twice, answer(gpt={"helpfulness": 2}))])
    np.testing.assert_array_equal(found.raters["gpt"].values["helpfulness"], [3, 2])


def test_the_world_is_asked_on_the_spot():
    """Only when it is named: it equals the ratings that the shipped shards were built with."""
    shards = ShardSet(Source(path="world-heldout").resolve())
    samples = [shards[number] for number in range(5)]
    assert list(collect(samples).raters) == ["unnamed"]
    found = collect(samples, ["world", "unnamed"])
    exact, built = (found.raters[name].values["correctness"] for name in ("world", "unnamed"))
    there = ~np.isnan(built)
    np.testing.assert_array_equal(exact[there], built[there])
    assert not found.raters["world"].invalid.any()


def test_a_rater_that_is_not_there_is_named_with_those_that_are(answer, sample):
    """So is a set that nobody rated."""
    samples = [sample(answer(gpt={"helpfulness": 1}), answer())]
    with pytest.raises(ValueError, match=r"shards/x: no rater 'gem'. There are: gpt, ratings"):
        collect(samples, ["gpt", "gem"], where="shards/x")
    with pytest.raises(ValueError, match=r"no rater 'world'"):
        collect(samples, ["world"])
    with pytest.raises(ValueError, match=r"nobody rated or chose anything here. There are: none.*mmalign judge"):
        collect([sample(answer())])
