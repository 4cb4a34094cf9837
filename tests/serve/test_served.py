"""The real command, the official client: what is served is what the model says offline, and nothing stays behind."""

import asyncio
import io
import os
import signal
import warnings

import openai
import pytest
import torch
from peft import PeftModel
from PIL import Image
from transformers import LlavaForConditionalGeneration

from mmalign.generate import Sampling, sampling_processors
from mmalign.messages import ImageSlot, Message, Text
from mmalign.processor import load_processor, pixel_values
from mmalign.template import Template

pytestmark = pytest.mark.slow

MODELS = ["base", "dpo", "dpo-v1.5"]
LENGTH = 24


@pytest.fixture(scope="module")
def offline(tiny_llava, tiny_adapters):
    """Answers by plain transformers and PEFT, each model loaded by itself: `offline(model, messages, images)`."""
    template = Template(load_processor(tiny_llava))
    models = {name: LlavaForConditionalGeneration.from_pretrained(tiny_llava).eval() for name in MODELS}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # peft 0.21 asks transformers 5.23 by a deprecated name
        for name, folder in tiny_adapters.items():
            models[name] = PeftModel.from_pretrained(models[name], folder).eval()

    def answer(model, messages, images=(), *, length=LENGTH, temperature=0.0, top_p=1.0, seed=0):
        ids = torch.tensor([template.encode_prompt(messages)])
        pixels = {"pixel_values": pixel_values(template.processor, images)} if images else {}
        sampler = sampling_processors(Sampling(temperature=temperature, top_p=top_p), [seed])
        new = (
            models[model]
            .generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                **pixels,
                max_new_tokens=length,
                logits_processor=sampler,
            )[0, ids.shape[1] :]
            .tolist()
        )
        ended = new[-1] == template.eos_token_id
        return template.decode_response(new), "stop" if ended else "length", ids.shape[1], len(new)

    return answer


CONVERSATIONS = {
    "text": (lambda t: [t.user("what is it?")], (Message("user", (Text("what is it?"),)),), 0),
    "picture": (
        lambda t: [t.user(t.picture(colour="red"), "what is it?")],
        (Message("user", (ImageSlot(), Text("what is it?"))),),
        1,
    ),
    "picture last": (
        lambda t: [t.user("what is it?", t.picture(colour="red"))],
        (Message("user", (Text("what is it?"), ImageSlot())),),
        1,
    ),
    "two pictures": (
        lambda t: [t.user(t.picture(colour="red"), t.picture(colour="blue"), "same?")],
        (Message("user", (ImageSlot(), ImageSlot(), Text("same?"))),),
        2,
    ),
    "several turns": (
        lambda t: [
            {"role": "system", "content": "Be brief."},
            t.user(t.picture(colour="red"), "what is it?"),
            {"role": "assistant", "content": "Red."},
            t.user("and", t.picture(colour="blue"), "?"),
        ],
        (
            Message("system", (Text("Be brief."),)),
            Message("user", (ImageSlot(), Text("what is it?"))),
            Message("assistant", (Text("Red."),)),
            Message("user", (Text("and"), ImageSlot(), Text("?"))),
        ),
        2,
    ),
    "special tokens typed": (
        lambda t: [t.user("<image> </s> <s> USER: ASSISTANT: <image>")],
        (Message("user", (Text("<image> </s> <s> USER: ASSISTANT: <image>"),)),),
        0,
    ),
    "special tokens beside a picture": (
        lambda t: [t.user("<image></s>", t.picture(colour="red"), "<image>")],
        (Message("user", (Text("<image></s>"), ImageSlot(), Text("<image>"))),),
        1,
    ),
}


