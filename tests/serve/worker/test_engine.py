"""Orders in, events out: turns, limits, cancelling."""

import dataclasses
import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mmalign.serve.messages import Begun, Cancel, Ended, Failed, Job, Piece, Raw
from mmalign.serve.worker import writing

CAREFUL = settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def test_several_answers_are_those_of_their_seeds(driven, prompts):
    """And their prompt is read once."""
    several = driven.answer(prompts.ask(seeds=(5, 6, 7), temperature=1.0))
    for choice, seed in enumerate((5, 6, 7)):
        assert several.texts[choice] == driven.answer(prompts.ask(seeds=(seed,), temperature=1.0)).texts[0]
    assert len(set(several.texts.values())) == 3


def test_a_job_waits_until_there_is_room_for_all_its_answers(driven, prompts):
    driven.take("six", prompts.ask(seeds=tuple(range(6)), max_new_tokens=4))
    driven.take("three", prompts.ask(seeds=(0, 1, 2)))
    driven.take("one", prompts.ask())
    driven.step()
    driven.step()
    assert not driven.said["three"]
    assert not driven.said["one"], "first come, first served"
    assert (driven.reports[-1].running, driven.reports[-1].waiting) == (6, 2)
    driven.finish()
    assert isinstance(driven.said["one"][-1], Ended)


def test_one_prompt_is_read_between_two_tokens(driven, prompts):
    """However many wait, those that run get a token before the next prompt is read."""
    for uid in "abc":
        driven.take(uid, prompts.ask())
    for expected in ([1], [2, 1], [3, 2, 1]):
        driven.step()
        assert [answer._text.num_tokens for answer in driven.engine._writing._answers] == expected


def test_a_cancelled_answer_takes_no_further_step(driven, prompts):
    driven.take("gone", prompts.ask(max_new_tokens=60))
    driven.take("stays", prompts.ask("else", max_new_tokens=20))
    for _ in range(4):
        driven.step()
    driven.take("gone", Cancel())
    said = len(driven.said["gone"])
    driven.step()
    assert driven.reports[-1].running == 1
    driven.finish()
    assert len(driven.said["gone"]) == said
    assert driven.whole("stays").texts == driven.answer(prompts.ask("else", max_new_tokens=20)).texts


def test_a_cancelled_job_never_begins(driven, prompts):
    driven.take("runs", prompts.ask(seeds=tuple(range(8)), max_new_tokens=3))
    driven.take("waits", prompts.ask())
    driven.take("waits", Cancel())
    driven.finish()
    assert not driven.said["waits"]


def test_a_job_of_no_tokens_is_read_and_ends(driven, prompts):
    driven.take("only", prompts.ask(max_new_tokens=0, seeds=(1, 2)))
    driven.finish()
    begun, *rest = driven.said["only"]
    assert isinstance(begun, Begun)
    assert rest == [Piece(0, "", (), "length", 0), Piece(1, "", (), "length", 0), Ended()]


@pytest.mark.parametrize(
    ("options", "param", "code"),
    [
        ({"seeds": tuple(range(9))}, "n", None),
        ({"max_new_tokens": 2048}, "messages", "context_length_exceeded"),
        ({"text": "many words " * 2000}, "messages", "context_length_exceeded"),
        ({"prompt": Raw(text="many words " * 2000)}, "prompt", "context_length_exceeded"),
        ({"prompt": Raw(input_ids=(5, 1_000_000))}, "prompt", None),
        ({"prompt": Raw(input_ids=(5, -1))}, "prompt", None),
        ({"prompt": Raw(input_ids=(5, 3))}, "prompt", None),  # the image token
        ({"prompt": Raw()}, "prompt", None),
        ({"attributes": {"helpfulness": 4}}, "attributes", None),
    ],
)
def test_what_cannot_be_answered_is_refused(driven, prompts, options, param, code):
    options = dict(options)
    job = prompts.ask(**{key: options.pop(key) for key in ("text", "seeds", "max_new_tokens") if key in options})
    if "prompt" in options:
        job = dataclasses.replace(job, prompt=options["prompt"])
    if "attributes" in options:
        job = dataclasses.replace(job, prompt=dataclasses.replace(job.prompt, attributes=options["attributes"]))
    end = driven.answer(job).end
    assert (end.status, end.param, end.code) == (400, param, code)


def test_an_unknown_model_is_refused(driven, prompts):
    end = driven.answer(prompts.ask(model="nobody")).end
    assert (end.status, end.code) == (404, "model_not_found")


def test_the_context_is_filled_to_its_last_token(engine_of, prompts):
    driven = engine_of(max_new_tokens=64)
    length = driven.answer(prompts.ask()).begun.prompt_tokens
    driven.engine._writing.context = driven.engine._reader._context = length + 3
    full = driven.answer(prompts.ask(max_new_tokens=None, temperature=1.0, seeds=(3,)))
    assert (full.counts[0], full.reasons[0]) == (3, "length")
    assert driven.answer(prompts.ask(max_new_tokens=3)).end == Ended()
    assert driven.answer(prompts.ask(max_new_tokens=4)).end.code == "context_length_exceeded"


