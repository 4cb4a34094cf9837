"""Replies: the last JSON object counts, whole and on the scale, or nothing does."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmalign.judges.aspects import AspectSet, load_aspects
from mmalign.judges.parse import ReplyError, last_object, read_ratings, read_verdict

ASPECTS = AspectSet(name="t", kind="together", prompt="", scale=(1, 5), aspects={"good": "?", "true": "?"})
GOOD = [{"response": 1, "good": 1, "true": 5}, {"response": 2, "good": 3, "true": 3}]


def reply(entries, **more):
    return json.dumps({"ratings": entries} | more)


def test_ratings_come_in_the_order_that_was_shown_whatever_that_of_the_reply():
    reasons = [{"response": 2, "reason": " second "}, {"response": 1, "reason": "first"}]
    found = read_ratings(f"I looked. {reply(GOOD[::-1], reasons=reasons)}", ASPECTS, 2)
    assert [dict(each.ratings) for each in found] == [{"good": 1, "true": 5}, {"good": 3, "true": 3}]
    assert [each.reason for each in found] == ["first", "second"]


@pytest.mark.parametrize(
    "around", ["{}", "```json\n{}\n```", "First {{a: b}} and {{\"x\": 1}}.\n{}\nDone.", "{{\"ratings\": []}} no: {} ok"]
)  # fmt: skip
def test_the_last_object_counts_whatever_stands_around_it(around):
    assert len(read_ratings(around.format(reply(GOOD)), ASPECTS, 2)) == 2


def test_a_whole_number_may_be_written_with_a_point():
    entries = [GOOD[0] | {"good": 4.0}, GOOD[1]]
    rated = read_ratings(reply(entries), ASPECTS, 2)[0].ratings["good"]
    assert (rated, type(rated)) == (4, int)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the reply is empty"),
        ("They are all good.", "no whole JSON object"),
        (reply(GOOD)[:-5], "no whole JSON object at the end"),  # cut: the last whole object is an entry
        (reply(GOOD).replace("]}", "],}"), "no whole JSON object at the end"),  # a trailing comma is not mended
        (reply(GOOD) + " {}", "no list `ratings`"),
        ('{"ratings": {"1": {}}}', "no list `ratings`"),
        (reply(GOOD[:1]), "rate responses 1 to 2, each once"),
        (reply([GOOD[0], GOOD[0]]), "each once"),
        (reply([*GOOD, GOOD[0] | {"response": 3}]), "each once"),
        (reply([GOOD[0], GOOD[1] | {"response": "2"}]), "each once"),
        (reply([GOOD[0], GOOD[1] | {"good": 6}]), "response 2: `good` must be a whole number from 1 to 5, is 6"),
        (reply([GOOD[0], GOOD[1] | {"good": 0}]), "is 0"),
        (reply([GOOD[0], GOOD[1] | {"good": 2.5}]), r"is 2\.5"),
        (reply([GOOD[0], GOOD[1] | {"good": "4"}]), "is '4'"),
        (reply([GOOD[0], GOOD[1] | {"good": True}]), "is True"),
        (reply([GOOD[0], GOOD[1] | {"good": None}]), "is None"),
        (reply([GOOD[0], {"response": 2, "good": 3}]), "`true` must be .* is missing"),
        (reply(GOOD).replace('"good": 1', '"good": NaN'), "no whole JSON object at the end"),
        (reply(GOOD).replace('"good": 1', '"good": 1e999'), "is inf"),
        (reply(GOOD).replace('"good": 1', '"good": 1, "good": 5'), "a key stands twice"),
    ],
)
def test_what_is_not_whole_is_refused_with_the_reason(text, message):
    with pytest.raises(ReplyError, match=message):
        read_ratings(text, ASPECTS, 2)


@pytest.mark.parametrize(
    "own",
    [
        reply(GOOD)[:12],
        reply(GOOD)[:-5],
        reply(GOOD)[:-1],
        '{"reasons": [{"response": 1, "reason": "it says "%s" !"}]}',
    ],
)
def test_ratings_that_a_judge_quotes_from_a_response_do_not_count_where_its_own_are_broken(own):
    quoted = reply([each | {"good": 5} for each in GOOD])
    text = own % quoted if "%s" in own else f"Response 1 says {quoted}. Mine: {own}"
    with pytest.raises(ReplyError):
        read_ratings(text, ASPECTS, 2)


@pytest.mark.parametrize(("text", "better"), [('{"better": 2, "reason": "x"}', 2), ('{"better": 1.0}', 1)])
def test_a_verdict_is_one_or_two(text, better):
    assert read_verdict(f"Well. {text}").better == better


@pytest.mark.parametrize("text", ["", '{"better": 0}', '{"better": "1"}', '{"better": 3}', "Response 1"])
def test_a_verdict_that_is_neither_is_refused(text):
    with pytest.raises(ReplyError):
        read_verdict(text)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=10,
)


@given(value=st.dictionaries(st.text(max_size=8), JSON, max_size=4), before=st.text(max_size=30))
@settings(max_examples=80, deadline=None)
def test_any_object_is_found_behind_any_text_without_braces(value, before):
    assert last_object(before.replace("{", "") + json.dumps(value) + "\nDone.") == value


@given(text=st.text(alphabet='{}[]":,0 a\\', max_size=60))
@settings(max_examples=200, deadline=None)
def test_no_text_does_anything_but_fit_or_be_refused(text):
    try:
        assert isinstance(last_object(text), dict)
    except ReplyError:
        return


@given(rated=st.lists(st.tuples(st.integers(1, 5), st.integers(1, 5)), min_size=1, max_size=6), shuffle=st.randoms())
@settings(max_examples=60, deadline=None)
def test_ratings_survive_the_way_there_and_back(rated, shuffle):
    entries = [{"response": i, "good": g, "true": t} for i, (g, t) in enumerate(rated, start=1)]
    shuffle.shuffle(entries)
    found = read_ratings(reply(entries), ASPECTS, len(rated))
    assert [(each.ratings["good"], each.ratings["true"]) for each in found] == rated


@pytest.mark.parametrize("text", ["{" * 100_000, '{"a":' * 50_000, "[" * 100_000 + "{", '{"a":"' + "x" * 100_000])
def test_a_hostile_reply_takes_no_time_and_no_stack(text):
    with pytest.raises(ReplyError):
        last_object(text)


def test_the_ratings_of_the_paper_are_read():
    """The seed paper's appendix: a room with sculptures, rated 4,4,4,3,3 and 3,3,3,2,3."""
    aspects = load_aspects("helpsteer")
    rows = [(4, 4, 4, 3, 3), (3, 3, 3, 2, 3)]
    entries = [{"response": i} | dict(zip(aspects.ratings, row, strict=True)) for i, row in enumerate(rows, start=1)]
    assert [tuple(each.ratings.values()) for each in read_ratings(reply(entries), aspects, 2)] == rows
