"""A trained model, twelve samples in three shards, and a pass over them."""

import pytest
from scoring import Pass, trained, write

from mmalign import reference
from mmalign.backbone import BackboneSettings
from mmalign.data import missing
from mmalign.data.sample import Response, Sample
from mmalign.messages import ImageSlot, Message, Text
from mmalign.processor import load_processor
from mmalign.template import Template


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """Nothing of these tests reaches the user's cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def template(tiny_llava):
    return Template(load_processor(tiny_llava), "llava_hf")


@pytest.fixture(scope="module")
def settings(tiny_llava):
    return BackboneSettings(checkpoint=tiny_llava, template="llava_hf", dtype="float32", lora_rank=4, lora_dropout=0.3)


@pytest.fixture(scope="module")
def llava(settings):
    return trained(settings)


@pytest.fixture(scope="module")
def samples(png):
    """12 samples of one, no or two pictures; four answers each: two repeat one another, one is empty."""
    made = []
    for number in range(12):
        colors = (("red",), (), ("blue", "green"))[number % 3]
        question = Message("user", (*(ImageSlot() for _ in colors), Text(f"Which colour, {number}?")))
        texts = (
            f"It is {number}.",
            "A rather long answer, " * (number % 4 + 1),
            " ",
            "A rather long answer, " * (number % 4 + 1),
        )
        ratings = [{"helpfulness": 4 - i, "correctness": 4 - i, "coherence": 4} for i in range(4)]
        made.append(
            Sample(
                key=f"s{number:02d}",
                messages=(question,),
                images=tuple(png(color) for color in colors),
                responses=tuple(Response(text=t, ratings=r) for t, r in zip(texts, ratings, strict=True)),
            )
        )
    return made


@pytest.fixture
def shards(tmp_path, samples):
    """Three shards of 5, 5 and 2 samples."""
    return write(tmp_path / "set", samples)


@pytest.fixture
def messages(monkeypatch):
    """All that rank 0 was told so far."""
    said = []
    for module in (reference, missing):
        monkeypatch.setattr(module, "rank_zero_info", said.append)
    return lambda: "\n".join(said)


@pytest.fixture
def computing(llava, settings, template):
    return Pass(llava, settings, template)
