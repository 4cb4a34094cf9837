"""Judging: kept before it is read, never asked twice, tried as the rule says, and never a score where there is none."""

import pytest
from graded import Graded
from mock_api import Canned, Faults, MockApi, completion, words
from replay import ReplayApi, texts_of

from mmalign.api.endpoint import Endpoint, Prices
from mmalign.api.faults import RequestError
from mmalign.api.limits import SpendLimitError
from mmalign.data.records import read_records
from mmalign.evaluation.steps.graders import REFUSED_AT_FIRST, EndpointGrader, ReplayGrader
from mmalign.evaluation.steps.judging import judge
from mmalign.evaluation.steps.records import Answer, JudgeReply, prompt_hash

BENCH = Graded(num=6)
FAILS = Canned(500, {"error": {"message": "Out of order."}})
REFUSES = Canned(400, {"error": {"message": "Too long for me."}})


@pytest.fixture
def graded(tmp_path):
    """Judge with a server; what is warned of goes into `graded.warned`."""

    def run(api, bench=BENCH, answers=None, *, out=tmp_path, number=0, model="judge-1", overwrite=False, **limits):
        chosen = {name: limits.pop(name) for name in ("temperature", "max_tokens") if name in limits}
        endpoint = Endpoint(model=model, url=api.url, **limits)
        run.grader = EndpointGrader(endpoint, tmp_path / "replies", first_wait_s=0.01, **chosen)
        answers = bench.answers() if answers is None else answers
        return judge(bench, answers, run.grader, out, run=number, overwrite=overwrite, warn=run.warned.append)

    run.warned = []
    return run


def always(text):
    return lambda body: text


def test_each_call_is_asked_once_and_the_file_tells_how(graded, tmp_path):
    with MockApi(answer=always("0.5")) as api:
        replies = graded(api)
        assert api.count() == 6
        assert graded(api) == replies
        assert api.count() == 6
    assert [reply.id for reply in replies] == [f"q{i}" for i in range(6)]
    call = BENCH.calls(BENCH.answers())[2]
    assert replies[2] == JudgeReply("q2", "0.5", "judge-1-mock", prompt_hash(call.messages()), 0.0, [])
    assert read_records(tmp_path / "judgments.jsonl", JudgeReply) == replies
    assert {body["messages"][0]["content"] for body in api.bodies} == {"Grade sums."}
    assert {body["max_completion_tokens"] for body in api.bodies} == {64}


def test_without_the_judgments_the_kept_replies_are_read_again(graded, tmp_path):
    with MockApi(answer=always("1")) as api:
        replies = graded(api)
        (tmp_path / "judgments.jsonl").unlink()
        assert graded(api) == replies
        assert api.count() == 6
    assert graded.grader.usage.reused == 6


def test_unusable_text_is_asked_for_again_as_the_rule_says(graded):
    def stubborn(body):
        return "0.5" if body.get("temperature") == 1.0 else f"It is fine ({body['temperature']})."

    with MockApi(answer=stubborn) as api:
        replies = graded(api)
        assert api.count() == 18
        assert "A number, please." in words(api.bodies[-1])
    for reply in replies:
        assert (reply.text, reply.temperature, reply.failure) == ("0.5", 1.0, "")
        assert reply.tries == ["It is fine (0.0).", "It is fine (0.5)."]


def test_text_without_a_score_at_every_try_stays_text(graded):
    with MockApi(answer=always("Good!")) as api:
        replies = graded(api)
        graded(api)
        assert api.count() == 18
    for reply in replies:
        assert (reply.text, reply.tries, reply.failure) == ("Good!", ["Good!", "Good!"], "")


def test_equal_tries_are_asked_anew(graded):
    """A rule may repeat the same prompt at the same temperature."""

    class Same(Graded):
        def calls(self, answers):
            return [call._replace(then=(call._replace(then=()),) * 2) for call in super().calls(answers)]

    with MockApi(answer=always("?")) as api:
        graded(api, Same(num=2))
        assert api.count() == 6


