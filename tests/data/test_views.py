"""Views: golden cases by hand, and what the manifest says is what streaming yields."""

from collections import Counter
from dataclasses import replace

import pytest

from mmalign.batch import Role
from mmalign.data.manifest import Entry
from mmalign.data.reader import ShardSet
from mmalign.data.rows import Answer
from mmalign.data.rowset import RowSet, Source, usable
from mmalign.data.sample import Preference, Response, SampleError
from mmalign.data.variants import RandomCrop
from mmalign.data.views import BestOfN, Gold, ImagePairs, Pairs, Prompts, Steer, Unpaired, Unusable
from mmalign.messages import Text
from mmalign.steering import LIKERT_REQUEST, steer

IMAGE_PAIRS = ImagePairs(variant=RandomCrop())
VIEWS = [
    Pairs(),
    Pairs(margin=4.0),
    Pairs(pairs_per_sample=3),
    IMAGE_PAIRS,
    BestOfN(),
    BestOfN(min_score=12.0),
    Gold(model="tiny"),
    Steer(),
    Steer(form="nemo"),
    Unpaired(),
    Prompts(),
]


@pytest.fixture
def rows_of(make_sample):
    """`rows_of(view, totals, number=0)`: for each row the (response, role) in it, or the reason."""

    def choose(view, totals, number=0):
        choices = view.choose(Entry.of(make_sample(number, totals=totals)))
        return choices.reason if isinstance(choices, Unusable) else choices

    return choose


@pytest.fixture
def pair_of(rows_of):
    """`pair_of(view, totals, number=0)`: (chosen, rejected) numbers, or the reason."""

    def choose(view, totals, number=0):
        rows = rows_of(view, totals, number)
        return rows if isinstance(rows, str) else tuple(response for response, _ in rows[0])

    return choose


def unrated(text="Nobody judged this.", model="teacher"):
    return Response(text=text, model=model)


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
    assert pair_of(Pairs(), (12, 12, 12)) == "all ratings are equal"


def test_a_strict_margin_excludes_its_end(pair_of):
    assert pair_of(Pairs(strict=True), (12, 10)) == "no response more than 2 below the best"
    assert pair_of(Pairs(strict=True), (12, 9)) == (0, 1)


def test_zephyrs_rule_is_a_strict_margin_of_nothing(pair_of):
    """The best of 7, 12, 11, 9 against any of the others, about equally often."""
    zephyr = Pairs(margin=0.0, strict=True)
    drawn = Counter(pair_of(zephyr, (7, 12, 11, 9), number) for number in range(300))
    assert drawn.keys() == {(1, 0), (1, 2), (1, 3)}
    assert min(drawn.values()) > 70
    assert pair_of(zephyr, (12, 12)) == "all ratings are equal"


def test_the_worst_can_be_asked_for(pair_of):
    assert {pair_of(Pairs(rejected="worst"), (12, 9, 4, 10), n) for n in range(20)} == {(0, 2)}
    tied = {pair_of(Pairs(rejected="worst"), (12, 4, 4, 10), n) for n in range(40)}
    assert tied == {(0, 1), (0, 2)}


def test_several_pairs_have_the_best_one_in_common(rows_of):
    """Up to three others, each in a row of its own; the first pair is the one that stands alone otherwise."""
    for number in range(20):
        rows = rows_of(Pairs(pairs_per_sample=3), (12, 9, 11, 8, 10, 7), number)
        assert len(rows) == 3
        assert {chosen for chosen, _ in rows} == {(0, Role.CHOSEN)}
        assert len({rejected for _, rejected in rows}) == 3
        assert {response for _, (response, _) in rows} <= {1, 3, 4, 5}
        assert rows[0] == rows_of(Pairs(), (12, 9, 11, 8, 10, 7), number)[0]
    worst = rows_of(Pairs(pairs_per_sample=2, rejected="worst"), (12, 9, 11, 8, 10, 7))
    assert [rejected.response for _, rejected in worst] == [5, 3]
    assert len(rows_of(Pairs(pairs_per_sample=9), (12, 9, 11))) == 1


def test_no_two_pairs_of_a_sample_are_the_same(make_sample):
    """Responses 1 and 2 are the same text, so only one of them is a rejected one."""
    sample = make_sample(0, totals=(12, 4, 4, 8))
    twice = replace(sample.responses[2], text=sample.responses[1].text)
    sample = replace(sample, responses=(*sample.responses[:2], twice, sample.responses[3]))
    texts = [rows[0].answers[1].text for rows in Pairs(pairs_per_sample=3).groups(sample)]
    assert sorted(texts) == ["Answer 1 to 0.", "Answer 3 to 0."]


