"""`/v1/models`: what can be asked for, by what name, and how it is steered."""

import openai
import pytest

from mmalign.serve.messages import ServedModel
from mmalign.steering import ATTRIBUTES


def test_models_are_listed(openai_http):
    assert [model.id for model in openai_http.models.list()] == ["base", "dpo"]
    model = openai_http.models.retrieve("dpo")
    assert (model.id, model.object, model.owned_by) == ("dpo", "model", "mmalign")


def test_a_model_says_what_openai_has_no_field_for(http, front):
    steered = ServedModel("steer", dict.fromkeys(ATTRIBUTES, 4) | {"verbosity": 2})
    front.link.models = {**front.link.models, "steer": steered}
    base, dpo, steer = [model["mmalign"] for model in http.get("/v1/models").json()["data"]]
    assert base == {"adapter": False, "attributes": None, "default_attributes": None, "context": 2048}
    assert dpo == base | {"adapter": True}
    assert steer["attributes"] == {name: [0, 4] for name in ATTRIBUTES}
    assert steer["default_attributes"]["verbosity"] == 2


def test_an_unknown_model_names_the_known(openai_http):
    with pytest.raises(openai.NotFoundError, match="Choose one of: base, dpo") as caught:
        openai_http.models.retrieve("steer")
    assert caught.value.code == "model_not_found"


def test_an_adapter_that_comes_or_goes_is_listed_at_once(openai_http, front):
    front.link.models = {"base": ServedModel("base"), "new": ServedModel("new")}
    assert [model.id for model in openai_http.models.list()] == ["base", "new"]