def test_faults_on_the_way_change_nothing(graded, tmp_path):
    with MockApi(answer=always("1")) as api:
        calm = graded(api, out=tmp_path / "calm")
    with MockApi(answer=always("1"), faults=Faults(busy=0.3, fail=0.2, hang=0.1), seed=1) as api:
        stormy = graded(api, out=tmp_path / "stormy", timeout_s=0.3, tries=20)
        assert api.count() > api.count("good") == 6
    assert stormy == calm


def test_half_a_surrogate_pair_can_be_judged_and_replayed(graded, tmp_path):
    answers = [Answer("q0", ["\ud83d"])]
    with MockApi(answer=always("1")) as api:
        (reply,) = graded(api, answers=answers)
        assert words(api.bodies[0]).endswith("q0: ?")
    stored = [reply._replace(text="0.5 \ud83d")]
    assert judge(BENCH, answers, ReplayGrader(stored), tmp_path / "replayed")[0].text == "0.5 ?"


def test_a_call_without_a_reply_is_a_failure_and_is_asked_by_the_next_start(graded):
    with MockApi(answer=always("1"), script=[FAILS]) as api:
        replies = graded(api, tries=1, concurrency=1)
        assert [bool(reply.failure) for reply in replies] == [True] + [False] * 5
        assert replies[0].failure.startswith("no reply of the judge at 1 tries, at the last: HTTP 500")
        assert (replies[0].text, replies[0].judge) == ("", "")
        replies = graded(api)
        assert api.count() == 1 + 5 + 1
    assert [reply.failure for reply in replies] == [""] * 6


def test_a_refused_call_is_a_failure_for_good(graded):
    with MockApi(answer=always("1"), script=[REFUSES]) as api:
        replies = graded(api, concurrency=1)
        assert "refused: " in replies[0].failure
        assert "Too long for me" in replies[0].failure
        assert graded(api) == replies
        assert api.count() == 6


def test_a_judge_that_refuses_all_ends_the_command(graded):
    with (
        MockApi(script=[REFUSES] * 20) as api,
        pytest.raises(RequestError, match=r"judge call 'q.*'.*Too long for me"),
    ):
        graded(api, Graded(num=20), concurrency=1)
    assert api.count() <= REFUSED_AT_FIRST + 1, "and what was under way"


def test_what_was_refused_before_the_command_ended_is_asked_again(graded, tmp_path):
    with MockApi(answer=always("1"), script=[REFUSES, Canned(401, {"error": {"message": "Key expired."}})]) as api:
        with pytest.raises(RequestError, match="Key expired"):
            graded(api, concurrency=1)
        assert not (tmp_path / "judgments.jsonl").exists()
        assert not any(reply.failure for reply in graded(api))


def test_a_refusal_to_judge_is_no_score(graded):
    silent = completion({"messages": [], "model": "j"}, "")
    silent["choices"][0]["finish_reason"] = "content_filter"
    with MockApi(answer=always("1"), script=[Canned(body=silent)]) as api:
        replies = graded(api, Graded(num=2, following=0), concurrency=1)
    assert [reply.failure for reply in replies] == ["refused: by a content filter", ""]


def test_cut_replies_are_counted(graded):
    cut = completion({"messages": [], "model": "j"}, "")
    cut["choices"][0]["finish_reason"] = "length"
    with MockApi(script=[Canned(body=cut)] * 2) as api:
        graded(api, Graded(num=2, following=0), max_tokens=8, temperature=1.0)
        assert {(body["max_completion_tokens"], body["temperature"]) for body in api.bodies} == {(8, 1.0)}
    assert graded.grader.num_cut == 2


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"model": "judge-2"}, "model differ"),
        ({"temperature": 0.7}, "temperature differ"),
        ({"bench": Graded(num=6, release="2")}, "protocol differ"),
    ],
)
def test_another_judge_or_protocol_is_refused_by_name(graded, change, named):
    with MockApi(answer=always("1")) as api:
        graded(api)
        with pytest.raises(ValueError, match=f"{named}.*--overwrite"):
            graded(api, **change)
        assert len(graded(api, **change, overwrite=True)) == 6