def test_the_score_is_the_named_ratings(pair_of):
    """Totals 8 and 4 differ in correctness only; both have helpfulness 4."""
    assert pair_of(Pairs(score=["correctness"]), (4, 8)) == (1, 0)
    assert pair_of(Pairs(score=["helpfulness"]), (4, 8)) == "all ratings are equal"
    assert pair_of(Pairs(score=["wit"]), (4, 8)) == "a rating is missing: wit"


def test_the_draw_depends_on_seed_and_key_alone(pair_of):
    pairs = [[pair_of(Pairs(seed=seed), (12, 9, 9, 9, 9), n) for n in range(30)] for seed in (0, 0, 1)]
    assert pairs[0] == pairs[1] != pairs[2]


def test_reasons(make_sample):
    sample = make_sample(0, totals=(12, 5))
    same = replace(sample, responses=(sample.responses[0], replace(sample.responses[1], text=sample.responses[0].text)))
    empty = replace(sample, responses=(sample.responses[0], replace(sample.responses[1], text=" \n")))
    partly = replace(sample.responses[1], ratings={"helpfulness": 3})
    cases = [
        (replace(sample, responses=sample.responses[:1]), "fewer than two responses"),
        (replace(sample, responses=(Response(text="a"), Response(text="b"))), "fewer than two rated responses"),
        (replace(sample, responses=(sample.responses[0], unrated())), "fewer than two rated responses"),
        (replace(sample, responses=(*sample.responses, partly)), "a rating is missing: correctness, coherence"),
        (same, "the responses below the margin repeat the best one's text"),
        (empty, "fewer than two rated responses that are not empty"),
        (replace(same, preference=Preference(0, 1)), "chosen and rejected are the same text"),
        (replace(empty, preference=Preference(0, 1)), "the chosen or the rejected response is empty"),
    ]
    assert [Pairs().choose(Entry.of(each)) for each, _ in cases] == [Unusable(reason) for _, reason in cases]


@pytest.mark.parametrize("view", [Pairs(), IMAGE_PAIRS, BestOfN(), Steer(), Unpaired()], ids=lambda v: type(v).__name__)
def test_an_answer_that_nobody_rated_changes_nothing(make_sample, view):
    """So a foreign answer may be added to any shard set, for SFT, and every other method makes the same rows."""
    for number in range(30):
        sample = make_sample(number, totals=[(12, 9, 11, 10), (12, 12, 4), (12, 10)][number % 3])
        more = replace(sample, responses=(*sample.responses, unrated()))
        assert view.choose(Entry.of(more)) == view.choose(Entry.of(sample))
        assert view.groups(more) == view.groups(sample)


@pytest.mark.parametrize("view", [Pairs(), Unpaired()], ids=["pairs", "unpaired"])
def test_a_direct_preference_comes_before_ratings(make_sample, view):
    sample = replace(make_sample(0), preference=Preference(1, 0))
    ((row,),) = view.groups(sample, shard="000000.tar")
    assert row.answers == (Answer("Answer 1 to 0.", Role.CHOSEN), Answer("Answer 0 to 0.", Role.REJECTED))
    assert (row.key, row.images, row.messages) == ("000000.tar/s000", sample.images, sample.messages)


def test_the_chosen_answer_stands_once_more_behind_another_picture(make_sample):
    """In a further row, which takes no place of its own in the order, and counts nothing where there is no picture."""
    ((pair, other),) = IMAGE_PAIRS.groups(make_sample(0, totals=(12, 4)), shard="a.tar")
    assert (pair,) == Pairs().groups(make_sample(0, totals=(12, 4)), shard="a.tar")[0]
    assert other.answers == (Answer("Answer 0 to 0.", Role.OTHER_IMAGE),)
    assert (other.key, other.images, other.messages) == (pair.key, pair.images, pair.messages)
    assert (pair.variant, other.variant, other.weight) == (None, RandomCrop(), 1.0)
    ((_, blind),) = IMAGE_PAIRS.groups(make_sample(0, images=0, totals=(12, 4)))
    assert blind.weight == 0.0


def test_the_best_of_n_by_hand(rows_of):
    """Of 9, 12, 12, 10 one of the two best, about equally often."""
    drawn = Counter(rows_of(BestOfN(), (9, 12, 12, 10), number) for number in range(200))
    assert drawn.keys() == {(((1, Role.ANSWER),),), (((2, Role.ANSWER),),)}
    assert min(drawn.values()) > 70
    assert rows_of(BestOfN(score=["helpfulness"]), (3, 4)) == (((1, Role.ANSWER),),)
    assert rows_of(BestOfN(), (3,)) == (((0, Role.ANSWER),),)


def test_the_best_of_bad_answers_can_be_left_out(rows_of):
    assert rows_of(BestOfN(min_score=10.0), (9, 8)) == "no response with a score of at least 10"
    assert rows_of(BestOfN(min_score=9.0), (9, 8)) == (((0, Role.ANSWER),),)


