"""Answers from a server: seeded, kept, asked for once; what one prompt cannot have does not stop the others."""

import asyncio
import base64

import pytest
from mock_api import Canned, Faults, MockApi, completion, words

from mmalign.api.endpoint import Endpoint
from mmalign.api.faults import RequestError, ServerDownError
from mmalign.data.reader import ShardSet
from mmalign.data.sample import Sample
from mmalign.data.shards import ShardWriter
from mmalign.messages import ImageSlot, Message, Text
from mmalign.sampling.answers import Drawing
from mmalign.sampling.asking import REFUSED_AT_FIRST
from mmalign.sampling.seeds import answer_seed
from mmalign.sampling.server import ServerAnswers

DRAWING = Drawing(model="llava", num=2, max_new_tokens=9, top_p=0.9)
TOO_LONG = {"error": {"message": "This model's maximum context length is 4096 tokens.", "code": "context_length"}}


@pytest.fixture
def source(tmp_path, png):
    with ShardWriter(tmp_path / "in") as writer:
        for number in range(12):
            pictures = (png("red", (64, 32)),) if number % 2 else ()
            message = Message("user", (*(ImageSlot() for _ in pictures), Text(f"Question {number}?")))
            writer.write(Sample(key=f"k{number}", messages=(message,), images=pictures, id=f"id{number}"))
    return ShardSet(str(tmp_path / "in"))


def echo(body):
    return f"{words(body)} {body['seed']}"


def ask(source, api, tmp_path, *, max_side=None, drawing=DRAWING, **limits):
    answers = ServerAnswers(source, drawing, max_side=max_side, progress=lambda number, usage: None)
    endpoint = Endpoint(model="llava", url=api.url, **limits)
    return dict(asyncio.run(answers.ask_all(endpoint, tmp_path / "replies", first_wait_s=0.01)))


def test_every_answer_is_asked_for_with_its_own_seed(source, tmp_path):
    with MockApi(answer=echo) as api:
        found = ask(source, api, tmp_path)
        body = api.bodies[0]
    assert len(found) == 24
    for number in range(12):
        for k in range(2):
            assert found[f"k{number}/{k}"].text == f"Question {number}? {answer_seed(f'id{number}', k)}"
    assert (body["model"], body["temperature"], body["top_p"]) == ("llava", 0.7, 0.9)
    assert body["max_completion_tokens"] == 9


def test_pictures_are_sent_as_they_are_unless_they_shall_be_smaller(source, tmp_path, png):
    def url(max_side):
        with MockApi(answer=echo) as api:
            ask(source, api, tmp_path, max_side=max_side)
            contents = [body["messages"][0]["content"] for body in api.bodies]
        (found,) = {each[0]["image_url"]["url"] for each in contents if not isinstance(each, str)}
        return found.removeprefix("data:image/png;base64,")

    assert base64.b64decode(url(None)) == png("red", (64, 32))
    assert base64.b64decode(url(16)) == png("red", (16, 8))


def test_busy_servers_are_asked_again_and_no_reply_twice(source, tmp_path):
    """A second start finds every reply on disk."""
    with MockApi(answer=echo, faults=Faults(busy=0.3, fail=0.1)) as api:
        first = ask(source, api, tmp_path, concurrency=4)
        calls = api.count()
        assert ask(source, api, tmp_path, concurrency=4) == first
        assert api.count() == calls
        assert api.count("good") == 24
        assert api.most_at_once <= 4


def test_a_prompt_that_the_server_does_not_take_is_named(source, tmp_path):
    with MockApi(answer=echo, script=[Canned(400, TOO_LONG)] * 2) as api:
        found = ask(source, api, tmp_path, concurrency=1)
    failed = {name: each.failure for name, each in found.items() if each.failure}
    assert len(found) == 24
    assert len(failed) == 2
    assert all("maximum context length" in failure for failure in failed.values())


def test_many_answers_refused_in_a_row_are_no_reason_to_stop_once_a_prompt_was_taken(source, tmp_path):
    """Ten prompts of two answers each, side by side: too long every one."""
    script = [Canned()] * 2 + [Canned(400, TOO_LONG)] * 20
    with MockApi(answer=echo, script=script) as api:
        found = ask(source, api, tmp_path, concurrency=1)
    assert sum(bool(each.failure) for each in found.values()) == 20


def test_a_server_that_takes_no_prompt_ends_the_command(source, tmp_path):
    with (
        MockApi(answer=echo, script=[Canned(400, TOO_LONG)] * 30) as api,
        pytest.raises(RequestError, match="HTTP 400"),
    ):
        ask(source, api, tmp_path, concurrency=1)
    assert REFUSED_AT_FIRST <= api.count() < 24


def test_a_wrong_key_ends_the_command_at_once(source, tmp_path):
    with (
        MockApi(answer=echo, script=[Canned(401, {"error": {"message": "no"}})] * 30) as api,
        pytest.raises(RequestError, match="HTTP 401"),
    ):
        ask(source, api, tmp_path, concurrency=1)


def test_answers_that_do_not_come_are_asked_for_by_the_next_start(source, tmp_path):
    with MockApi(answer=echo, script=[Canned(500, {"error": {"message": "no"}})] * 2) as api:
        with pytest.raises((ValueError, ServerDownError), match=r"2 answers did not come.*All others are kept"):
            ask(source, api, tmp_path, tries=1, concurrency=1)
        assert len(ask(source, api, tmp_path)) == 24
        assert api.count("good") == 24


def test_a_broken_picture_is_not_sent(tmp_path, png):
    with ShardWriter(tmp_path / "in") as writer:
        for key, data in (("good", png("red")), ("cut", png("red")[:60])):
            messages = (Message("user", (ImageSlot(), Text("What?"))),)
            writer.write(Sample(key=key, messages=messages, images=(data,), id=key))
    with MockApi(answer=echo) as api:
        found = ask(ShardSet(str(tmp_path / "in")), api, tmp_path)
        assert api.count() == 2
    assert "picture 0: the picture cannot be decoded" in found["cut/1"].failure
    assert not found["good/1"].failure


def test_an_answer_that_a_filter_took_away_is_none(source, tmp_path):
    body = completion({"model": "llava", "messages": []}, "")
    body["choices"][0] |= {"finish_reason": "content_filter"}
    with MockApi(answer=echo, script=[Canned(200, body)] * 2) as api:
        found = ask(source, api, tmp_path, concurrency=1)
    assert [each.failure for each in found.values() if not each.text] == ["refused: by a content filter"] * 2
    assert [each.failure for each in found.values() if each.text] == [""] * 22
