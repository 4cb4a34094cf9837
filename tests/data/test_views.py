"""Views: golden cases by hand, and what the manifest says is what streaming yields."""

from collections import Counter
from dataclasses import replace

import pytest

from mmalign.batch import Role
from mmalign.data.manifest import Entry
from mmalign.data.reader import ShardSet
from mmalign.data.rows import Answer
from mmalign.data.rowset import RowSet, Source, usable
from mmalign.data.sample import Preference, Response
from mmalign.data.views import Gold, Pairs, Prompts, Unusable


@pytest.fixture
def pair_of(make_sample):
    """`pair_of(view, totals, number=0)`: (chosen, rejected) numbers, or the reason."""

    def choose(view, totals, number=0):
        choices = view.choose(Entry.of(make_sample(number, totals=totals)))
        return choices.reason if isinstance(choices, Unusable) else choices[0]

    return choose


def test_the_paper_rule_by_hand(pair_of):
    """Best 12; at least 2 below it are 9 and 10, never 11. Over many samples both are drawn, about equally often."""
    drawn = Counter(pair_of(Pairs(), (12, 9, 11, 10), number) for number in range(200))
    assert drawn.keys() == {(0, 1), (0, 3)}
    assert min(drawn.values()) > 70


def test_ties_for_best_are_drawn(pair_of):
    drawn = Counter(pair_of(Pairs(), (10, 12, 12, 11), number) for number in range(200))
    assert drawn.keys() == {(1, 0), (2, 0)}
    assert min(drawn.values()) > 70


def test_the_margin_includes_its_end(pair_of):
    assert pair_of(Pairs(), (12, 10)) == (0, 1)
    assert pair_of(Pairs(), (12, 11)) == "no response at least 2 below the best"
    assert pair_of(Pairs(margin=1.0), (11, 12)) == (1, 0)
    assert pair_of(Pairs(), (12, 12, 12)) == "no response at least 2 below the best"


def test_the_worst_can_be_asked_for(pair_of):
    assert {pair_of(Pairs(rejected="worst"), (12, 9, 4, 10), n) for n in range(20)} == {(0, 2)}
    tied = {pair_of(Pairs(rejected="worst"), (12, 4, 4, 10), n) for n in range(40)}
    assert tied == {(0, 1), (0, 2)}


def test_the_score_is_the_named_ratings(pair_of):
    """Totals 8 and 4 differ in correctness only; both have helpfulness 4."""
    assert pair_of(Pairs(score=["correctness"]), (4, 8)) == (1, 0)
    assert pair_of(Pairs(score=["helpfulness"]), (4, 8)) == "no response at least 2 below the best"
    assert pair_of(Pairs(score=["wit"]), (4, 8)) == "fewer than two rated responses"


def test_the_draw_depends_on_seed_and_key_alone(pair_of):
    pairs = [[pair_of(Pairs(seed=seed), (12, 9, 9, 9, 9), n) for n in range(30)] for seed in (0, 0, 1)]
    assert pairs[0] == pairs[1] != pairs[2]


def test_reasons(make_sample):
    sample = make_sample(0, totals=(12, 5))
    same = replace(sample, responses=(sample.responses[0], replace(sample.responses[1], text=sample.responses[0].text)))
    empty = replace(sample, responses=(sample.responses[0], replace(sample.responses[1], text=" \n")))
    cases = [
        (replace(sample, responses=sample.responses[:1]), "fewer than two responses"),
        (replace(sample, responses=(Response(text="a"), Response(text="b"))), "fewer than two rated responses"),
        (same, "the responses below the margin repeat the best one's text"),
        (empty, "fewer than two rated responses that are not empty"),
        (replace(same, preference=Preference(0, 1)), "chosen and rejected are the same text"),
        (replace(empty, preference=Preference(0, 1)), "the chosen or the rejected response is empty"),
    ]
    assert [Pairs().choose(Entry.of(each)) for each, _ in cases] == [Unusable(reason) for _, reason in cases]


def test_a_direct_preference_comes_before_ratings(make_sample):
    sample = replace(make_sample(0), preference=Preference(1, 0))
    (row,) = Pairs().rows(sample, shard="000000.tar")
    assert row.answers == (Answer("Answer 1 to 0.", Role.CHOSEN), Answer("Answer 0 to 0.", Role.REJECTED))
    assert (row.key, row.images, row.messages) == ("000000.tar/s000", sample.images, sample.messages)


def test_gold_takes_the_answers_of_one_model(make_sample):
    sample = make_sample(0)
    gold = replace(sample, responses=(*sample.responses, Response(text="Zero.", model="gold")))
    assert [row.answers for row in Gold().rows(gold)] == [(Answer("Zero.", Role.ANSWER),)]
    assert len(Gold(model="tiny").rows(gold)) == 4
    assert Gold().rows(sample) == ()
    assert Gold().choose(Entry.of(sample)) == Unusable("no response by 'gold'")


def test_prompts_need_no_responses(make_sample):
    (row,) = Prompts().rows(replace(make_sample(0), responses=()))
    assert row.answers == ()


@pytest.mark.parametrize("view", [Pairs(), Pairs(margin=4.0), Gold(model="tiny"), Prompts()])
def test_the_manifest_counts_what_streaming_yields(tmp_path, make_sample, write_set, view):
    totals = [(12, 9), (12, 11), (3,), (12, 10, 6), (), (8, 8)]
    shard_set = ShardSet(str(write_set(tmp_path / "set", [make_sample(n, totals=totals[n % 6]) for n in range(18)])))
    streamed = [view.rows(shard_set[n]) for n in range(len(shard_set))]
    found = usable(shard_set, view)
    assert found.rows == [(n, row) for n, rows in enumerate(streamed) for row in range(len(rows))]
    assert (found.samples, found.reasons.total()) == (sum(map(bool, streamed)), sum(not rows for rows in streamed))


def test_a_summary_counts_every_sample(tmp_path, make_sample, write_set):
    totals = [(12, 9)] * 3 + [(12, 11)] * 2 + [(5,)]
    folder = write_set(tmp_path / "set", [make_sample(n, totals=each) for n, each in enumerate(totals)])
    assert RowSet([Source(path=str(folder))], Pairs()).summary() == (
        f"{folder}: 3 of 6 samples usable, 3 rows; "
        "2: no response at least 2 below the best; 1: fewer than two responses"
    )


def test_no_usable_sample_is_an_error_with_the_counts(tmp_path, make_sample, write_set):
    folder = write_set(tmp_path / "set", [make_sample(n, totals=(4, 4)) for n in range(3)])
    with pytest.raises(ValueError, match=r"0 of 3 samples usable.*3: no response.*`data\.val_shards`.*`data\.view`"):
        RowSet([Source(path=str(folder))], Pairs(), config_key="data.val_shards")


@pytest.mark.parametrize(("settings", "words"), [({"margin": 0.0}, "margin above 0"), ({"score": []}, "score")])
def test_impossible_rules_are_refused(settings, words):
    with pytest.raises(ValueError, match=rf"{words}.*data\.view\.init_args|data\.view\.init_args.*"):
        Pairs(**settings)


def test_a_source_without_weight_is_refused():
    with pytest.raises(ValueError, match=r"weight must be above 0, got 0.0"):
        Source(path="x", weight=0.0)
