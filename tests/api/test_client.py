"""Asking: retried where that helps, ended where it does not, never twice for what was paid for, and the key nowhere."""

import asyncio
import json
import logging
import os
import signal
import traceback

import pytest
from mock_api import Canned, Faults, MockApi, completion

from mmalign.api.client import GIVE_UP_AFTER, Client
from mmalign.api.completion import MAX_TEXT
from mmalign.api.endpoint import Endpoint, Prices
from mmalign.api.faults import RequestError, ServerDownError, UnansweredError
from mmalign.api.limits import SpendLimitError
from mmalign.api.request import Request

WRONG_CHOICES = ({"0": {}}, ["a"], [{"message": "a"}])
KEY = "sk-very-secret-0123456789"


def say(text="Hello?", **changes):
    return Request(({"role": "user", "content": text},), max_tokens=10, **changes)


def hello(body):
    return f"You said: {body['messages'][-1]['content']}"


@pytest.fixture
def use(tmp_path, monkeypatch):
    """Run a coroutine function with a client of an endpoint."""
    monkeypatch.setenv("TEST_KEY", KEY)

    def run(api, work, *, structured="auto", **limits):
        async def session():
            endpoint = Endpoint(model="m", url=api.url, key_env="TEST_KEY", **limits)
            async with Client(endpoint, tmp_path / "replies", structured=structured, first_wait_s=0.01) as client:
                return await work(client)

        return asyncio.run(session())

    return run


def ask(*requests, attempt=0):
    async def work(client):
        return [await client.ask(request, attempt=attempt) for request in requests]

    return work


def test_a_reply_is_handed_out_with_its_tokens_and_its_cost(use):
    with MockApi(answer=hello) as api:
        (reply,) = use(api, ask(say("Hi")), prices=Prices(input=1.0, output=2.0))
    assert reply.text == "You said: Hi"
    assert reply.id.split("-")[0] == api.asked[0].hash, "the benchmark's ledger knows replies by it"
    assert (reply.finish_reason, reply.model) == ("stop", "m-mock")
    assert reply.cost == pytest.approx((reply.input_tokens + 2 * reply.output_tokens) / 1e6)
    assert reply.output_tokens == 3


def test_what_was_paid_for_is_not_asked_for_again_by_the_next_command(use, tmp_path):
    with MockApi(answer=hello) as api:
        first = use(api, ask(say("Hi"), say("Ho")))
        assert use(api, ask(say("Hi"), say("Ho"))) == first
        assert api.count() == 2
        (again,) = use(api, ask(say("Hi"), attempt=1))
        assert api.count() == 3
        assert again.id.endswith("-1")
    assert len((tmp_path / "replies/replies.jsonl").read_text().splitlines()) == 3


@pytest.mark.parametrize(
    "other", [say("Ha"), say(temperature=0.5), say(seed=1), say(top_p=0.5), say(json_schema={"type": "object"})]
)
def test_another_request_has_another_id(other):
    endpoint = Endpoint(model="m", url="http://localhost:1/v1")
    assert other.id(endpoint, 0) != say().id(endpoint, 0)
    assert say().id(Endpoint(model="n", url="http://localhost:1/v1"), 0) != say().id(endpoint, 0)


def test_another_token_limit_asks_again_only_for_what_it_would_change(use):
    cut = Canned(body=completion({"model": "m", "messages": []}, "Hel"))
    cut.body["choices"][0]["finish_reason"] = "length"
    with MockApi(answer=hello, script=[cut]) as api:
        use(api, ask(say("long"), say("short")))
        use(api, ask(*(say(text)._replace(max_tokens=99) for text in ("long", "short"))))
        assert [body["messages"][0]["content"] for body in api.bodies] == ["long", "short", "long"]
        use(api, ask(say("short")._replace(max_tokens=1)))
        assert api.count() == 4


def test_equal_requests_at_the_same_time_are_one_call(use):
    async def work(client):
        return await asyncio.gather(*(client.ask(say("Hi")) for _ in range(5))), client.usage

    with MockApi(answer=hello, latency_s=0.05) as api:
        replies, usage = use(api, work)
        assert api.count() == 1
    assert len(set(replies)) == 1
    assert (usage.replies, usage.reused) == (5, 4)


