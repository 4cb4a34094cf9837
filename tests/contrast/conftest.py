"""The tiny model as a policy, and samples with a chosen answer."""

import pytest

from mmalign.contrast.chosen import find_positive
from mmalign.data.sample import Response, Sample
from mmalign.messages import ImageSlot, Message, Text
from mmalign.sampling.policy import load_policy


@pytest.fixture(scope="session")
def policy(tiny_llava):
    return load_policy(tiny_llava)


@pytest.fixture(scope="session")
def positive(policy, png):
    """`positive("Yes. It is red.", "red")`: a chosen answer to a question about one-coloured pictures."""

    def make(answer, *colors, name="one"):
        slots = [ImageSlot() for _ in colors or ("red",)]
        sample = Sample(
            key=name,
            id=f"test/{name}",
            messages=(Message("user", (*slots, Text("What do you see?"))),),
            images=tuple(png(color) for color in colors or ("red",)),
            responses=(Response(text="Something."), Response(text=answer, model="gold")),
        )
        return find_positive(policy, sample, "gold", new_tokens=40)

    return make
