"""Answers are the same whatever runs beside them, and sampling samples."""

import pytest
import torch

from mmalign.backbone import load_llava
from mmalign.generate import GumbelNoise, Prompt, Sampling, generate
from mmalign.messages import ImageSlot, Message, Text
from mmalign.processor import load_processor, open_image
from mmalign.template import Template


@pytest.fixture(scope="module")
def model(tiny_llava):
    return load_llava(tiny_llava, dtype=torch.float32), Template(load_processor(tiny_llava), "llava_hf")


@pytest.fixture(scope="module")
def prompts(png):
    """No picture, one, two; of different lengths."""
    red, blue = (open_image(png(color), where="test") for color in ("red", "blue"))
    return [
        Prompt((Message("user", (Text("Sort b a."),)),), seed=1),
        Prompt((Message("user", (ImageSlot(), Text("What do you see in this picture here?"))),), (red,), seed=2),
        Prompt((Message("user", (ImageSlot(), ImageSlot(), Text("Same?"))),), (red, blue), seed=3),
        Prompt((Message("user", (ImageSlot(), Text("What?"))),), (blue,), seed=4),
    ]


@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_batch_size_changes_nothing(model, prompts, temperature):
    sampling = Sampling(max_new_tokens=12, temperature=temperature)
    together = generate(*model, prompts, sampling, batch_size=4)
    assert together == generate(*model, prompts, sampling, batch_size=1)
    assert together == [generate(*model, [prompt], sampling)[0] for prompt in prompts]


def test_text_only_prompts_alone(model, prompts):
    assert len(generate(*model, prompts[:1], Sampling(max_new_tokens=3))) == 1


def test_a_seed_is_a_sample(model, prompts):
    """The same seed the same answer, other seeds others."""
    sampling = Sampling(max_new_tokens=12, temperature=1.0)
    answers = [generate(*model, [prompts[1]._replace(seed=seed)], sampling)[0] for seed in (5, 5, 6, 7)]
    assert answers[0] == answers[1]
    assert len(set(answers)) > 1


def test_gumbel_noise_samples_the_softmax():
    """20,000 draws from three logits at temperature 0.5: frequencies within four standard errors."""
    logits, draws = torch.tensor([0.3, -0.2, 0.9]), 20_000
    found = (
        GumbelNoise(0.5, range(draws))(torch.zeros(draws, 1).long(), logits.expand(draws, 3)).argmax(-1).bincount()
        / draws
    )
    expected = (logits / 0.5).softmax(-1)
    assert ((found - expected).abs() < 4 * (expected * (1 - expected) / draws).sqrt()).all()


def test_the_model_keeps_its_mode(model, prompts):
    llava, template = model
    llava.train()
    generate(llava, template, prompts[:1], Sampling(max_new_tokens=1))
    assert llava.training
    llava.eval()
