"""RLAIF-V's claims: what is asked, how replies are read, and what comes of those that cannot be."""

from dataclasses import replace

import pytest
from mock_api import Canned, MockApi

from mmalign.api.endpoint import Endpoint, Prices
from mmalign.api.faults import RequestError
from mmalign.data.sample import Response, Sample
from mmalign.judges import claims
from mmalign.judges.claims import (
    Claim,
    ClaimsJudge,
    Question,
    judge_claims,
    named_things,
    read_claims,
    read_verdict,
    sentence_claims,
)
from mmalign.judges.claims_api import ApiClaimsJudge
from mmalign.judges.judge import UNANSWERED, Judge, Metered
from mmalign.messages import ImageSlot, Message, Text
from mmalign.sampling.policy import load_policy

CHECK = "Is it red? Answer yes or no."


@pytest.fixture
def sample(png):
    return Sample(
        key="one",
        messages=(Message("user", (ImageSlot(), Text("What is there?"))),),
        images=(png("red"),),
        responses=(Response(text="A red ball. A dog."), Response(text="  "), Response(text="A cat.")),
    )


def answered(sample, rule, reply):
    """The judgments, where `reply(question)` answers; and the questions."""
    asking, asked = judge_claims("test", rule, sample), []
    questions = next(asking)
    try:
        while True:
            asked.extend(questions)
            questions = asking.send([reply(each) for each in questions])
    except StopIteration as end:
        return end.value, asked


def by_model(question):
    """Lists two claims, one of them twice; knows a dog, no ball, and of a cat nothing."""
    if "fact => question?" in question.text:
        assert question.images == ()
        if "Answer: A cat." in question.text:
            return "1. There is a cat. => Is there a cat?"
        return "- A ball is there. => Is there a ball?\nA dog. => A dog?\n- A ball is there. => Is there a ball?"
    return {"Is there a ball?": "No.", "A dog?": "yes, a dog"}.get(question.text.split(" Answer")[0], "Perhaps.")


def test_the_rating_is_yes_less_claims_and_the_reasons_name_them(sample):
    """One of two claims is right: 1 - 2 = -1. Nothing said is invalid, and so is a claim with no verdict."""
    (first, empty, cat), asked = answered(sample, "model", by_model)
    assert first.ratings == {"claims": -1}
    assert first.rationale == "no: A ball is there.\nyes: A dog."
    assert empty.invalid == "the response is empty"
    assert cat.invalid == "no verdict can be read: unknown: There is a cat."
    assert [each.text for each in asked[2:]] == [
        "Is there a ball? Answer yes or no.",
        "A dog? Answer yes or no.",
        "Is there a cat? Answer yes or no.",
    ]
    assert all(each.images == sample.images for each in asked[2:])


def test_the_prompt_that_splits_has_question_and_answer(sample):
    _, asked = answered(sample, "model", by_model)
    assert asked[0].text.endswith("Question: What is there?\nAnswer: A red ball. A dog.")


@pytest.mark.parametrize(
    ("reply", "found"),
    [
        ("1) It is red. => Is it red?\n\n* It is round. => Is it round?", ["It is red.", "It is round."]),
        ("Sure:\n- It is red => Is it red?", ["It is red"]),
        ("None.", []),
        ("It is red.", None),
        ("It is red. => It is", None),
        ("", None),
    ],
)
def test_claims_are_lines_with_a_question(reply, found):
    claims = read_claims(reply)
    assert (claims.startswith("the claims cannot be read")) if found is None else [c.text for c in claims] == found


@pytest.mark.parametrize("blanks", ["\n" * 9000, " " * 9000, f"a =>{' ' * 9000}b", f"{'- ' * 9000}=> a"])
def test_a_model_gone_mad_is_read_in_no_time(blanks):
    assert "cannot be read" in read_claims(blanks)


def test_a_claims_question_asks_for_yes_or_no():
    assert read_claims("Red. => Is it red?") == [Claim("Red.", CHECK)]


@pytest.mark.parametrize(
    ("reply", "verdict"),
    [
        ("Yes", "yes"),
        ("no, it is blue", "no"),
        (" **Yes**.", "yes"),
        ("Nothing", "unknown"),
        ("It is.", "unknown"),
        ("", "unknown"),
    ],
)
def test_a_verdict_is_the_first_word(reply, verdict):
    assert read_verdict(reply) == verdict