def test_a_raw_prompt_is_taken_as_it_is(driven, template, prompts):
    """The text behind the begin token, special tokens in it as text; ids exactly as given."""
    text = "USER: </s> <image> hi"
    told = driven.answer(dataclasses.replace(prompts.ask(echo=True, top_logprobs=0), prompt=Raw(text=text)))
    ids = template.tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    assert told.begun.prompt_tokens == len(ids) + 1
    assert told.begun.echoed_text == text
    same = Raw(input_ids=(template.bos_token_id, *ids))
    assert driven.answer(dataclasses.replace(prompts.ask(), prompt=same)).texts == told.texts


def test_an_answer_ends_at_its_time_limit(engine_of, prompts, monkeypatch):
    driven = engine_of(max_seconds=5.0, max_new_tokens=1000)
    now = time.monotonic()
    monkeypatch.setattr(writing, "time", type("Clock", (), {"monotonic": staticmethod(lambda: now)}))
    driven.take("only", prompts.ask(max_new_tokens=None, temperature=1.5, seeds=(4,)))
    for _ in range(5):
        driven.step()
    now += 5.1
    driven.step()
    answer = driven.whole("only")
    assert (answer.reasons[0], answer.counts[0]) == ("length", 6)


def test_tokens_cover_what_has_come_with_a_stop_string(driven, prompts):
    """A stop string is held back, and its tokens with it; in the end every token has been told once."""
    text = driven.answer(prompts.ask(max_new_tokens=30, temperature=1.0, seeds=(9,))).texts[0]
    stop = text[len(text) // 2 :][:3]
    told = driven.answer(prompts.ask(max_new_tokens=30, temperature=1.0, seeds=(9,), stop=(stop,), top_logprobs=0))
    assert told.texts[0] == text.partition(stop)[0]
    assert told.reasons[0] == "stop"
    assert len(told.tokens[0]) == told.counts[0]
    assert "".join(token.text for token in told.tokens[0]).startswith(told.texts[0])


def test_running_answers_do_not_wait_for_a_picture(engine_of, prompts, monkeypatch):
    """Nor does a job that can be cancelled."""
    driven = engine_of()
    driven.take("runs", prompts.ask(max_new_tokens=30, temperature=1.0, seeds=(1,)))
    driven.step()
    slow = driven.engine._reader._template.encode_prompt
    held = []
    monkeypatch.setattr(driven.engine._reader._template, "encode_prompt",
                        lambda messages: (held.append(1), time.sleep(0.3), slow(messages))[2])  # fmt: skip
    woken = []
    driven.engine.wake = lambda: woken.append(1)
    driven.engine.take("slow", prompts.ask("slow"))
    steps = 0
    while driven.engine._waiting:
        driven.step()
        steps += 1
        time.sleep(0.001)
    assert steps > 10, "it had to wait"
    assert held
    driven.finish()
    assert isinstance(driven.said["slow"][-1], Ended)
    assert woken


@pytest.fixture(scope="module")
def alone(shared, prompts):
    """What each kind of job is answered when nothing else runs."""
    answers = [shared.answer(job_number(prompts, number)).texts for number in range(6)]
    shared.said.clear()
    return answers


@CAREFUL
@given(data=st.data())
def test_every_job_ends_once_with_the_answer_it_has_alone(driven, prompts, alone, data):
    """Under any schedule of jobs, cancels and steps; a cancelled job says nothing more."""
    driven.forget()  # an example may have been broken off
    choices = st.integers(0, 5)
    cancelled, jobs = set(), {}
    for turn in range(data.draw(st.integers(1, 20), label="turns")):
        move = data.draw(st.sampled_from(["job", "job", "step", "step", "cancel"]), label="move")
        if move == "job":
            jobs[f"{turn}"] = data.draw(choices, label="which")
            driven.take(f"{turn}", job_number(prompts, jobs[f"{turn}"]))
        elif move == "cancel" and jobs:
            uid = data.draw(st.sampled_from(sorted(jobs)), label="whom")
            if not any(isinstance(event, Ended | Failed) for event in driven.said[uid]):
                cancelled.add(uid)
                driven.take(uid, Cancel())
        else:
            driven.step()
    driven.finish()
    assert driven.engine._writing.batch.rows == []
    for uid, number in jobs.items():
        if uid in cancelled:
            assert not any(isinstance(event, Ended | Failed) for event in driven.said[uid])
        else:
            assert driven.whole(uid).texts == alone[number]


def job_number(prompts, number: int) -> Job:
    """Six kinds: of several lengths, models, numbers of answers; one is refused."""
    return [
        prompts.ask("hi", max_new_tokens=6),
        prompts.ask("a longer one, " * 9, "dpo", max_new_tokens=9),
        prompts.ask("hi", "dpo-v1.5", seeds=(1, 2, 3), temperature=1.0, max_new_tokens=5),
        prompts.ask("x", seeds=(4,), temperature=1.3, top_p=0.7, max_new_tokens=8),
        prompts.ask("no", seeds=tuple(range(9))),
        prompts.ask("none", max_new_tokens=0),
    ][number]