@pytest.mark.parametrize(
    "trouble",
    [
        Canned(429, {"error": {"message": "slow down"}}),
        Canned(500, {"error": {"message": "oh"}}),
        Canned(503, "<html>bad gateway</html>"),
        Canned(200, '{"choices": [{"mess'),
        Canned(200, {"choices": []}),
        Canned(200, "{}", delay_s=30),
    ],
    ids=["429", "500", "503", "cut", "empty", "hang"],
)
def test_a_call_that_fails_is_tried_again(use, trouble):
    with MockApi(answer=hello, script=[trouble, trouble]) as api:
        (reply,) = use(api, ask(say("Hi")), timeout_s=0.2)
        assert api.count() == 3
    assert reply.text == "You said: Hi"


@pytest.mark.parametrize(
    "body",
    [
        "[" * 200_000,
        f'{{"a": {"9" * 5000}}}',
        *(completion({"messages": [], "model": "m"}, "", choices=wrong) for wrong in WRONG_CHOICES),
    ],
    ids=["nested", "large number", "choices no list", "choice no object", "message no object"],
)  # fmt: skip
def test_nonsense_from_a_server_is_one_more_failed_call(use, body):
    with MockApi(answer=hello, script=[Canned(body=body)]) as api:
        (reply,) = use(api, ask(say("Hi")))
        assert (reply.text, api.count()) == ("You said: Hi", 2)


@pytest.mark.parametrize(
    ("usage", "tokens"),
    [
        ([1], (say().most_tokens())),
        ({"prompt_tokens": -5, "completion_tokens": 3, "total_tokens": 3}, (0, 3)),
        ({"prompt_tokens": 5.5, "completion_tokens": 1e300, "total_tokens": None}, (5, 0)),
    ],
)
def test_a_count_of_tokens_that_is_none_neither_ends_the_command_nor_lowers_the_cost(use, usage, tokens):
    body = completion({"messages": [], "model": "m"}, "Yes.", usage=usage)
    with MockApi(script=[Canned(body=body)]) as api:
        (reply,) = use(api, ask(say()), prices=Prices(input=1.0, output=1.0))
    assert (reply.input_tokens, reply.output_tokens) == tokens
    assert reply.cost == pytest.approx(sum(tokens) / 1e6)


def test_a_server_that_has_no_schemas_may_say_so_with_501(use):
    refusal = Canned(501, {"error": {"message": "response_format is not implemented"}})
    with MockApi(answer=hello, script=[refusal]) as api:
        (reply,) = use(api, ask(say("Hi", json_schema={"type": "object"})))
        assert (reply.text, api.count()) == ("You said: Hi", 2)


@pytest.mark.parametrize("status", [429, 503])
def test_a_server_that_asks_to_wait_for_an_hour_is_not_waited_for(use, status):
    script = [Canned(status, {"error": {"message": "later"}}, {"Retry-After": "3600"})]
    with MockApi(script=script) as api, pytest.raises(RequestError, match=r"60 minutes: later\. Wait so long, then"):
        use(api, ask(say()))


def test_the_tries_are_bounded_and_a_request_without_answer_says_why(use):
    with MockApi(faults=Faults(fail=1)) as api, pytest.raises(UnansweredError, match=r"at 3 tries.*HTTP 500: The serv"):
        use(api, ask(say("Hi")), tries=3)
    assert api.count() == 3


def test_a_server_that_is_down_ends_the_command(use):
    async def work(client):
        async def one(number):
            try:
                await client.ask(say(str(number)))
            except UnansweredError:
                return

        await client.each(range(100), one)

    with MockApi(faults=Faults(fail=1)) as api, pytest.raises(ServerDownError, match="run the same command again"):
        use(api, work, tries=2, concurrency=2)
    assert api.count() < 2 * GIVE_UP_AFTER + 20


def test_as_long_as_the_server_asks_for_is_waited(use):
    busy = Canned(429, {"error": {"message": "slow down"}}, {"Retry-After": "0.4"})
    with MockApi(answer=hello, script=[busy]) as api:
        use(api, ask(say("Hi")))
        first, second = (each.at for each in api.asked)
    assert 0.4 <= second - first < 1.5


