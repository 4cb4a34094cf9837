"""`/v1/completions`: prompts as they are, several at once, echoed and scored."""

import openai
import pytest

from mmalign.serve.messages import Begun, Ended, Failed, Piece, Raw, TokenLogprob


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("hi", [Raw(text="hi")]),
        ("", [Raw(text="")]),
        (["a", "b"], [Raw(text="a"), Raw(text="b")]),
        ([1, 0, 2], [Raw(input_ids=(1, 0, 2))]),
        ([[1], [2, 3]], [Raw(input_ids=(1,)), Raw(input_ids=(2, 3))]),
    ],
)
def test_every_form_of_a_prompt_is_jobs(openai_http, speaking, prompt, expected):
    reply = openai_http.completions.create(model="base", prompt=prompt, seed=3)
    assert [job.prompt for job in speaking.jobs] == expected
    assert {job.seeds for job in speaking.jobs} == {(3,)}
    assert [(c.index, c.text, c.finish_reason) for c in reply.choices] == [
        (i, "a red circle.", "stop") for i in range(len(expected))
    ]
    assert reply.usage.completion_tokens == 5 * len(expected)


def test_choices_are_counted_through_the_prompts(openai_http, speaking):
    reply = openai_http.completions.create(model="base", prompt=["x", "y"], n=2, echo=True)
    assert [(c.index, c.text[0]) for c in reply.choices] == [(0, "x"), (1, "x"), (2, "y"), (3, "y")]
    chunks = list(openai_http.completions.create(model="base", prompt=["x", "y"], n=2, echo=True, stream=True))
    texts = ["".join(c.choices[0].text for c in chunks if c.choices[0].index == i) for i in range(4)]
    assert texts == [c.text for c in reply.choices]
    assert len({c.id for c in chunks}) == 1
    assert sorted(c.choices[0].index for c in chunks if c.choices[0].finish_reason) == [0, 1, 2, 3]


def test_the_defaults_are_openais(openai_http, worker):
    openai_http.completions.create(model="base", prompt="hi")
    (job,) = worker.jobs
    assert (job.max_new_tokens, job.temperature, job.top_p, job.echo, job.top_logprobs) == (16, 1.0, 1.0, False, None)


def test_a_prompt_is_only_scored_with_no_tokens_to_write(openai_http, speaking):
    reply = openai_http.completions.create(model="base", prompt=[5, 6, 7], max_tokens=0, echo=True, logprobs=1)
    (choice,) = reply.choices
    assert (choice.text, choice.finish_reason) == ("<5><6><7>", "length")
    assert choice.logprobs.tokens == ["<5>", "<6>", "<7>"]
    assert choice.logprobs.token_logprobs == [None, -0.25, -0.25]
    assert choice.logprobs.text_offset == [0, 3, 6]
    assert reply.usage.completion_tokens == 0


@pytest.mark.parametrize("stream", [False, True])
def test_log_probabilities_have_the_old_form(openai_http, speaking, stream):
    reply = openai_http.completions.create(model="base", prompt="x y", max_tokens=2, logprobs=2, stream=stream)
    told = [chunk.choices[0].logprobs for chunk in reply] if stream else [reply.choices[0].logprobs]
    assert [t for part in told for t in part.tokens] == ["a", " red"]
    assert [p for part in told for p in part.token_logprobs] == [-0.25, -0.25]
    assert [o for part in told for o in part.text_offset] == [0, 1]
    assert [t for part in told for t in part.top_logprobs] == [
        {"a": -0.25, " blue": -1.5}, {" red": -0.25, " blue": -1.5},
    ]  # fmt: skip


def likely(text: str, logprob: float, *top: TokenLogprob) -> TokenLogprob:
    return TokenLogprob(text, text.encode(), logprob, top)


@pytest.mark.parametrize(
    ("chosen", "expected"),
    [
        (likely("a", -2.0, likely("a", -1.0)), {"a": -1.0}),  # another token that reads the same is likelier
        (likely("a", -1.0, likely("a", -1.0), likely("a", -3.0)), {"a": -1.0}),  # one is less likely: -1 stays
        (likely("a", -5.0, likely("b", -1.0)), {"a": -5.0, "b": -1.0}),  # the chosen one is told beyond the k
        (likely("a", float("-inf"), likely("b", -1.0)), {"a": -9999.0, "b": -1.0}),
        (likely("a", -1.0), {"a": -1.0}),
    ],
)
def test_of_tokens_that_read_the_same_the_likelier_is_told(openai_http, worker, chosen, expected):
    worker.script = [Begun(1), Piece(0, "a", (chosen,), "length", 1), Ended()]
    reply = openai_http.completions.create(model="base", prompt="x", logprobs=1)
    assert reply.choices[0].logprobs.top_logprobs == [expected]


def test_usage_of_all_prompts_comes_at_the_end_of_a_stream(openai_http, speaking):
    *chunks, last = openai_http.completions.create(
        model="base", prompt=["x y", "z"], stream=True, stream_options={"include_usage": True}
    )
    assert last.choices == []
    assert (last.usage.prompt_tokens, last.usage.completion_tokens) == (3, 10)
    assert all(c.usage is None for c in chunks)


@pytest.mark.parametrize("stream", [False, True])
def test_one_prompt_that_fails_fails_the_request(openai_http, front, worker, monkeypatch, stream):
    """And nothing of the others is left behind."""

    def put(item):
        _, uid, _, (_, job) = item
        worker.jobs.append(job)
        good = getattr(job, "prompt", None) == Raw(text="good")
        worker.tell(uid, *([Begun(1), Piece(0, "a")] if good else [Failed(400, "Too long.", param="prompt")]))

    monkeypatch.setattr(worker, "put", put)
    with pytest.raises(openai.APIError, match=r"Too long\."):
        list(openai_http.completions.create(model="base", prompt=["good", "bad", "good"], stream=stream))
    assert front.link.num_jobs == 0


NEUTRAL = {
    "user": "ann", "frequency_penalty": 0, "presence_penalty": 0, "logit_bias": {}, "suffix": "", "best_of": 1,
}  # fmt: skip


def test_fields_that_change_nothing_are_taken(http, worker):
    body = {"model": "base", "prompt": "hi", "seed": 1}
    for more in ({}, NEUTRAL, dict.fromkeys([*NEUTRAL, "n", "stop", "max_tokens", "logprobs", "echo", "stream"])):
        assert http.post("/v1/completions", json=body | more).status_code == 200, more
    assert worker.jobs[0] == worker.jobs[1] == worker.jobs[2]
