"""Comparisons: dealt on the server, blind until the vote, one vote each."""

import asyncio
import json
import time
from concurrent.futures import ThreadPoolExecutor

import httpx2 as httpx
import pytest
from starlette.testclient import TestClient

from mmalign.serve.http.answering import frames
from mmalign.serve.http.app import build_app
from mmalign.serve.http.frontend import Frontend
from mmalign.serve.messages import Begun, Cancel, Failed, Piece, ServedModel
from mmalign.serve.page import compare
from mmalign.serve.settings import HttpSettings

ATTRIBUTES = dict.fromkeys(("helpfulness", "correctness", "coherence", "complexity", "verbosity"), 4)


@pytest.fixture
def ask(http, worker, talk):
    """Asks for a comparison."""

    def asked(**fields):
        body = {"models": ["base", "dpo"], "messages": [talk.user("What is it?", talk.picture())], "seed": 3}
        return http.post("/page/compare", json=body | fields)

    return asked


@pytest.fixture
def vote(http):
    def voted(name, choice="left"):
        return http.post("/page/vote", json={"id": name, "choice": choice})

    return voted


def events(response):
    assert response.status_code == 200, response.text
    return [json.loads(line[6:]) for line in response.text.splitlines() if line and line != "data: [DONE]"]


def test_both_sides_are_asked_the_same_and_streamed(ask, worker):
    seen = events(ask(stream=True, temperature=0.5, max_tokens=9))
    for side in ("left", "right"):
        pieces = [event for event in seen if event.get("side") == side]
        assert "".join(piece["text"] for piece in pieces) == "a red circle"
        assert pieces[-1]["finish_reason"] == "stop"
    assert set(seen[-1]) == {"id"}
    one, other = worker.jobs
    assert {one.model, other.model} == {"base", "dpo"}
    assert (one.prompt, one.seeds, one.temperature, one.max_new_tokens) == (other.prompt, (3,), 0.5, 9)
    assert len(one.prompt.pictures) == 1


def test_the_stream_never_names_a_model(ask):
    response = ask(stream=True)
    told = f"{response.text} {response.headers}"
    assert "dpo" not in told
    assert "base" not in told
    assert {name for event in events(response) for name in event} == {"side", "text", "finish_reason", "id"}


def test_the_order_is_drawn_anew_each_time(ask, worker, vote):
    orders = set()
    for _ in range(20):  # one order twenty times: once in 2^19
        worker.jobs.clear()
        names = vote(ask().json()["id"]).json()
        orders.add((names["left"], names["right"]))
        assert [job.model for job in worker.jobs] == [names["left"], names["right"]]
    assert orders == {("base", "dpo"), ("dpo", "base")}


def test_ids_are_long_and_differ(ask):
    names = {ask().json()["id"] for _ in range(5)}
    assert len(names) == 5
    assert all(len(name) == 32 for name in names)


def test_the_vote_tells_the_names_once(ask, vote):
    name = ask().json()["id"]
    assert vote(name, "tie").json().keys() == {"left", "right", "stored"}
    again = vote(name, "left")
    assert again.status_code == 409
    assert again.json()["error"]["code"] == "already_voted"
    assert "dpo" not in again.text


def test_a_comparison_that_nobody_made_has_no_vote(vote):
    assert vote("0" * 32).status_code == 404


@pytest.mark.parametrize("choice", ["best", "LEFT", "", None, 1])
def test_a_choice_is_one_of_four(ask, vote, choice):
    name = ask().json()["id"]
    assert vote(name, choice).status_code == 400
    assert vote(name, "both_bad").status_code == 200, "the wrong one was no vote"


def test_a_model_against_itself_gets_two_seeds(ask, worker):
    ask(models=["dpo", "dpo"])
    assert sorted(job.seeds for job in worker.jobs) == [(3,), (4,)]


def test_attributes_reach_the_side_that_can_be_steered(ask, worker, front):
    front.link.models = {"base": ServedModel("base"), "steer": ServedModel("steer", ATTRIBUTES)}
    ask(models=["base", "steer"], attributes={"verbosity": 0})
    asked = {job.model: job.prompt.attributes for job in worker.jobs}
    assert asked == {"base": None, "steer": {"verbosity": 0}}


BAD = [
    {"models": ["base"]},
    {"models": ["base", "dpo", "dpo"]},
    {"models": "base"},
    {"model": "base"},
    {"messages": []},
    {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]},
    {"n": 2},
    {"temperature": 99},
    {"attributes": {"verbosity": 0}},
    {"colour": "red"},
]


@pytest.mark.parametrize("fields", BAD, ids=str)
def test_what_is_wrong_is_refused(ask, worker, fields):
    response = ask(**fields)
    assert response.status_code == 400
    assert response.json()["error"]["message"]
    assert worker.jobs == []


def test_unknown_models_are_refused(ask):
    assert ask(models=["base", "nobody"]).status_code == 404


def test_a_failure_before_any_text_has_its_status(ask, worker):
    worker.script = [Failed(400, "Too long.")]
    assert ask(stream=True).status_code == 400


