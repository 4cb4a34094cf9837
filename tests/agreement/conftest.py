"""Samples with judgments, in few words."""

import pytest

from mmalign.data.sample import Judgment, Preference, Response, Sample
from mmalign.messages import Message, Text


@pytest.fixture(scope="session")
def answer():
    """`answer("text", gpt={"helpfulness": 3}, gemini="why it is invalid")`; `places={"gpt": 0}`; the latest is last."""

    def make(text="A cat.", /, places=None, **judges):
        response = Response(text=text)
        for name, said in judges.items():
            place = (places or {}).get(name)
            failed = isinstance(said, str)
            given = Judgment(judge=name, ratings={} if failed else said, invalid=said if failed else "", place=place)
            response = response.judged(given)
        return response

    return make


@pytest.fixture(scope="session")
def sample():
    """`sample(*answers, chosen=(0, 1))`."""

    def make(*responses, chosen=None, key="0", sample_id=""):
        preference = Preference(*chosen) if chosen else None
        messages = (Message("user", (Text("What is it?"),)),)
        return Sample(key=key, messages=messages, responses=responses, preference=preference, id=sample_id or key)

    return make