def test_unknown_claims_do_not_count():
    """Two claims, one wrong, one unknown: -1, as with the wrong one alone."""
    messages = (Message("user", (Text("What?"),)),)
    asking = judge_claims("test", "sentences", Sample(key="k", messages=messages, responses=(Response(text="A. B."),)))
    next(asking)
    with pytest.raises(StopIteration) as end:
        asking.send(["no", "hm"])
    assert end.value.value[0].ratings == {"claims": -1}


def test_no_claims_are_no_wrong_ones(sample):
    (judgment, *_), _ = answered(sample, "world", by_model)
    assert (judgment.ratings, judgment.rationale) == ({"claims": 0}, "No claims.")


def test_every_sentence_is_asked_about_with_the_question_once():
    found = sentence_claims("What is there?", "A ball.\nA dog. A ball.")
    assert [each.text for each in found] == ["A ball.", "A dog."]
    assert found[0].question == "Question: What is there?\nAnswer: A ball.\nIs this answer right? Answer yes or no."


def test_things_of_the_world_are_asked_about_in_its_own_words_once():
    found = named_things("?", "There is a small red star at the top and an orange ring, but no moon. A red star.")
    assert [each.question for each in found] == [
        "Is there a red star in the picture?",
        "Is there an orange ring in the picture?",
    ]


@pytest.fixture(scope="module")
def policy(tiny_llava):
    return load_policy(tiny_llava)


def judged(judge, *samples):
    found = {}
    judge.rate(samples, lambda sample, judgments: found.update({sample.key: judgments}))
    return found


def test_a_model_here_judges_alike_in_any_batch_and_says_what_cannot_be_judged(policy, sample, monkeypatch):
    """Equal to asking the questions one by one; a sample without a picture, or with a broken one, is invalid."""
    monkeypatch.setattr(claims, "CHECK_TOKENS", 4)
    broken, bare = (
        replace(sample, key="broken", images=(b"\x89PNG\r\n\x1a\nhm",)),
        replace(sample, key="bare", images=()),
    )
    others = [replace(sample, key=f"more{i}", responses=sample.responses[: i + 1]) for i in range(3)]
    judge = ClaimsJudge(policy=policy, batch_size=3)
    assert isinstance(judge, Judge)
    found = judged(judge, sample, broken, bare, *others)
    assert all("cannot be decoded" in each.invalid for each in found.pop("broken"))
    assert found == judged(replace(judge, batch_size=1), sample, bare, *others)
    alone, _ = answered(sample, "sentences", lambda question: judge._ask([question])[0])
    assert found["one"] == [replace(each, judge=judge.name) for each in alone]
    assert {each.invalid for each in found["bare"]} == {"no picture to check claims against"}
    assert len(found["more1"]) == 2


def test_settings_say_rule_and_weights(policy):
    settings = ClaimsJudge(policy=policy, rule="world").settings()
    assert (settings["claims"], settings["checkpoint_hash"]) == ("world", policy.identity["checkpoint_hash"])


def reply_of(body):
    """As `by_model`, over HTTP: pictures are parts beside the text."""
    content = body["messages"][-1]["content"]
    parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
    return by_model(Question(parts[-1]["text"], images=tuple(b"" for _ in parts[1:])))


def test_behind_an_api_every_reply_is_kept_and_paid_once(sample, tmp_path):
    """The same judgments as of any model; the second time without a call, and with the same tokens and cost."""
    with MockApi(answer=reply_of) as api:
        endpoint = Endpoint(model="m", url=api.url, prices=Prices(input=1.0, output=2.0))
        judge = ApiClaimsJudge(endpoint, tmp_path / "replies")
        assert isinstance(judge, Judge)
        assert isinstance(judge, Metered)
        first = judged(judge, sample)["one"]
        used = judge.used_for("one")
        assert len(api.asked) == used["replies"] == 5
        assert used["cost"] > 0
        assert [each.ratings for each in first] == [{"claims": -1}, {}, {}]
        assert judged(judge, sample)["one"] == first
        assert judge.used_for("one") == used
        assert len(api.asked) == 5


def test_no_reply_is_invalid_and_may_be_asked_for_again_and_a_refusal_names_the_sample(sample, tmp_path):
    for status, fault in ((500, None), (401, RequestError)):
        with MockApi(script=[Canned(status, {"error": {"message": "No."}})]) as api:
            judge = ApiClaimsJudge(Endpoint(model="m", url=api.url, tries=1), tmp_path / str(status))
            if fault is not None:
                with pytest.raises(fault, match="sample 'one'"):
                    judged(judge, sample)
            else:
                assert all(each.invalid.startswith(UNANSWERED) for each in judged(judge, sample)["one"])