def test_gold_takes_the_answers_of_one_model_in_one_row(make_sample):
    sample = make_sample(0)
    gold = replace(sample, responses=(*sample.responses, unrated("Zero.", model="gold")))
    assert [row.answers for (row,) in Gold().groups(gold)] == [(Answer("Zero.", Role.ANSWER),)]
    ((row,),) = Gold(model="tiny").groups(gold)
    assert row.answers == tuple(Answer(f"Answer {i} to 0.", Role.ANSWER) for i in range(4))
    assert Gold().groups(sample) == ()
    assert Gold().choose(Entry.of(sample)) == Unusable("no response by 'gold'")
    empty = replace(sample, responses=(unrated(" ", model="gold"),))
    assert Gold().choose(Entry.of(empty)) == Unusable("the response by 'gold' is empty")


@pytest.mark.parametrize("form", ["likert", "nemo"])
def test_every_answer_is_asked_for_by_its_own_ratings(make_sample, form):
    """Totals 12, 9 and 12: the first and the third have the same ratings, so they stand behind one prompt."""
    sample = make_sample(0, totals=(12, 9, 12))
    (first,), (second,) = Steer(form=form).groups(sample, shard="a.tar")
    assert [answer.text for answer in first.answers] == ["Answer 0 to 0.", "Answer 2 to 0."]
    assert [answer.text for answer in second.answers] == ["Answer 1 to 0."]
    for row, coherence in ((first, 4), (second, 1)):
        asked = {"helpfulness": 4, "correctness": 4, "coherence": coherence, "complexity": 1, "verbosity": 2}
        assert row.messages == steer(sample.messages, asked, form)
        assert (row.key, row.images) == ("a.tar/s000", sample.images)


def test_all_that_is_not_said_is_asked_for_at_its_best():
    best = {"helpfulness": 4, "correctness": 4, "coherence": 4, "complexity": 4, "verbosity": 4}
    assert Steer().wanted == best
    assert Steer(attributes={"verbosity": 1}).wanted == best | {"verbosity": 1}


def test_a_steered_prompt_in_the_shards_is_named(make_sample):
    sample = make_sample(0)
    (question,) = sample.messages
    asked = question._replace(content=(*question.content, Text(f"{LIKERT_REQUEST}...")))
    with pytest.raises(SampleError, match=r"^a\.tar/s000: the prompt already asks for attributes.*Take the suffix out"):
        Steer().groups(replace(sample, messages=(asked,)), shard="a.tar")


def test_unpaired_answers_by_hand(rows_of):
    """Good from 11, bad up to 9, all in one row; 10 is neither."""
    good, bad = Role.CHOSEN, Role.REJECTED
    assert rows_of(Unpaired(), (12, 9, 11, 10)) == (((0, good), (2, good), (1, bad)),)
    assert rows_of(Unpaired(), (12, 12)) == (((0, good), (1, good)),)
    assert rows_of(Unpaired(), (3,)) == (((0, bad),),)
    assert rows_of(Unpaired(), (10, 10)) == "no response with a score from 11 or up to 9"
    assert rows_of(Unpaired(good_min=12.0, bad_max=11.5), (11, 12)) == (((1, good), (0, bad)),)
    assert Unpaired.roles == (good, bad, Role.MISMATCHED)


def test_a_text_cannot_be_good_and_bad(make_sample, encoder):
    """Judges are not always of one mind. The same label twice is fine, in the rows' encoder, too."""
    sample = make_sample(0, totals=(12, 4, 12))
    texts = [replace(response, text="The same.") for response in sample.responses]
    opposed = replace(sample, responses=tuple(texts[:2]))
    assert Unpaired().choose(Entry.of(opposed)) == Unusable("a text is both good and bad")
    ((row,),) = Unpaired().groups(replace(sample, responses=(texts[0], sample.responses[1], texts[2])))
    assert [answer.role for answer in encoder(row).answers] == [Role.CHOSEN, Role.CHOSEN, Role.REJECTED]


def test_prompts_need_no_responses(make_sample):
    ((row,),) = Prompts().groups(replace(make_sample(0), responses=()))
    assert row.answers == ()


@pytest.mark.parametrize("view", VIEWS, ids=lambda view: type(view).__name__)
def test_the_manifest_counts_what_streaming_yields(tmp_path, make_sample, write_set, view):
    totals = [(12, 9), (12, 11), (3,), (12, 10, 6), (), (8, 8)]
    shard_set = ShardSet(str(write_set(tmp_path / "set", [make_sample(n, totals=totals[n % 6]) for n in range(18)])))
    streamed = [view.groups(shard_set[n]) for n in range(len(shard_set))]
    found = usable(shard_set, view)
    assert found.rows.tolist() == [[n, row] for n, rows in enumerate(streamed) for row in range(len(rows))]
    assert (found.samples, found.reasons.total()) == (sum(map(bool, streamed)), sum(not rows for rows in streamed))


