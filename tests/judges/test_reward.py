"""The implicit reward: beta times what the adapter changed, the same alone and in a batch."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import LlavaForConditionalGeneration

from mmalign.data.sample import Response, Sample
from mmalign.judges.reward import REWARD, RewardJudge
from mmalign.messages import ImageSlot, Message, Text
from mmalign.processor import open_image, pixel_values
from mmalign.sampling.policy import load_policy


@pytest.fixture(scope="module")
def adapter(tiny_llava, tmp_path_factory):
    """A LoRA whose second matrix is not zero."""
    folder = tmp_path_factory.mktemp("reward") / "adapter"
    model = LlavaForConditionalGeneration.from_pretrained(tiny_llava)
    torch.manual_seed(1)
    config = LoraConfig(r=4, target_modules=r".*language_model.*\.(q_proj|v_proj)", init_lora_weights=False)
    get_peft_model(model, config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def samples(png):
    def sample(i, *texts):
        messages = (Message("user", (ImageSlot(), Text(f"Which colour, {i}?"))),)
        responses = tuple(Response(text=text) for text in texts)
        return Sample(key=f"s{i}", messages=messages, images=(png("red"),), responses=responses)

    return [sample(0, "Red.", "It is a very bright blue."), sample(1, "Green."), sample(2, "", "Yes."), sample(3, "")]


def rewards(judge, samples):
    found = {}
    judge.rate(samples, lambda sample, judgments: found.__setitem__(sample.key, judgments))
    return found


def test_the_reward_is_beta_times_the_difference_of_two_models(tiny_llava, adapter, samples):
    policy = load_policy(tiny_llava, adapter)
    found = rewards(RewardJudge(policy=policy, beta=0.5), samples)
    prompt = policy.template.encode_prompt(samples[0].messages)
    pixels = pixel_values(policy.template.processor, [open_image(samples[0].images[0], where="")])

    def logp(text):
        ids = policy.template.encode_response(text)
        with torch.no_grad():
            logits = policy.model(input_ids=torch.tensor([prompt + ids]), pixel_values=pixels).logits[0]
        each = logits[len(prompt) - 1 : -1].log_softmax(-1)
        return each[torch.arange(len(ids)), torch.tensor(ids)].sum().item()

    for response, judgment in zip(samples[0].responses, found["s0"], strict=True):
        aligned = logp(response.text)
        with policy.model.disable_adapter():
            expected = 0.5 * (aligned - logp(response.text))
        assert abs(expected) > 1e-3
        assert judgment.ratings[REWARD] == pytest.approx(expected, abs=1e-4)


def test_batches_change_nothing_and_empty_answers_are_invalid(tiny_llava, adapter, samples):
    policy = load_policy(tiny_llava, adapter)
    together = rewards(RewardJudge(policy=policy), samples)
    alone = rewards(RewardJudge(policy=policy, batch_size=1), samples)
    assert {key: [each.invalid for each in judged] for key, judged in together.items()} == {
        "s0": ["", ""], "s1": [""], "s2": ["the response is empty", ""], "s3": ["the response is empty"]
    }  # fmt: skip
    for key, judged in together.items():
        for one, other in zip(judged, alone[key], strict=True):
            assert one.ratings == pytest.approx(other.ratings, abs=1e-5)
    assert {each.judge for judged in together.values() for each in judged} == {f"reward/{policy.name}"}


def test_settings_that_make_no_reward_are_refused(tiny_llava, adapter):
    with pytest.raises(ValueError, match="needs `--adapter DIR`"):
        RewardJudge(policy=load_policy(tiny_llava))
    with pytest.raises(ValueError, match="`--beta` must be above 0"):
        RewardJudge(policy=load_policy(tiny_llava, adapter), beta=0.0)
