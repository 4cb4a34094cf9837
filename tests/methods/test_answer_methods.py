"""SFT, rejection sampling, SteerLM: one loss, three views."""

import pytest
import torch
from transformers import LlavaForConditionalGeneration

from mmalign.backbone import BackboneSettings, Llava
from mmalign.data.collate import Collator
from mmalign.data.reader import ShardSet
from mmalign.data.rows import RowEncoder
from mmalign.data.views import BestOfN, Gold, Steer
from mmalign.methods.base import OptimSettings
from mmalign.methods.sft import SFT
from mmalign.processor import load_processor
from mmalign.template import Template


@pytest.fixture(scope="module")
def module(tiny_llava):
    settings = BackboneSettings(checkpoint=tiny_llava, dtype="float32", lora_rank=4, lora_alpha=8, lora_dropout=0.0)
    module = SFT(settings, OptimSettings(lr=1.0))
    module.llava = Llava(settings)
    return module


@pytest.fixture(scope="module")
def encode(tiny_llava):
    return RowEncoder(Template(load_processor(tiny_llava), "llava_hf"), max_length=800)


def rows_of(view, shards):
    shard_set = ShardSet(str(shards))
    return [row for number in range(10) for group in view.groups(shard_set[number]) for row in group]


def test_the_loss_is_that_of_plain_transformers(module, encode, tiny_llava, color_shards):
    """Mean over all answer tokens of the batch, as `labels` give it row by row; answers of unlike lengths."""
    rows = [row for row in rows_of(BestOfN(), color_shards) if len(row.images) == 1]
    loss, metrics = module.compute_loss(Collator(pad_token_id=0)([encode(row) for row in rows]))
    plain, total, count = LlavaForConditionalGeneration.from_pretrained(tiny_llava), 0.0, 0
    for row in rows:
        encoded = encode(row)
        answer = encoded.answers[0].ids
        ids = torch.tensor([encoded.prompt + answer])
        labels = torch.tensor([[-100] * len(encoded.prompt) + answer])
        total += plain(input_ids=ids, labels=labels, pixel_values=encoded.pixel_values).loss.item() * len(answer)
        count += len(answer)
    assert loss.item() == pytest.approx(total / count, rel=1e-5)
    assert metrics["loss"].value.item() == pytest.approx(total / count, rel=1e-5)
    assert metrics["loss"].weight.item() == count


def test_rejection_sampling_learns_the_best_answer(color_shards):
    """Each colour's right answer has 12 points, its wrong one 6."""
    rows = rows_of(BestOfN(), color_shards)
    assert len(rows) == 10
    assert all("very bright" not in answer.text for row in rows for answer in row.answers)


def test_steerlm_learns_all_answers_behind_their_own_ratings(color_shards):
    rows = rows_of(Steer(form="likert"), color_shards)
    assert len(rows) == 20
    for row in rows:
        asked = row.messages[-1].content[-1].text
        helpfulness = 1 if "very bright" in row.answers[0].text else 4
        assert asked.count("Helpfulness:") == 1
        assert f"Helpfulness:{helpfulness},Correctness:{helpfulness},Coherence:4" in asked


def test_answers_of_one_source_stand_behind_one_prompt(color_shards):
    rows = rows_of(Gold(model="test"), color_shards)
    assert [len(row.answers) for row in rows] == [2] * 10


def test_holes_count_nothing(module, encode, color_shards):
    rows = rows_of(BestOfN(), color_shards)[:4]
    encoded = [encode(row) for row in rows]
    alone, _ = module.compute_loss(Collator(pad_token_id=0)(encoded[:2]))
    with_holes = encoded[:2] + [row._replace(weight=0.0) for row in encoded[2:]]
    beside, _ = module.compute_loss(Collator(pad_token_id=0)(with_holes))
    torch.testing.assert_close(beside, alone)
