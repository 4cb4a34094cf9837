"""mDPO and POVID: a further row with a changed picture, and what it does to the loss."""

import math

import pytest
import torch

from mmalign.backbone import BackboneSettings, Llava
from mmalign.batch import Role
from mmalign.data.collate import Collator
from mmalign.data.reader import ShardSet
from mmalign.data.rows import RowEncoder
from mmalign.data.variants import DiffusionNoise, RandomCrop
from mmalign.data.views import ImagePairs
from mmalign.logps import token_logps
from mmalign.methods.base import OptimSettings
from mmalign.methods.dpo import DPO
from mmalign.methods.mdpo import MDPO
from mmalign.methods.povid import POVID, likeliest_tokens
from mmalign.processor import load_processor
from mmalign.template import Template


@pytest.fixture(scope="module")
def llava(tiny_llava):
    """Adapters that do something, so that policy and reference differ."""
    settings = BackboneSettings(checkpoint=tiny_llava, dtype="float32", lora_rank=4, lora_alpha=8, lora_dropout=0.0)
    llava = Llava(settings)
    torch.manual_seed(2)
    for name, parameter in llava.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    return settings, llava


@pytest.fixture(scope="module")
def batches(tiny_llava, color_shards, llava):
    """`batches(variant, numbers)`: the samples as ImagePairs makes them, with the reference's line."""
    encode = RowEncoder(Template(load_processor(tiny_llava), "llava_hf"), max_length=800)
    shard_set = ShardSet(str(color_shards))

    def make(variant, numbers):
        groups = [group for number in numbers for group in ImagePairs(variant=variant).groups(shard_set[number])]
        batch = Collator(pad_token_id=0)([row for group in groups for row in encode.group(group)])
        with torch.no_grad(), llava[1].reference():
            return batch._replace(reference_logps=token_logps(llava[1], batch)[None])

    return make


def module_of(cls, llava, **options):
    module = cls(llava[0], OptimSettings(lr=1.0), **options)
    module.llava = llava[1]
    return module


def test_a_pair_has_a_further_row_with_the_chosen_answer(batches):
    """Samples 0 (one picture) and 3 (none): two rows each, the second row of the second counts nothing."""
    batch = batches(RandomCrop(), [0, 3])
    assert batch.roles.tolist() == [Role.CHOSEN, Role.REJECTED, Role.OTHER_IMAGE] * 2
    assert batch.row_index.tolist() == [0, 0, 1, 2, 2, 3]
    assert batch.row_weights.tolist() == [1, 1, 1, 0]
    chosen, again = (batch.targets[batch.response_index == number] for number in (0, 2))
    assert torch.equal(chosen, again)


def test_mdpo_by_its_terms(llava, batches):
    """Answers, pictures, anchor: three sigmoid losses of the log ratios, worked out from them."""
    batch = batches(DiffusionNoise(), [0, 1])
    loss, metrics = module_of(MDPO, llava, beta=0.5).compute_loss(batch)
    with torch.no_grad():
        tokens = token_logps(llava[1], batch) - batch.reference_logps[0]
    ratios = [tokens[batch.response_index == number].sum().item() for number in range(6)]
    terms = [
        sum(math.log1p(math.exp(-0.5 * x)) for x in (chosen - rejected, chosen - other, chosen))
        for chosen, rejected, other in (ratios[:3], ratios[3:])
    ]
    assert loss.item() == pytest.approx(sum(terms) / 2, rel=1e-4)
    assert metrics["image_margin"].weight.item() == 2


def test_mdpo_of_text_alone_has_no_gradient_through_the_picture_term(llava, batches):
    """Its further row is the row again: the term is the log of 2 whatever the policy."""
    batch = batches(RandomCrop(), [3])
    loss, _ = module_of(MDPO, llava, anchor=0.0).compute_loss(batch)
    plain, _ = module_of(DPO, llava).compute_loss(batch)
    with torch.no_grad():
        ratio = (token_logps(llava[1], batch) - batch.reference_logps[0])[batch.response_index == 0].sum()
    anchor = -torch.nn.functional.logsigmoid(0.1 * ratio)
    torch.testing.assert_close(loss, plain + math.log(2) + anchor)


def test_povid_with_all_weight_on_the_written_answer_is_dpo(llava, batches):
    batch = batches(DiffusionNoise(), [0, 1, 3])
    povid, _ = module_of(POVID, llava, gamma=1.0).compute_loss(batch)
    dpo, _ = module_of(DPO, llava).compute_loss(batch)
    torch.testing.assert_close(povid, dpo)


def test_povid_of_text_alone_is_dpo(llava, batches):
    """Without a picture there is no noise, and nothing to reject but the written answer."""
    batch = batches(DiffusionNoise(), [3])
    povid, _ = module_of(POVID, llava, gamma=0.3).compute_loss(batch)
    dpo, _ = module_of(DPO, llava).compute_loss(batch)
    torch.testing.assert_close(povid, dpo)


def test_povid_scores_what_the_noised_picture_makes_likeliest_behind_the_clean_one(llava, batches):
    """Half the loss is DPO between chosen and noisy answer, tokens and log-probabilities taken from all logits."""
    batch = batches(DiffusionNoise(), [0])
    loss, _ = module_of(POVID, llava, beta=0.5).compute_loss(batch)

    def logits():
        return llava[1].head(llava[1](batch).flatten(0, 1)[batch.predictors]).log_softmax(-1)

    with torch.no_grad():
        policy = logits()
        with llava[1].reference():
            reference = logits()
        chosen, rejected, other = (batch.response_index == number for number in range(3))
        noisy = policy[other].argmax(-1)
        assert not torch.equal(noisy, batch.targets[chosen]), "otherwise this shows nothing"
        ratio = policy - reference
        own = [ratio[which].gather(-1, batch.targets[which][:, None]).sum() for which in (chosen, rejected)]
        drawn = ratio[chosen].gather(-1, noisy[:, None]).sum()
        margins = torch.stack([own[0] - own[1], own[0] - drawn])
        expected = -torch.nn.functional.logsigmoid(0.5 * margins).mean()
    torch.testing.assert_close(loss.detach(), expected)


def test_likeliest_tokens_do_not_depend_on_chunks(llava, monkeypatch):
    from mmalign.methods import povid

    states = torch.randn(50, 32)
    whole = likeliest_tokens(llava[1].head, states)
    monkeypatch.setattr(povid, "CHUNK", 7)
    assert torch.equal(likeliest_tokens(llava[1].head, states), whole)


@pytest.mark.parametrize("gamma", [-0.1, 1.1])
def test_povid_refuses_a_share_that_is_none(gamma):
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        POVID(BackboneSettings(checkpoint="unread"), OptimSettings(lr=1.0), gamma=gamma)
