"""The chosen answer: by direct choice, by ratings, by name; and why there is none."""

from dataclasses import replace

import pytest

from mmalign.contrast.chosen import Positive, chosen_index, find_positive, rejected
from mmalign.data.sample import Preference, Response, Sample
from mmalign.data.views import Unusable
from mmalign.messages import ImageSlot, Message, Text


def rated(text, score):
    return Response(text=text, ratings={"helpfulness": score, "correctness": score, "coherence": score})


@pytest.fixture
def sample(png):
    return Sample(
        key="one",
        messages=(Message("user", (ImageSlot(), Text("What?"))),),
        images=(png("red"),),
        responses=(rated("Good.", 4), rated("Bad.", 1), Response(text="Right.", model="teacher")),
        preference=Preference(1, 0),
    )


def test_each_rule_finds_its_answer(sample):
    assert [chosen_index(sample, name) for name in ("preference", "best", "teacher")] == [1, 0, 2]


def test_auto_takes_the_first_that_there_is(sample):
    nobody = replace(sample, preference=None)
    unrated = replace(nobody, responses=tuple(replace(each, ratings={}) for each in nobody.responses))
    bare = replace(unrated, responses=unrated.responses[:2])
    assert [chosen_index(each, "auto") for each in (sample, nobody, unrated)] == [1, 0, 2]
    assert chosen_index(bare, "auto") == Unusable("none by preference, best, gold, teacher")


def test_an_empty_answer_is_never_the_chosen_one(sample):
    empty = replace(sample, responses=(Response(text="."), Response(text=" ", model="gold")))
    assert chosen_index(empty, "preference") == Unusable("the chosen response is empty")
    assert chosen_index(empty, "gold") == Unusable("the response by 'gold' is empty")


def test_what_cannot_be_used_says_why(policy, sample):
    reasons = {
        "no picture": replace(sample, images=()),
        "picture 0: the picture cannot be decoded": replace(sample, images=(b"\x89PNG\r\n\x1a\nhm",)),
        "no rated response": replace(sample, responses=sample.responses[2:]),
        "do not fit the model's context": replace(sample, responses=(rated("word " * 3000, 4),)),
    }
    for reason, each in reasons.items():
        found = find_positive(policy, each, "best", new_tokens=10)
        assert isinstance(found, Unusable)
        assert reason in found.reason


def test_a_rejected_answer_says_how_it_was_made(policy, sample):
    positive = find_positive(policy, sample, "best", new_tokens=10)
    assert isinstance(positive, Positive)
    made = rejected(policy, positive, "Wrong.", "bdhs", {"rho": 0.99})
    assert (made.text, made.model) == ("Wrong.", policy.name)
    assert made.sampling == {
        "method": "bdhs",
        "of": 0,
        "rho": 0.99,
        "checkpoint_hash": policy.identity["checkpoint_hash"],
    }