def test_a_failure_of_one_side_ends_both_and_leaves_no_vote(ask, worker):
    worker.script = [Begun(7), Piece(0, "a"), Failed(500, "It broke.")]
    seen = events(ask(stream=True))
    assert seen[-1]["error"]["message"] == "It broke."
    assert not any("id" in event for event in seen)


def test_two_answers_take_two_places(worker, talk):
    front = Frontend(HttpSettings(max_rows=2, max_waiting=0))
    type(worker)(front.link).script = worker.script
    http = TestClient(build_app(front))
    body = {"models": ["base", "dpo"], "messages": [talk.user("Hello")]}
    with front.admission.request():
        front.admission.more(1)
        assert http.post("/page/compare", json=body).status_code == 429
    assert http.post("/page/compare", json=body).status_code == 200


def test_open_comparisons_are_few_and_small(monkeypatch):
    monkeypatch.setattr(compare, "MAX_OPEN", 3)
    monkeypatch.setattr(compare, "MAX_OPEN_BYTES", 100)
    comparisons = compare.Comparisons()

    def keep(size):
        prompt = compare.Conversation(messages=(), pictures=(bytes(size),))
        answers = (compare.Response(text="a"), compare.Response(text="b"))
        return comparisons.keep(compare.Comparison(prompt, answers, time.monotonic()))

    names = [keep(10) for _ in range(4)]
    with pytest.raises(compare.ApiError, match="not known"):
        comparisons.claim(names[0])
    keep(85)
    for name in names[1:3]:
        with pytest.raises(compare.ApiError, match="not known"):
            comparisons.claim(name)
    comparisons.claim(names[3])


def test_a_comparison_is_forgotten_after_an_hour(ask, vote, monkeypatch):
    name = ask().json()["id"]
    now = time.monotonic()
    monkeypatch.setattr(compare.time, "monotonic", lambda: now + 3601)
    assert vote(name).status_code == 404


def test_cancelled_where_the_browser_leaves(front, worker):
    """Leaving the stream after its first event cancels both jobs."""
    orders = []
    put = worker.put
    worker.put = lambda item: (orders.append(item[3][1]), put(item))
    worker.script = [Begun(7), Piece(0, "a")]

    async def left():
        body = {"models": ["base", "dpo"], "messages": [{"role": "user", "content": "Hello"}]}
        models = list(front.link.models.values())
        jobs = compare.deal(compare.CompareRequest.model_validate(body), models, front)
        stream = frames(front, jobs, compare.CompareReply(front, jobs, models, compare.Comparisons()))
        await anext(stream)
        await stream.aclose()

    asyncio.run(left())
    assert [isinstance(order, Cancel) for order in orders] == [False, False, True, True]


def test_there_is_an_end_to_what_a_vote_reads(vote):
    assert vote("0" * 65).status_code == 400


def test_a_model_that_is_removed_while_pictures_are_decoded_is_no_error_of_ours(ask, vote, front, monkeypatch):
    async def removed_meanwhile(work, *args):
        front.link.models = {"base": front.link.models["base"]}
        return work(*args)

    monkeypatch.setattr(compare, "off_loop", removed_meanwhile)
    asked = ask()
    assert asked.status_code == 200  # the scripted worker has it still
    assert set(vote(asked.json()["id"]).json().values()) == {"base", "dpo", False}


class Taken(ThreadPoolExecutor):
    """A pool that nothing may come to."""

    def submit(self, *_):
        pytest.fail("this thread is for what the worker says")


def test_neither_pictures_nor_votes_take_the_threads_that_the_worker_is_heard_through(worker, talk, tmp_path):
    front = Frontend(HttpSettings(votes=tmp_path / "votes"))
    type(worker)(front.link).script = worker.script
    app = build_app(front)

    async def compared():
        asyncio.get_running_loop().set_default_executor(Taken())
        web = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost")
        async with app.router.lifespan_context(app), web:
            body = {"models": ["base", "dpo"], "messages": [talk.user("What is it?", talk.picture())]}
            asked = (await web.post("/page/compare", json=body)).json()
            return (await web.post("/page/vote", json={"id": asked["id"], "choice": "tie"})).json()

    assert asyncio.run(compared())["stored"] is True


def test_a_full_folder_still_tells_the_names_and_says_that_nothing_is_stored(worker, talk, tmp_path):
    front = Frontend(HttpSettings(votes=tmp_path / "votes", votes_max_bytes=1))
    type(worker)(front.link).script = worker.script
    with TestClient(build_app(front)) as http:
        body = {"models": ["base", "dpo"], "messages": [talk.user("Hello")]}
        name = http.post("/page/compare", json=body).json()["id"]
        told = http.post("/page/vote", json={"id": name, "choice": "left"})
        assert told.status_code == 200
        assert set(told.json().values()) == {"base", "dpo", False}
        assert http.post("/page/vote", json={"id": name, "choice": "left"}).status_code == 409
    assert (tmp_path / "votes/journal.jsonl").read_bytes() == b""
