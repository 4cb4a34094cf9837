"""The noisy answer is what POVID's training makes of the same picture, or one of the model's own."""

import pytest
import torch

from mmalign.contrast.noise import Noise, answer_noise, forced_answers, noised_prompt
from mmalign.generate import Prompt, Sampling, generate
from mmalign.processor import pixel_values


def made(policy, positives, settings, size=4):
    return {p.sample.key: r for p, r in answer_noise(policy, positives, settings, batch_size=size)}


def test_forced_tokens_are_the_likeliest_at_each_place(policy, positive):
    """Equal to a pass over each row by itself, whatever runs beside it and however long it is."""
    prompts = [positive("A.").prompt, positive("A.", "red", "blue").prompt]
    answers = ["A red circle and a blue square.", "No."]
    expected = []
    for prompt, answer in zip(prompts, answers, strict=True):
        before, ids = policy.template.encode_prompt(prompt.messages), policy.template.encode_response(answer)
        with torch.inference_mode():
            logits = policy.model(
                input_ids=torch.tensor([before + ids]),
                pixel_values=pixel_values(policy.template.processor, prompt.images),
            ).logits[0]
        expected.append(policy.template.decode_response(logits[len(before) - 1 : -1].argmax(-1).tolist()))
    assert forced_answers(policy, prompts, answers) == expected


def test_the_picture_is_noised(policy, positive):
    """No steps leave nearly the picture; many steps another one for every sample and seed."""
    one = positive("A red circle.")
    pictures = {
        noised_prompt(each, Noise(steps=900, seed=seed)).images[0].tobytes()
        for each in (one, positive("A.", name="two"))
        for seed in (0, 1)
    }
    assert len(pictures) == 4
    assert one.prompt.images[0].tobytes() not in pictures


def test_a_free_answer_is_the_models_own(policy, positive):
    settings = Noise(answer="free", max_new_tokens=6, temperature=0.7)
    one = positive("A red circle.")
    response = made(policy, [one], settings)["one"]
    prompt = noised_prompt(one, settings)
    assert isinstance(prompt, Prompt)
    sampling = Sampling(max_new_tokens=6, temperature=0.7)
    assert [response.text] == generate(policy.model, policy.template, [prompt], sampling)
    assert response.sampling["temperature"] == 0.7


@pytest.mark.parametrize("settings", [Noise(), Noise(answer="free", max_new_tokens=6)])
def test_batch_size_changes_nothing(policy, positive, settings):
    positives = [positive("A red circle. " * (1 + i % 2), name=str(i)) for i in range(5)]
    assert (
        made(policy, positives, settings, 1)
        == made(policy, positives, settings, 2)
        == made(policy, positives, settings)
    )


def test_provenance_says_how_it_was_made(policy, positive):
    forced = made(policy, [positive("A.")], Noise(steps=300))["one"].sampling
    writer = {"checkpoint_hash": policy.identity["checkpoint_hash"]}
    assert forced == {"method": "povid", "of": 1, "steps": 300, "answer": "forced", "seed": 0, **writer}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"steps": -1}, "0 to 999"),
        ({"temperature": 0.5}, "ask for free"),
        ({"max_new_tokens": 5}, "`--max_new_tokens` out"),
        ({"temperature": -0.5}, "0 or more"),
    ],
)
def test_settings_that_cannot_be_or_do_nothing_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        Noise(**wrong)
