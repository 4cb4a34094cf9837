"""Served is trained: what comes out of a running batch is what the model says offline, token for token."""

import warnings
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import LlavaForConditionalGeneration

from mmalign.backbone import Llava, load_llava
from mmalign.batch import Role
from mmalign.data.collate import Collator
from mmalign.data.rows import EncodedAnswer, EncodedRow
from mmalign.generate import Prompt, Sampling, generate_ids
from mmalign.logps import token_logps
from mmalign.processor import EMBEDDED, load_processor, open_image, pixel_values
from mmalign.serve.messages import Job
from mmalign.serve.worker.tokens import Tokens
from mmalign.template import Template

LENGTH = 10
NUMBER = 72
"""Prompts; S14 asks for 64."""


def offline_ids(model, template, conversation, *, length=LENGTH, seed=0, temperature=0.0, top_p=1.0):
    images = tuple(open_image(data, where="test") for data in conversation.pictures)
    sampling = Sampling(max_new_tokens=length, temperature=temperature, top_p=top_p)
    return generate_ids(model, template, [Prompt(conversation.messages, images, seed)], sampling)[0]


@pytest.fixture(scope="module")
def told(shared, prompts, template, offline_models, tiny_adapters):
    """72 prompts to base and adapters in turn, in one running batch: each job, what came of it, the offline tokens."""
    models = ["base", *tiny_adapters]
    jobs = [
        Job(model=models[i % 3], prompt=prompt, seeds=(0,), temperature=0.0, max_new_tokens=LENGTH, top_logprobs=2)
        for i, prompt in enumerate(prompts.conversations(NUMBER))
    ]
    found = shared.arrive(jobs)
    assert max(report.running for report in shared.reports) == 8
    expected = [offline_ids(offline_models[job.model], template, job.prompt) for job in jobs]
    return list(zip(jobs, found, expected, strict=True))


def test_greedy_answers_are_the_offline_answers(told, template):
    """Base and two adapters mixed in one batch, with pictures, joining and leaving: token by token."""
    tokens = Tokens(template)
    for job, found, ids in told:
        ended = found.reasons[0] == "stop"
        expected = [tokens.bytes_of(token) for token in [*ids, *([template.eos_token_id] if ended else [])]]
        expected[0] = expected[0].removeprefix(b" ")  # a turn begins without it
        assert [token.bytes for token in found.tokens[0]] == expected
        assert found.texts[0] == template.decode_response(ids)
        assert found.counts[0] == len(ids) + ended
        assert found.begun.prompt_tokens == len(template.encode_prompt(job.prompt.messages))


def trainer_of(tiny_llava: str, folder: Path) -> Llava:
    base = LlavaForConditionalGeneration.from_pretrained(tiny_llava)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # peft 0.21 asks transformers 5.23 by a deprecated name
        return Llava(PeftModel.from_pretrained(base, folder)).eval()


def trained_logps(llava: Llava, template: Template, job: Job, ids: list[int]) -> list[float]:
    """Of each token, as the methods compute them."""
    images = [open_image(data, where="test") for data in job.prompt.pictures]
    row = EncodedRow(
        "row",
        template.encode_prompt(job.prompt.messages),
        (EncodedAnswer(ids, Role.ANSWER),),
        pixel_values(template.processor, images),
    )
    with torch.no_grad():
        return token_logps(llava, Collator(pad_token_id=0)([row])).tolist()


def test_log_probabilities_are_the_trainers(told, template, tiny_llava, tiny_adapters):
    trainers = {name: trainer_of(tiny_llava, folder) for name, folder in tiny_adapters.items()}
    furthest, num_compared = 0.0, 0
    for job, found, written in told:
        ids = written + [template.eos_token_id] * (found.reasons[0] == "stop")
        if template.image_token_id in ids:  # random weights write it now and then; the trainer would want a picture
            ids = ids[: ids.index(template.image_token_id)]
        num_compared += len(ids)
        if job.model == "base":
            with trainers["dpo"].reference():
                expected = trained_logps(trainers["dpo"], template, job, ids)
        else:
            expected = trained_logps(trainers[job.model], template, job, ids)
        served = [token.logprob for token in found.tokens[0][: len(ids)]]
        furthest = max(furthest, 0.0, *(abs(a - b) for a, b in zip(served, expected, strict=True)))
    assert furthest < 1e-5
    assert num_compared > 0.9 * NUMBER * LENGTH