@pytest.mark.parametrize("status", [400, 401, 402, 403, 404, 413])
def test_what_will_never_be_answered_ends_at_once_and_says_what_to_do(use, status):
    with MockApi(script=[Canned(status, {"error": {"message": "No."}})]) as api:
        with pytest.raises(RequestError, match=rf"HTTP {status}: No\.") as caught:
            use(api, ask(say("Hi")))
        assert api.count() == 1
    assert caught.value.status == status


def test_no_credit_left_is_not_waited_for(use):
    body = {"error": {"message": "You exceeded your quota.", "code": "insufficient_quota"}}
    with MockApi(script=[Canned(429, body)]) as api, pytest.raises(RequestError, match="exceeded your quota"):
        use(api, ask(say("Hi")))
    assert api.count() == 1


def test_a_filter_of_the_provider_is_an_answer_that_is_kept(use):
    body = {"error": {"message": "Not this picture.", "code": "content_policy_violation"}}
    with MockApi(script=[Canned(400, body)]) as api:
        for _ in range(2):
            (reply,) = use(api, ask(say("Hi")))
        assert api.count() == 1
    assert (reply.text, reply.finish_reason, reply.refusal) == ("", "content_filter", "Not this picture.")


def test_a_server_that_knows_no_schema_is_asked_without_one_and_only_once_with(use):
    requests = [say(str(number), json_schema={"type": "object"}) for number in range(3)]
    with MockApi(answer=hello, schemas=False) as api:
        use(api, ask(*requests))
        assert [each.kind for each in api.asked] == ["schema", "good", "good", "good"]
        use(api, ask(*requests))  # the next command tries the schema anew, but only where it must ask
        assert api.count() == 4
        with pytest.raises(RequestError, match="response_format"):
            use(api, ask(say("new", json_schema={"type": "object"})), structured=True)


def test_a_server_that_knows_schemas_gets_them(use):
    with MockApi(answer=hello) as api:
        use(api, ask(say(json_schema={"type": "object"})))
        assert api.bodies[-1]["response_format"]["json_schema"]["schema"] == {"type": "object"}
        use(api, ask(say(json_schema={"type": "object"})), structured=False)
        assert "response_format" not in api.bodies[-1]


def test_hidden_reasoning_is_counted(use):
    usage = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 115}
    with MockApi(script=[Canned(body=completion({"messages": [], "model": "m"}, "Hi", usage=usage))]) as api:
        (reply,) = use(api, ask(say("Hi")))
    assert (reply.input_tokens, reply.output_tokens) == (10, 105)


def test_a_reply_is_kept_as_it_is_but_for_its_length_and_broken_unicode(use):
    odd = completion({"messages": [], "model": "m"}, "[bold]\ud800\u0000</script>" + "x" * MAX_TEXT)
    with MockApi(script=[Canned(body=odd)]) as api:
        (reply,) = use(api, ask(say("Hi")))
        assert use(api, ask(say("Hi"))) == [reply]
    assert reply.text.startswith("[bold]?\u0000</script>xxx")
    assert reply.text.endswith("characters in all]")
    assert len(reply.text) < MAX_TEXT + 100


@pytest.mark.parametrize("concurrency", [1, 8])
def test_the_spend_limit_is_never_passed_and_the_next_command_goes_on(use, concurrency):
    requests = [say(f"Question {number:04d}") for number in range(40)]
    prices = Prices(input=100.0, output=1000.0)
    with MockApi(answer=hello, latency_s=0.01) as api:

        async def work(client):
            try:
                await client.each(requests, lambda request: _none(client.ask(request)))
            finally:
                spent.append(client.replies.cost())

        spent = []
        with pytest.raises(SpendLimitError, match=r"`--max_cost` 0\.1 are spent"):
            use(api, work, max_cost=0.1, prices=prices, concurrency=concurrency)
        assert 0.05 < spent[0] <= 0.1
        with pytest.raises(SpendLimitError, match="raise `--max_cost`"):
            use(api, work, max_cost=0.1, prices=prices, concurrency=concurrency)
        use(api, work, max_cost=10.0, prices=prices, concurrency=concurrency)
        assert api.count() == 40


async def _none(awaitable):
    await awaitable


def test_a_spend_limit_needs_prices():
    with pytest.raises(ValueError, match="needs the model's prices"):
        Endpoint(model="m", max_cost=1.0)