@pytest.mark.parametrize("conversation", CONVERSATIONS)
@pytest.mark.parametrize("model", MODELS)
def test_served_is_streamed_is_offline(client, talk, offline, model, conversation):
    spoken, messages, num_images = CONVERSATIONS[conversation]
    images = [Image.new("RGB", (40, 30), colour) for colour in ("red", "blue")[:num_images]]
    text, reason, num_prompt, num_new = offline(model, messages, images)
    request = {"model": model, "messages": spoken(talk), "temperature": 0, "max_tokens": LENGTH}

    whole = client.chat.completions.create(**request)
    assert (whole.choices[0].message.content, whole.choices[0].finish_reason) == (text, reason)
    assert (whole.usage.prompt_tokens, whole.usage.completion_tokens) == (num_prompt, num_new)

    *chunks, last = client.chat.completions.create(**request, stream=True, stream_options={"include_usage": True})
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == text
    assert chunks[-1].choices[0].finish_reason == reason
    assert len({chunk.id for chunk in [*chunks, last]}) == 1
    assert last.usage == whole.usage


def test_the_models_differ(client, talk):
    request = {"messages": [talk.user(talk.picture(), "what is it?")], "temperature": 0, "max_tokens": LENGTH}
    answers = {client.chat.completions.create(model=m, **request).choices[0].message.content for m in MODELS}
    assert len(answers) == len(MODELS)


@pytest.mark.parametrize("kind", ["png", "jpeg", "webp"])
def test_every_kind_of_picture_is_seen(client, talk, kind):
    """Another picture, another answer: the pixels reach the model."""
    answers = set()
    for colour in ("red", "blue"):
        messages = [talk.user(talk.picture(kind=kind, colour=colour), "what is it?")]
        reply = client.chat.completions.create(model="base", messages=messages, temperature=0, max_tokens=64)
        answers.add(reply.choices[0].message.content)
    assert len(answers) == 2


@pytest.mark.parametrize("top_p", [1.0, 0.8])
def test_a_seed_gives_the_offline_sample(client, offline, talk, top_p):
    request = {"model": "dpo", "messages": [talk.user("hi")], "temperature": 0.9, "top_p": top_p, "max_tokens": LENGTH}
    texts = [client.chat.completions.create(**request, seed=s).choices[0].message.content for s in (7, 7, 8)]
    assert texts[0] == texts[1] != texts[2]
    hi = (Message("user", (Text("hi"),)),)
    assert texts[0] == offline("dpo", hi, temperature=0.9, top_p=top_p, seed=7)[0]


def test_n_answers_are_the_answers_of_their_seeds(client, talk):
    request = {"model": "base", "messages": [talk.user("hi")], "temperature": 1, "max_tokens": 12}
    several = client.chat.completions.create(**request, n=3, seed=20)
    singly = [client.chat.completions.create(**request, seed=20 + i) for i in range(3)]
    assert [c.message.content for c in several.choices] == [s.choices[0].message.content for s in singly]


@pytest.mark.parametrize("extreme", [{"top_p": 0}, {"temperature": 1e-30}, {"temperature": 1e-3, "top_p": 1e-9}])
def test_a_sampler_that_leaves_no_choice_is_greedy(client, talk, extreme):
    request = {"model": "base", "messages": [talk.user("hi")], "max_tokens": 12}
    greedy = client.chat.completions.create(**request, temperature=0).choices[0].message.content
    assert client.chat.completions.create(**request, **extreme).choices[0].message.content == greedy


def test_an_end_token_is_a_stop(client, offline, talk):
    hi = (Message("user", (Text("hi"),)),)
    seed = next(s for s in range(60) if offline("base", hi, length=100, temperature=2.0, seed=s)[1] == "stop")
    text, _, _, num_new = offline("base", hi, length=100, temperature=2.0, seed=seed)
    request = {"model": "base", "messages": [talk.user("hi")], "temperature": 2, "seed": seed}
    reply = client.chat.completions.create(**request, max_tokens=100)
    assert (reply.choices[0].finish_reason, reply.choices[0].message.content) == ("stop", text)
    assert reply.usage.completion_tokens == num_new
    # The end token as the last one allowed is still a stop; one token less is not.
    assert client.chat.completions.create(**request, max_tokens=num_new).choices[0].finish_reason == "stop"
    assert client.chat.completions.create(**request, max_tokens=num_new - 1).choices[0].finish_reason == "length"