def test_the_likeliest_of_a_greedy_answer_is_what_came(told):
    for _, found, _ in told:
        for token in found.tokens[0]:
            assert len(token.top) == 2
            assert token.logprob == token.top[0].logprob >= token.top[1].logprob  # exactly: readers compare
            assert token.bytes == token.top[0].bytes


@pytest.mark.parametrize("name", ["dpo", "dpo-v1.5"])
def test_merged_is_the_offline_merge(engine_of, prompts, template, tiny_llava, tiny_adapters, name):
    driven = engine_of({name: tiny_adapters[name]}, merged=True)
    assert [model.name for model in driven.engine.hello().models] == [name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # as above
        base = LlavaForConditionalGeneration.from_pretrained(tiny_llava)
        merged = PeftModel.from_pretrained(base, tiny_adapters[name]).merge_and_unload().eval()
    trainer = trainer_of(tiny_llava, tiny_adapters[name])
    jobs = [
        Job(model=name, prompt=prompt, seeds=(0,), temperature=0.0, max_new_tokens=LENGTH, top_logprobs=0)
        for prompt in prompts.conversations(20)
    ]
    for job, found in zip(jobs, driven.arrive(jobs), strict=True):
        written = offline_ids(merged, template, job.prompt)
        assert found.texts[0] == template.decode_response(written)
        if template.image_token_id not in written:  # the trainer would want a picture
            ids = written + [template.eos_token_id] * (found.reasons[0] == "stop")
            served = [token.logprob for token in found.tokens[0]]
            assert served == pytest.approx(trained_logps(trainer, template, job, ids), abs=1e-5)
    assert driven.answer(prompts.ask(model="base")).end.status == 404


def test_merged_in_half_precision_is_the_offline_merge(engine_of, prompts, template, tiny_llava, tiny_adapters):
    driven = engine_of({"dpo": tiny_adapters["dpo"]}, merged=True, dtype="bfloat16")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # as above
        base = LlavaForConditionalGeneration.from_pretrained(tiny_llava, dtype=torch.bfloat16)
        merged = PeftModel.from_pretrained(base, tiny_adapters["dpo"]).merge_and_unload().eval()
    for prompt in prompts.conversations(5):
        job = Job(model="dpo", prompt=prompt, seeds=(0,), temperature=0.0, max_new_tokens=LENGTH)
        expected = template.decode_response(offline_ids(merged, template, prompt))
        assert driven.answer(job).texts[0] == expected


@pytest.mark.parametrize("top_p", [1.0, 0.8])
def test_a_seed_gives_the_offline_sample_whatever_else_runs(driven, prompts, template, offline_models, top_p):
    """Greedy neighbours, neighbours with other temperatures, and several answers of one job."""
    jobs = [
        Job(
            model=("base", "dpo", "dpo-v1.5")[i % 3],
            prompt=prompt,
            seeds=(i, i + 100)[: 1 + i % 2],
            temperature=(0.0, 0.7, 1.3)[i % 3],
            top_p=(top_p, 1.0)[i % 4 == 0],
            max_new_tokens=LENGTH,
        )
        for i, prompt in enumerate(prompts.conversations(24))
    ]
    for job, found in zip(jobs, driven.arrive(jobs, seed=1), strict=True):
        for choice, seed in enumerate(job.seeds):
            ids = offline_ids(offline_models[job.model], template, job.prompt, seed=seed,
                              temperature=job.temperature, top_p=job.top_p)  # fmt: skip
            assert found.texts[choice] == template.decode_response(ids)


def test_the_embedded_model_answers_as_offline(engine_of, prompts):
    driven = engine_of(base=EMBEDDED, template="llava_hf", max_new_tokens=24)
    template = Template(load_processor(EMBEDDED), "llava_hf")
    model = load_llava(EMBEDDED, dtype=torch.float32)
    jobs = [
        Job(model="base", prompt=prompt, seeds=(0,), temperature=0.0, max_new_tokens=24)
        for prompt in prompts.conversations(10)
    ]
    for job, found in zip(jobs, driven.arrive(jobs), strict=True):
        assert found.texts[0] == template.decode_response(offline_ids(model, template, job.prompt, length=24))