@pytest.mark.parametrize("view", VIEWS, ids=lambda view: type(view).__name__)
def test_every_row_holds_the_roles_that_the_view_names(make_sample, encoder, view):
    """And the encoder takes it."""
    for totals in ((12, 9), (12, 10, 6), (12, 12)):
        for group in view.groups(make_sample(0, totals=totals)):
            roles = [answer.role for row in encoder.group(group) for answer in row.answers]
            assert set(roles) <= set(view.roles)


def test_a_summary_counts_every_sample(tmp_path, make_sample, write_set):
    totals = [(12, 9)] * 3 + [(12, 11)] * 2 + [(5,)]
    folder = write_set(tmp_path / "set", [make_sample(n, totals=each) for n, each in enumerate(totals)])
    assert RowSet([Source(path=str(folder))], Pairs()).summary() == (
        f"{folder}: 3 of 6 samples usable, 3 rows; "
        "2: no response at least 2 below the best; 1: fewer than two responses"
    )


def test_every_kind_of_bad_sample_is_counted_by_its_name(tmp_path, make_sample, write_set):
    """One of each beside a good one: none is left out in silence, by any view that goes by ratings."""
    good, close, equal, few = (make_sample(n, totals=t) for n, t in enumerate([(12, 9), (12, 11), (9, 9), (12, 9)]))
    first, second = few.responses
    bad = {
        "empty": (first, replace(second, text="")),
        "partly": (first, replace(second, ratings={"helpfulness": 1, "correctness": 1, "complexity": 1})),
        "unrated": (first, unrated()),
        "same": (first, replace(second, text=first.text)),
    }
    samples = [good, close, equal, *(replace(few, key=key, responses=responses) for key, responses in bad.items())]
    samples.append(replace(few, key="direct", responses=(first, first), preference=Preference(0, 1)))
    samples.append(replace(few, key="blank", responses=(unrated(" "), first), preference=Preference(1, 0)))
    folder = write_set(tmp_path / "set", samples)

    def said(view):
        head, *reasons = RowSet([Source(path=str(folder))], view).summary().removeprefix(f"{folder}: ").split("; ")
        return head, set(reasons)

    assert said(Pairs()) == (
        "1 of 9 samples usable, 1 rows",
        {
            "1: no response at least 2 below the best",
            "1: all ratings are equal",
            "1: fewer than two rated responses that are not empty",
            "1: a rating is missing: coherence",
            "1: fewer than two rated responses",
            "1: the responses below the margin repeat the best one's text",
            "1: chosen and rejected are the same text",
            "1: the chosen or the rejected response is empty",
        },
    )
    assert said(Unpaired()) == (
        "5 of 9 samples usable, 5 rows",
        {
            "1: a rating is missing: coherence",
            "1: a text is both good and bad",
            "1: chosen and rejected are the same text",
            "1: the chosen or the rejected response is empty",
        },
    )
    assert said(BestOfN()) == ("8 of 9 samples usable, 8 rows", {"1: a rating is missing: coherence"})
    assert said(Steer())[1] == {"1: a rating is missing: coherence, verbosity"}


def test_no_usable_sample_is_an_error_with_the_counts(tmp_path, make_sample, write_set):
    folder = write_set(tmp_path / "set", [make_sample(n, totals=(4, 4)) for n in range(3)])
    with pytest.raises(ValueError, match=r"0 of 3 samples usable.*3: all ratings.*`data\.val_shards`.*`data\.view`"):
        RowSet([Source(path=str(folder))], Pairs(), config_key="data.val_shards")


@pytest.mark.parametrize(
    ("view", "settings", "words"),
    [
        (Pairs, {"margin": 0.0}, "margin above 0"),
        (Pairs, {"margin": -1.0, "strict": True}, "margin above 0"),
        (Pairs, {"score": []}, "Pairs needs ratings to sum"),
        (Pairs, {"pairs_per_sample": 0}, "at least one row"),
        (BestOfN, {"score": []}, "BestOfN needs ratings to sum"),
        (Unpaired, {"good_min": 9.0}, "from 9 to 9 both good and bad"),
        (Steer, {"attributes": {"verbosity": 5}}, "from 0 to 4"),
        (Steer, {"attributes": {"humor": 1}}, "no other"),
    ],
)
def test_impossible_rules_are_refused(view, settings, words):
    with pytest.raises(ValueError, match=words):
        view(**settings)


def test_a_source_without_weight_is_refused():
    with pytest.raises(ValueError, match=r"weight must be above 0, got 0.0"):
        Source(path="x", weight=0.0)
