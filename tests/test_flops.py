"""The counted operations are those that torch counts while the step runs."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from mmalign.backbone import BackboneSettings, Llava
from mmalign.batch import Role
from mmalign.data.collate import Collator
from mmalign.data.rows import Answer, Row, RowEncoder
from mmalign.flops import training_flops, visible_pairs
from mmalign.logps import response_logps
from mmalign.messages import ImageSlot, Message, Text
from mmalign.processor import load_processor
from mmalign.template import Template


@pytest.fixture(scope="module")
def encoded(tiny_llava, png):
    messages = (Message("user", (ImageSlot(), Text("What do you see?"))),)
    answers = (Answer("A circle.", Role.CHOSEN), Answer("No", Role.REJECTED))
    rows = [Row("a", messages, (png("red"),), answers), Row("b", (Message("user", (Text("Sort"),)),), (), answers)]
    encoder = RowEncoder(Template(load_processor(tiny_llava), "llava_hf"), max_length=512)
    return [encoder(row) for row in rows]


def make(tiny_llava, **settings) -> Llava:
    return Llava(BackboneSettings(checkpoint=tiny_llava, dtype="float32", lora_rank=4, lora_dropout=0.0, **settings))


def attention(llava, batch) -> int:
    """By hand: two products forward and four backward, 2 layers of 2 heads of width 16, two operations each."""
    return 2 * 6 * (2 * 2 * 16) * visible_pairs(batch)


def vision_attention(batch) -> int:
    """Two products forward, 2 layers of width 32, 17 positions that see each other."""
    return len(batch.pixel_values) * 2 * 2 * (2 * 32) * 17**2


# A projector that trains runs a blank picture where a batch has none, so that ranks agree: no products of the batch.
@pytest.mark.parametrize(("number", "train_projector"), [(0, False), (0, True), (1, False)])
def test_products_with_matrices_are_those_that_run(tiny_llava, encoded, number, train_projector):
    """With attention, which torch counts as if every position saw every other one, taken off on both sides."""
    llava = make(tiny_llava, train_projector=train_projector)
    batch = Collator(pad_token_id=0, pad_to_multiple=1)([encoded[number]])
    with FlopCounterMode(display=False) as counter:
        response_logps(llava, batch).sums.sum().backward()
    counted = counter.get_flop_counts()["Global"]
    products = sum(flops for operation, flops in counted.items() if "attention" not in str(operation))
    assert training_flops(llava, batch) - attention(llava, batch) - vision_attention(batch) == products


def test_padding_and_recomputation_count_nothing(tiny_llava, encoded):
    llava = make(tiny_llava)
    tight, wide = (Collator(pad_token_id=0, pad_to_multiple=m)(encoded) for m in (1, 256))
    assert training_flops(llava, tight) == training_flops(llava, wide)
    assert training_flops(make(tiny_llava, gradient_checkpointing=True), tight) == training_flops(llava, tight)
    alone = sum(training_flops(llava, Collator(pad_token_id=0)([row])) for row in encoded)
    assert training_flops(llava, tight) == alone


def test_who_looks_at_whom_is_counted(encoded):
    """Prompt of 3, answers of 2 and 1: 3+2+1 in the prompt; 2 x 3 and 1+2; 1 x 3 and 1. Together 6 + 9 + 4."""
    batch = Collator(pad_token_id=0)(encoded[:1])
    assert visible_pairs(batch._replace(segment_ids=torch.tensor([[0, 0, 0, 1, 1, 2, -1]]))) == 19


def test_a_starting_adapters_reference_costs_nothing(tiny_llava, encoded, tmp_path):
    llava = make(tiny_llava)
    llava.save(tmp_path)
    batch = Collator(pad_token_id=0)(encoded)
    assert training_flops(make(tiny_llava, adapter=str(tmp_path)), batch) == training_flops(llava, batch)