def test_no_more_calls_are_under_way_than_may_be(use):
    with MockApi(answer=hello, latency_s=0.02) as api:
        use(api, lambda c: c.each(range(30), lambda n: _none(c.ask(say(str(n))))), concurrency=3)
        assert api.count() == 30
        assert api.most_at_once == 3


def test_the_rate_limit_is_kept(use):
    """That it is used, too, benchmarks/judging.py measures."""
    with MockApi(answer=hello) as api:
        use(api, lambda c: c.each(range(60), lambda n: _none(c.ask(say(str(n))))), requests_per_minute=3000.0)
        times = [each.at for each in api.asked]
    took = times[-1] - times[0]
    assert took >= 59 / 50 * 0.85  # a busy machine delays the first, and the others make up for it


def test_at_a_failure_calls_under_way_end_and_are_kept(use, tmp_path):
    broken = Canned(401, {"error": {"message": "Wrong key."}}, delay_s=0.1)
    with MockApi(answer=hello, latency_s=0.3, script=[broken]) as api:
        with pytest.raises(RequestError, match="Wrong key"):
            use(api, lambda c: c.each(range(40), lambda n: _none(c.ask(say(str(n))))), concurrency=4)
        asked = api.count()
        assert asked == 4
    assert len((tmp_path / "replies/replies.jsonl").read_text().splitlines()) == asked - 1


def test_at_sigterm_no_call_begins_and_those_under_way_end_and_are_kept(use, tmp_path):
    def answer(body):
        if hello(body).endswith("3"):
            os.kill(os.getpid(), signal.SIGTERM)
        return hello(body)

    async def work(client):
        await client.each([say(str(i)) for i in range(50)], client.ask)

    former = signal.getsignal(signal.SIGTERM)
    with MockApi(answer=answer, latency_s=0.1) as api:
        with pytest.raises(KeyboardInterrupt):
            use(api, work, concurrency=4)
        assert 4 <= api.count() < 50
    assert len((tmp_path / "replies/replies.jsonl").read_text().splitlines()) == api.count()
    assert signal.getsignal(signal.SIGTERM) == former


def test_two_commands_do_not_share_a_folder_at_the_same_time(use, tmp_path):
    with MockApi() as api:

        async def work(client):
            other = Client(Endpoint(model="m", url=api.url), tmp_path / "replies")
            with pytest.raises(ValueError, match=r"Another command writes into .*replies"):
                await other.__aenter__()

        use(api, work)


@pytest.mark.parametrize("status", [400, 401, 403, 404, 429, 500, 200])
def test_a_key_that_the_server_echoes_is_nowhere(use, tmp_path, caplog, capsys, status):
    caplog.set_level(logging.DEBUG)
    echo = {"error": {"message": f"Incorrect API key provided: {KEY}", "code": KEY}}
    body = completion({"messages": [], "model": KEY}, f"Your key is {KEY}.") if status == 200 else echo
    texts = []
    with MockApi(script=[Canned(status, body, {"x-key": KEY})] * 2) as api:
        try:
            texts.append(str(use(api, ask(say("Hi")), tries=2)))
        except (RequestError, UnansweredError) as error:
            texts += [str(error), "".join(traceback.format_exception(error)), repr(error.__context__)]
        assert api.headers[-1]["Authorization"] == f"Bearer {KEY}"
    texts += [path.read_text() for path in tmp_path.rglob("*") if path.is_file()]
    texts += [*capsys.readouterr(), caplog.text]
    assert KEY not in json.dumps(texts)
    assert "***" in json.dumps(texts)


def test_the_environment_sends_nothing_of_ours_to_others(use, monkeypatch, tmp_path):
    monkeypatch.setenv("OPENAI_ORG_ID", "org-mine")
    monkeypatch.setenv("OPENAI_PROJECT_ID", "proj-mine")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-openai")
    with MockApi(answer=hello) as api:
        use(api, ask(say("Hi")))
        assert "mine" not in json.dumps(api.headers[-1])

        async def without_key():
            async with Client(Endpoint(model="m", url=api.url), tmp_path / "others") as client:
                await client.ask(say("Hi"))

        asyncio.run(without_key())
        assert "sk-openai" not in json.dumps(api.headers[-1])