def test_what_was_answered_anew_is_judged_anew_and_counted(graded):
    with MockApi(answer=always("1")) as api:
        before = graded(api)
        answers = [answer._replace(turns=["7"]) if answer.id == "q3" else answer for answer in BENCH.answers()]
        after = graded(api, answers=answers)
        assert api.count() == 7
    assert [old == new for old, new in zip(before, after, strict=True)] == [True] * 3 + [False] + [True] * 2
    assert len(graded.warned) == 1
    assert graded.warned[0].startswith("1 judgments in")
    assert "(q3)" in graded.warned[0]


def test_a_second_judge_under_the_same_name_is_told_at_once(graded):
    calls = BENCH.calls(BENCH.answers())
    texts = texts_of(calls, [JudgeReply(call.id, "1") for call in calls])
    with ReplayApi(texts, models=("gpt-4-0613", "gpt-4-0613", "gpt-4-0125-preview")) as api:
        graded(api, concurrency=1)
    assert len(graded.warned) == 1, "once for each further judge"
    assert "2 by gpt-4-0613, 1 by gpt-4-0125-preview" in graded.warned[0]


def test_a_new_snapshot_among_kept_judgments_is_told(graded):
    calls = BENCH.calls(BENCH.answers())
    texts = texts_of(calls, [JudgeReply(call.id, "1") for call in calls])
    with ReplayApi(texts, models=["gpt-4-0613"] * 3 + ["gpt-4-0125-preview"] * 3) as api:
        graded(api, Graded(num=3), concurrency=1)
        assert graded.warned == []
        graded(api, concurrency=1)
    assert len(graded.warned) == 1
    assert "3 by gpt-4-0613, 1 by gpt-4-0125-preview" in graded.warned[0]


def test_further_runs_ask_anew_and_have_files_of_their_own(graded, tmp_path):
    counter = iter(range(100))
    with MockApi(answer=lambda body: "1" if next(counter) < 6 else "0") as api:
        runs = [graded(api, number=number) for number in range(3)]
        assert api.count() == 18
        assert [graded(api, number=number) for number in range(3)] == runs
        assert api.count() == 18
    assert [{reply.text for reply in run} for run in runs] == [{"1"}, {"0"}, {"0"}]
    assert sorted(path.name for path in tmp_path.glob("judgments*.jsonl")) == [
        "judgments.1.jsonl", "judgments.2.jsonl", "judgments.jsonl",
    ]  # fmt: skip


def test_the_spend_limit_ends_it_and_a_higher_one_goes_on(graded):
    prices = Prices(input=1000.0, output=1000.0)
    with MockApi(answer=always("1")) as api:
        with pytest.raises(SpendLimitError, match="spend limit is reached"):
            graded(api, prices=prices, max_cost=0.12)
        asked = api.count()
        assert 0 < asked < 6
        graded(api, prices=prices, max_cost=100.0)
        assert api.count() == 6


def test_progress_begins_with_what_was_there(graded, tmp_path):
    seen = list[tuple[int, int]]()
    with MockApi(answer=always("1")) as api:
        graded(api, Graded(num=2))
        judge(BENCH, BENCH.answers(), graded.grader, tmp_path, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(2, 6), (3, 6), (4, 6), (5, 6), (6, 6)]


@pytest.mark.parametrize(
    ("answers", "named"),
    [
        ([Answer("q0", ["1"]), Answer("q0", ["2"])], r"1 answers stand there more than once \(q0\)"),
        ([Answer("q0", [], failure="no picture")], "none of the 1 answers can be judged"),
        ([], "none of the 0 answers"),
    ],
)
def test_answers_that_cannot_be_judged_are_named(graded, answers, named):
    with MockApi() as api, pytest.raises(ValueError, match=named):
        graded(api, answers=answers)


def test_a_server_that_does_not_know_a_prompt_leaves_a_failure(graded):
    calls = BENCH.calls(BENCH.answers())
    with ReplayApi(texts_of(calls[1:], [JudgeReply(call.id, "1") for call in calls])) as api:
        replies = graded(api)
        assert (api.count(), api.unknown) == (5, 1)
    assert "nothing is stored" in replies[0].failure