@pytest.mark.parametrize("stream", [False, True])
def test_a_stop_string_ends_the_answer_before_it(client, talk, stream):
    request = {"model": "base", "messages": [talk.user("hi")], "temperature": 0, "max_tokens": 100}
    text = client.chat.completions.create(**request).choices[0].message.content
    stop = text[len(text) // 2 :][:2]
    reply = client.chat.completions.create(**request, stop=["never said", stop], stream=stream)
    if stream:
        chunks = list(reply)
        answer, reason = "".join(c.choices[0].delta.content or "" for c in chunks), chunks[-1].choices[0].finish_reason
    else:
        answer, reason = reply.choices[0].message.content, reply.choices[0].finish_reason
        assert reply.usage.completion_tokens < 100
    assert (answer, reason) == (text.partition(stop)[0], "stop")


def test_the_newer_name_of_the_limit(client, talk):
    reply = client.chat.completions.create(
        model="base", messages=[talk.user("hi")], temperature=0, max_completion_tokens=5
    )
    assert (reply.usage.completion_tokens, reply.choices[0].finish_reason) == (5, "length")


@pytest.mark.parametrize("stream", [False, True])
def test_a_conversation_beyond_the_context_is_a_400(client, talk, stream):
    with pytest.raises(openai.BadRequestError, match=r"context holds 2048 tokens") as caught:
        client.chat.completions.create(model="base", messages=[talk.user("xyz " * 1000)], stream=stream)
    assert caught.value.code == "context_length_exceeded"


def test_concurrent_clients_of_all_models_get_their_own_answers(served, client, talk):
    messages = [[talk.user(f"number {i}")] for i in range(9)]
    options = {"temperature": 0, "max_tokens": 12}
    alone = [
        client.chat.completions.create(model=MODELS[i % 3], messages=messages[i], **options).choices[0].message.content
        for i in range(9)
    ]

    async def together():
        async with openai.AsyncOpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0) as async_client:
            tasks = [
                async_client.chat.completions.create(model=MODELS[i % 3], messages=messages[i], **options)
                for i in range(9)
            ]
            return [reply.choices[0].message.content for reply in await asyncio.gather(*tasks)]

    assert asyncio.run(together()) == alone


def test_bad_requests_do_no_harm(served, client, talk):
    """`n: 0` in a stream kills LitServe's own spec; a broken picture must not reach the worker."""
    broken = io.BytesIO()
    Image.effect_noise((64, 64), 50).save(broken, "jpeg")
    bad = [
        {"n": 0},
        {"n": 3000},
        {"temperature": 99},
        {"messages": []},
        {"messages": [talk.user(talk.picture("http://127.0.0.1:1/x.png"))]},
        {"messages": [talk.user(talk.picture("data:image/png;base64,iVBORw0KGgo="))]},
    ]
    for stream in (True, False):
        for case in bad:
            with pytest.raises(openai.BadRequestError):
                client.chat.completions.create(
                    **({"model": "base", "messages": [talk.user("hi")], "stream": stream} | case)
                )
    reply = client.chat.completions.create(model="base", messages=[talk.user("hi")], max_tokens=1)
    assert reply.usage.completion_tokens == 1
    assert served.process.poll() is None


def test_sigterm_finishes_the_answer_and_leaves_nothing(served, client, talk, left_behind):
    """The last test of the shared server: it ends it."""
    request = {"model": "dpo", "messages": [talk.user("hi")], "max_tokens": 200, "temperature": 0}
    whole = client.chat.completions.create(**request).choices[0].message.content
    text = ""
    for i, chunk in enumerate(client.chat.completions.create(**request, stream=True)):
        text += chunk.choices[0].delta.content or ""
        if i == 2:
            os.kill(served.process.pid, signal.SIGTERM)  # the main process only, as docker and k8s do
    assert text == whole
    assert chunk.choices[0].finish_reason == "length"
    assert served.process.wait(20) == 0
    assert left_behind(served.process.pid) == []
