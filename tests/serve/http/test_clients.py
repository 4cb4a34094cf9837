"""The requests that evaluation programs build, as they build them, and what they make of the replies.

Read in their sources: lmms-eval (models/chat/openai.py, async_openai.py), VLMEvalKit (api/gpt.py, api/lmdeploy.py),
lm-evaluation-harness (models/openai_completions.py, api_models.py). No line of them is copied.
"""

import asyncio
import json
import math
from pathlib import Path

import openai
import pytest

from mmalign.serve.http.frontend import Frontend
from mmalign.serve.http.schema.completion_request import MAX_PROMPTS
from mmalign.serve.messages import Raw, ServedModel
from mmalign.serve.settings import HttpSettings

COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"
SEED = 1234  # lm_eval's


@pytest.fixture
def front():
    """A server that allows what these programs ask for by default."""
    return Frontend(HttpSettings(max_new_tokens=2048))


def lmms_eval(talk, model: str, *, reasoning: bool = False) -> dict:
    """Its body; models that reason are told by their names and get other fields."""
    body = {"messages": [talk.user(talk.picture(), "What is it?")], "model": model}
    if reasoning:
        return body | {"response_format": {"type": "text"}, "max_completion_tokens": 1024}
    return body | {"max_tokens": 1024, "temperature": 0}


def test_lmms_eval(openai_http, speaking, talk):
    reply = openai_http.chat.completions.create(**lmms_eval(talk, "base"))
    assert reply.choices[0].message.content == "a red circle."
    assert (reply.usage.prompt_tokens, reply.usage.completion_tokens) == (7, 5)
    assert reply.usage.completion_tokens_details is None
    (job,) = speaking.jobs
    assert (job.temperature, job.max_new_tokens, len(job.prompt.pictures)) == (0.0, 1024, 1)


def test_lmms_eval_with_many_at_once(async_openai_http, speaking, talk):
    async def together():
        async with async_openai_http as client:
            return await asyncio.gather(*(client.chat.completions.create(**lmms_eval(talk, "dpo")) for _ in range(5)))

    replies = asyncio.run(together())
    assert {reply.choices[0].message.content for reply in replies} == {"a red circle."}
    assert {reply.choices[0].finish_reason for reply in replies} == {"stop"}  # `tool_calls` would make it go on


def test_lmms_eval_of_a_model_called_like_one_that_reasons(openai_http, front, speaking, talk):
    front.link.models = {**front.link.models, "o1-llava": ServedModel("o1-llava")}
    reply = openai_http.chat.completions.create(**lmms_eval(talk, "o1-llava", reasoning=True))
    assert reply.choices[0].message.content == "a red circle."
    assert speaking.jobs[0].max_new_tokens == 1024


def vlmevalkit(http, talk, **more):
    """It posts a string with headers of its own."""
    url = talk.data_url("jpeg")
    content = [
        {"type": "text", "text": "What is it?"},
        {"type": "image_url", "image_url": {"url": url, "detail": "low"}},
    ]
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": content}]
    payload = {"model": "base", "messages": messages, "temperature": 0, "max_tokens": 2048} | more
    headers = {"Content-Type": "application/json", "Authorization": "Bearer sk-123456"}
    return http.post(CHAT, headers=headers, content=json.dumps(payload))


def test_vlmevalkit(http, speaking, talk):
    response = vlmevalkit(http, talk)
    assert 200 <= response.status_code < 300
    assert json.loads(response.text)["choices"][0]["message"]["content"].strip() == "a red circle."


def test_vlmevalkit_reading_a_stream(http, speaking, talk):
    """Line by line; what is not `data:` is passed over, what comes behind `[DONE]` not read."""
    answer = ""
    for line in vlmevalkit(http, talk, stream=True).iter_lines():
        data = line.strip().removeprefix("data:").strip()
        if data == "[DONE]":
            break
        if data:
            answer += json.loads(data)["choices"][0]["delta"].get("content") or ""
    assert answer == "a red circle."


def test_vlmevalkits_limit_of_tokens_may_be_too_high_and_says_what_to_do(openai_http, talk):
    """Its wrapper for LMDeploy asks for 16384."""
    with pytest.raises(openai.BadRequestError, match="higher --max_new_tokens"):
        openai_http.chat.completions.create(model="base", messages=[talk.user("hi")], max_tokens=16384, temperature=0.0)


def lm_eval_scores(prompt) -> dict:
    """Its body for the likelihood of a prompt's end."""
    return {"model": "base", "prompt": prompt, "temperature": 0, "max_tokens": 1, "logprobs": 1, "seed": SEED,
            "echo": True}  # fmt: skip


