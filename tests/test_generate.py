"""Answers are the same whatever runs beside them, and sampling samples."""

import re
from contextlib import contextmanager

import pytest
import torch

from mmalign.backbone import load_llava
from mmalign.generate import GumbelNoise, Prompt, Sampling, generate, generate_ids
from mmalign.messages import ImageSlot, Message, Text
from mmalign.processor import load_processor, open_image, pixel_values
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


@contextmanager
def recorded_logits(llava):
    """The logits of every new token, as `generate` gets them: (rows, vocab) a step."""
    steps = []
    handle = llava.lm_head.register_forward_hook(lambda module, inputs, logits: steps.append(logits[:, -1].clone()))
    yield steps
    handle.remove()


def logits_without_cache(llava, template, prompt, ids):
    """Of every new token, in one forward pass over prompt and answer, with a 4-D mask: what `generate` should give."""
    encoded = template.encode_prompt(prompt.messages)
    tokens = torch.tensor([encoded + ids])
    places = [i for i, token in enumerate(encoded) if token == template.image_token_id]
    keys = torch.ones(tokens.shape[1], dtype=torch.bool)
    keys[[places[number] for number in prompt.hidden]] = False
    mask = torch.ones(len(keys), len(keys), dtype=torch.bool).tril() & keys
    with torch.inference_mode():
        logits = llava(
            input_ids=tokens,
            pixel_values=pixel_values(template.processor, prompt.images),
            attention_mask=mask[None, None],
            position_ids=torch.arange(len(keys))[None],
            use_cache=False,
        ).logits[0]
    return logits[len(encoded) - 1 :]


@pytest.fixture(scope="module")
def hiding(prompts):
    """Rows of different lengths that hide all, some, or nothing of one picture or of two."""
    return [
        prompts[1]._replace(hidden=tuple(range(16))),
        prompts[2]._replace(hidden=(3, 15, 16, 31)),
        prompts[3]._replace(hidden=(0, 5, 6, 7)),
        prompts[3],
    ]


def test_hidden_image_tokens_stay_hidden_while_decoding_with_a_cache(model, hiding):
    """The same tokens as a forward pass without cache under a 4-D mask, and its logits to 1e-5, row by row."""
    llava, template = model
    with recorded_logits(llava) as steps:
        answers = generate_ids(llava, template, hiding, Sampling(max_new_tokens=12))
    order = sorted(range(4), key=lambda i: -len(template.encode_prompt(hiding[i].messages)))
    for row, i in enumerate(order):
        expected = logits_without_cache(llava, template, hiding[i], answers[i])
        found = torch.stack([step[row] for step in steps])[: len(answers[i])]
        assert answers[i] == expected.argmax(-1)[: len(answers[i])].tolist()
        assert (found - expected[: len(found)]).abs().max() < 1e-5


def test_a_prompt_that_hides_all_does_not_see_its_picture(model, prompts, hiding):
    """Bit by bit the logits of another picture; without hiding they differ."""
    red, blue = prompts[1].images[0], prompts[3].images[0]
    for hidden, equal in ((tuple(range(16)), True), ((), False)):
        logits = []
        for image in (red, blue):
            with recorded_logits(model[0]) as steps:
                generate(*model, [prompts[1]._replace(images=(image,), hidden=hidden)], Sampling(max_new_tokens=4))
            logits.append(torch.stack(steps))
        assert torch.equal(*logits) == equal


def test_of_two_pictures_one_can_be_hidden(model, prompts):
    """Hidden the second: the first is seen, the second is not."""
    red, blue = prompts[2].images
    second = prompts[2]._replace(hidden=tuple(range(16, 32)))
    logits = {}
    for name, images in {"both": (red, blue), "other second": (red, red), "other first": (blue, blue)}.items():
        with recorded_logits(model[0]) as steps:
            generate(*model, [second._replace(images=images)], Sampling(max_new_tokens=2))
        logits[name] = torch.stack(steps)
    assert torch.equal(logits["both"], logits["other second"])
    assert not torch.equal(logits["both"], logits["other first"])


def test_hiding_nothing_is_plain_generation(model, prompts):
    """Bit by bit, alone and beside a row of the same length that hides something."""
    sampling, (plain, other) = Sampling(max_new_tokens=6, temperature=0.7), (prompts[1], prompts[1])
    logits = []
    for batch in ([plain, other], [plain._replace(hidden=()), other._replace(hidden=(2, 3))]):
        with recorded_logits(model[0]) as steps:
            generate(*model, batch, sampling)
        logits.append(torch.stack([step[0] for step in steps[:6]]))
    assert torch.equal(*logits)


@pytest.mark.parametrize("hidden", [(16,), (-1,)])
def test_only_image_tokens_can_be_hidden(model, prompts, hidden):
    with pytest.raises(ValueError, match=f"16 image tokens cannot hide number {hidden[0]}"):
        generate(*model, [prompts[1]._replace(hidden=hidden)], Sampling(max_new_tokens=1))


def test_every_row_stops_at_its_own_match(model, prompts):
    """Cut as the whole answer would be, whatever runs beside it, and with fewer steps."""
    whole = generate(*model, prompts, Sampling(max_new_tokens=12, temperature=1.0))
    until = re.escape(whole[1][4])
    expected = [re.split(f"(?<={until})", answer)[0] for answer in whole]
    assert len({len(answer) for answer in expected}) > 1
    sampling = Sampling(max_new_tokens=12, temperature=1.0, until=until)
    assert generate(*model, prompts, sampling) == expected
    with recorded_logits(model[0]) as steps:
        assert generate(*model, prompts[1:2], sampling) == expected[1:2]
    assert len(steps) < 12
