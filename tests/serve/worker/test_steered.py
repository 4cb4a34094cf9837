"""Models of SteerLM are asked for attributes as their exports say, or as a request says instead."""

import dataclasses
import json
import shutil

import pytest

from mmalign.generate import Prompt, Sampling, generate_ids
from mmalign.messages import Message, Text
from mmalign.serve.messages import BASE, Conversation, ServedModel
from mmalign.steering import ATTRIBUTES, LIKERT_REQUEST, steer

DEFAULTS = dict.fromkeys(ATTRIBUTES, 4)


@pytest.fixture(scope="module", params=["likert", "nemo"])
def form(request):
    return request.param


@pytest.fixture(scope="module")
def steered(engine_of, tiny_adapters, tmp_path_factory, form):
    """One adapter of SteerLM, one that is not."""
    folder = tmp_path_factory.mktemp("steered") / "steer"
    shutil.copytree(tiny_adapters["dpo"], folder)
    (folder / "lineage.json").write_text(json.dumps({"steer": {"form": form, "attributes": DEFAULTS}}))
    return engine_of({"steer": folder, "dpo": tiny_adapters["dpo"]})


def asked(prompts, **attributes):
    job = prompts.ask("what is it?", "steer")
    return dataclasses.replace(job, prompt=dataclasses.replace(job.prompt, attributes=attributes or None))


def test_the_models_say_what_they_are_asked_for(steered):
    models = steered.engine.hello().models
    assert models == (ServedModel(BASE), ServedModel("steer", DEFAULTS), ServedModel("dpo"))


@pytest.mark.parametrize("attributes", [{}, {"verbosity": 0}, {"verbosity": 1, "helpfulness": 2}])
def test_defaults_with_what_a_request_says_instead(steered, prompts, template, offline_models, form, attributes):
    told = steered.answer(asked(prompts, **attributes))
    messages = steer((Message("user", (Text("what is it?"),)),), DEFAULTS | attributes, form)
    ids = generate_ids(offline_models["dpo"], template, [Prompt(messages)], Sampling(max_new_tokens=12))[0]
    assert told.begun.prompt_tokens == len(template.encode_prompt(messages))
    assert told.texts[0] == template.decode_response(ids)


@pytest.mark.parametrize("attributes", [{"verbosity": 5}, {"verbosity": -1}, {"quality": 1}, {"verbosity": True}])
def test_what_cannot_be_asked_for(steered, prompts, attributes):
    end = steered.answer(asked(prompts, **attributes)).end
    assert (end.status, end.param) == (400, "attributes")


def test_a_prompt_that_asks_already(steered, prompts):
    messages = (Message("user", (Text(f"what?{LIKERT_REQUEST}Helpfulness:0"),)),)
    job = dataclasses.replace(asked(prompts), prompt=Conversation(messages=messages))
    end = steered.answer(job).end
    assert (end.status, end.param) == (400, "messages")


def test_a_model_that_is_not_steered_knows_no_attributes(steered, prompts):
    job = dataclasses.replace(asked(prompts, verbosity=1), model="dpo")
    end = steered.answer(job).end
    assert (end.status, end.param) == (400, "attributes")


def test_a_merged_export_is_steered_as_base(engine_of, tiny_llava, tmp_path, prompts, template):
    folder = shutil.copytree(tiny_llava, tmp_path / "merged")
    (folder / "lineage.json").write_text(json.dumps({"steer": {"form": "likert", "attributes": DEFAULTS}}))
    driven = engine_of(base=str(folder))
    assert driven.engine.hello().models == (ServedModel(BASE, DEFAULTS),)
    told = driven.answer(dataclasses.replace(asked(prompts), model=BASE))
    messages = steer((Message("user", (Text("what is it?"),)),), DEFAULTS, "likert")
    assert told.begun.prompt_tokens == len(template.encode_prompt(messages))