def read_scores(reply: dict, context_lengths: list[int]) -> list[tuple[float, bool]]:
    """What it makes of the reply: log-probability of what follows the context, and whether it is what greedy writes.

    The last token is the one that was written, only because the endpoint would not write none.
    """
    scores = []
    for choice, length in zip(sorted(reply["choices"], key=lambda c: c["index"]), context_lengths, strict=True):
        told = choice["logprobs"]
        values, likeliest = told["token_logprobs"][length:-1], told["top_logprobs"][length:-1]
        greedy = all(value == max(top.values()) for value, top in zip(values, likeliest, strict=True))
        scores.append((sum(values), greedy))
    return scores


LM_EVAL_HEADERS = {"Authorization": "Bearer "}


def test_lm_eval_scores_tokens(http, speaking):
    response = http.post(COMPLETIONS, json=lm_eval_scores([[1, 2, 3, 4], [1, 2, 3]]), headers=LM_EVAL_HEADERS)
    assert read_scores(response.json(), [2, 1]) == [(-0.5, True), (-0.5, True)]
    assert [job.prompt for job in speaking.jobs] == [Raw(input_ids=(1, 2, 3, 4)), Raw(input_ids=(1, 2, 3))]


@pytest.mark.parametrize("prompt", ["it is red", ["it is red"]])
def test_lm_eval_scores_texts(http, speaking, prompt):
    response = http.post(COMPLETIONS, json=lm_eval_scores(prompt), headers=LM_EVAL_HEADERS)
    assert read_scores(response.json(), [1]) == [(-0.5, True)]


@pytest.mark.parametrize("prompt", ["Question: x", ["Question: x"], [[1, 2, 3]]])
def test_lm_eval_generates(http, speaking, prompt):
    """Several tasks have more stop strings than OpenAI takes; the end token's spelling is one of them."""
    stop = ["\n\n", "Question:", "Q:", "</s>", "<|im_end|>", "circ"]
    body = {"prompt": prompt, "model": "base", "max_tokens": 256, "temperature": 0, "stop": stop, "seed": SEED}
    reply = http.post(COMPLETIONS, json=body | {"top_p": 0.95}, headers=LM_EVAL_HEADERS).json()
    texts = [None] * len(reply["choices"])
    for choice in reply["choices"]:
        texts[choice["index"]] = choice["text"]
    assert texts == ["a red"]
    assert speaking.jobs[0].stop == tuple(stop)


@pytest.mark.parametrize("prefix", [(), ({"role": "assistant", "content": "The answer is"},)])
@pytest.mark.parametrize("pictures", [0, 1])
def test_lm_eval_chats(http, speaking, talk, pictures, prefix):
    """Examples are turns; a task may open the answer with a turn of the assistant."""
    picture = {"type": "image_url", "image_url": {"url": talk.data_url(), "detail": "auto"}}
    text = {"type": "text", "text": "<image>\nWhat is it?"}
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "1 + 1?"},
        {"role": "assistant", "content": "2"},
        {"role": "user", "content": [picture, text] if pictures else "What is it?"},
        *prefix,
    ]
    body = {"messages": messages, "model": "base", "max_tokens": 256, "temperature": 0, "stop": [], "seed": SEED}
    reply = http.post(CHAT, json=body, headers=LM_EVAL_HEADERS).json()
    assert [choice["message"]["content"] for choice in reply["choices"]] == ["a red circle."]
    assert len(speaking.jobs[0].prompt.messages) == len(messages)


def test_lm_eval_learns_that_it_brings_its_own_tokenizer(http):
    assert http.get("/tokenizer_info", headers=LM_EVAL_HEADERS).status_code == 404


@pytest.mark.slow
def test_lm_eval_finds_greedy_what_the_model_writes(client, tiny_llava):
    """On the real model: of all tokens one is greedy, the one that is written, and their probabilities sum to 1.

    But for that of the token of pictures, which a prompt of tokens must not hold.
    """
    config = json.loads((Path(tiny_llava) / "config.json").read_text())
    tokens = [token for token in range(config["text_config"]["vocab_size"]) if token != config["image_token_index"]]
    context = [5, 6, 7, 8]
    scores = []
    for first in range(0, len(tokens), MAX_PROMPTS):
        some = tokens[first : first + MAX_PROMPTS]
        body = lm_eval_scores([[*context, token] for token in some]) | {"model": "dpo"}
        scores += read_scores(client.completions.create(**body).model_dump(), [len(context)] * len(some))
    written = client.completions.create(model="dpo", prompt=context, max_tokens=1, temperature=0, logprobs=0)
    (logprob,) = written.choices[0].logprobs.token_logprobs
    assert [value for value, greedy in scores if greedy] == [pytest.approx(logprob, abs=1e-4)]
    assert 1 - math.exp(logprob) < sum(math.exp(value) for value, _ in scores) < 1 + 1e-4
