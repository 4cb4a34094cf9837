"""Adapters on one base: mixed in a batch, added and removed while others answer."""

import dataclasses
import random
from concurrent.futures import Future

import pytest
import torch
from peft import PeftModel
from transformers import LlavaForConditionalGeneration

from mmalign.serve.messages import AddAdapter, Cancel, Ended, RemoveAdapter
from mmalign.serve.worker.adapted import AdaptedLlava

SHAPES = {
    "everywhere": {"target_modules": r".*(q_proj|fc1|linear_1|down_proj)"},  # tower and projector, too
    "head": {"modules_to_save": ["lm_head"]},
    "embeddings": {"modules_to_save": ["embed_tokens"]},
    "rank-stabilised": {"r": 8, "use_rslora": True},
}


@pytest.fixture(scope="module")
def shapes(save_adapter, tmp_path_factory):
    return {name: save_adapter(tmp_path_factory.mktemp(name), **o) for name, o in SHAPES.items()}


def test_a_mixed_batch_is_each_adapter_alone(shapes, tiny_llava, png):
    """Bit for bit what PEFT gives, up to the rounding of a batch: tower, projector, head, embeddings, any rank."""
    shared = AdaptedLlava(LlavaForConditionalGeneration.from_pretrained(tiny_llava).eval(), shapes)
    ids = torch.randint(4, 300, (5, 12), generator=torch.Generator().manual_seed(0))
    names = ["head", "base", "embeddings", "everywhere", "rank-stabilised"]
    with torch.no_grad(), shared.rows(names):
        together = shared.llava(input_ids=ids).logits
    for row, name in enumerate(names):
        alone = LlavaForConditionalGeneration.from_pretrained(tiny_llava).eval()
        if name != "base":
            alone = PeftModel.from_pretrained(alone, shapes[name]).eval()
        with torch.no_grad():
            expected = alone(input_ids=ids[row : row + 1]).logits[0]
        assert torch.allclose(together[row], expected, atol=1e-4, rtol=1e-4), name
        with torch.no_grad(), shared.rows([name]):
            assert torch.equal(shared.llava(input_ids=ids[row : row + 1]).logits[0], expected), name


def test_pictures_go_through_the_adapters_tower(shapes, tiny_llava, template):
    """Several pictures, one row: the batch of the tower is another than that of the language model."""
    shared = AdaptedLlava(LlavaForConditionalGeneration.from_pretrained(tiny_llava).eval(), shapes)
    alone = PeftModel.from_pretrained(
        LlavaForConditionalGeneration.from_pretrained(tiny_llava).eval(), shapes["everywhere"]
    ).eval()
    ids = torch.tensor([[1, *[template.image_token_id] * 3 * template.num_image_tokens, 9]])
    pixels = torch.randn(3, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad(), shared.rows(["everywhere"]):
        found = shared.llava(input_ids=ids, pixel_values=pixels).logits
    with torch.no_grad():
        assert torch.equal(found, alone(input_ids=ids, pixel_values=pixels).logits)


@pytest.mark.parametrize(
    ("replaced", "merged"),
    [(("multi_modal_projector", "lm_head", "embed_tokens"), False), (("multi_modal_projector",), True)],
    ids=["beside", "merged"],
)
def test_replaced_modules_answer_in_the_bases_precision(
    engine_of, prompts, tiny_llava, tmp_path, save_adapter, replaced, merged
):
    """Pictures, too, as PEFT's own loading has it; their weights are float32 in the file."""
    folders = {name: save_adapter(tmp_path / name, modules_to_save=[name]) for name in replaced}
    driven = engine_of(folders, dtype="bfloat16", merged=merged)
    for name, folder in folders.items():
        asked = prompts.ask(model=name, max_new_tokens=3)
        told = driven.answer(dataclasses.replace(asked, prompt=prompts.conversations(2)[1]))
        assert told.end == Ended(), name
        base = LlavaForConditionalGeneration.from_pretrained(tiny_llava, dtype=torch.bfloat16).eval()
        alone = PeftModel.from_pretrained(base, folder).eval()
        if merged:
            alone = alone.merge_and_unload()
        ids, models = torch.arange(4, 20)[None], driven.engine._writing.model
        with torch.no_grad(), models.rows([name]):
            assert torch.equal(models.llava(input_ids=ids).logits, alone(input_ids=ids).logits), name


def test_dora_is_served_where_it_is_merged(tiny_llava, save_adapter, tmp_path):
    folder = save_adapter(tmp_path, use_dora=True)
    merged = AdaptedLlava(LlavaForConditionalGeneration.from_pretrained(tiny_llava).eval(), {"a": folder}, merged=True)
    alone = PeftModel.from_pretrained(LlavaForConditionalGeneration.from_pretrained(tiny_llava).eval(), folder)
    ids = torch.arange(4, 40)[None]
    with torch.no_grad(), merged.rows(["a"]):
        found = merged.llava(input_ids=ids).logits
    with torch.no_grad():
        assert torch.equal(found, alone.merge_and_unload().eval()(input_ids=ids).logits)


def test_an_engine_does_not_spin_while_a_leaving_adapter_is_needed(engine_of, prompts, tiny_adapters, monkeypatch):
    driven = engine_of({"dpo": tiny_adapters["dpo"]})
    monkeypatch.setattr(driven.engine._reader, "submit", lambda *_: Future())  # a prompt that takes its time
    driven.engine.take("waits", prompts.ask(model="dpo"))
    driven.engine.take("remove", RemoveAdapter("dpo"))
    driven.step()
    assert not driven.engine.busy
    driven.engine.take("waits", Cancel())
    assert driven.engine.busy
    driven.step()
    assert driven.said["remove"] == [Ended()]


def test_an_adapter_comes_and_goes_while_others_answer(engine_of, prompts, tiny_adapters):
    driven = engine_of({"dpo": tiny_adapters["dpo"]})
    greedy = {name: driven.answer(prompts.ask(model=name, max_new_tokens=20)).texts for name in ("base", "dpo")}
    driven.take("runs", prompts.ask(model="dpo", max_new_tokens=20))
    driven.step()
    driven.take("add", AddAdapter("new", tiny_adapters["dpo-v1.5"]))
    driven.step()
    assert driven.said["add"] == [Ended()]
    assert [model.name for model in driven.reports[-1].models] == ["base", "dpo", "new"]
    driven.take("new", prompts.ask(model="new", max_new_tokens=20))
    driven.step()
    driven.take("remove", RemoveAdapter("new"))
    driven.take("late", prompts.ask(model="new"))
    driven.step()
    assert driven.said["late"][-1].status == 404
    assert [model.name for model in driven.reports[-1].models] == ["base", "dpo"]
    assert not driven.said["remove"], "an answer still needs it"
    driven.finish()
    assert driven.said["remove"] == [Ended()]
    assert driven.whole("runs").texts == greedy["dpo"]
    assert driven.whole("new").texts != greedy["base"]
    assert driven.answer(prompts.ask(max_new_tokens=20)).texts == greedy["base"]
    new = driven.whole("new").texts
    assert driven.answer(AddAdapter("new", tiny_adapters["dpo-v1.5"])).end == Ended()
    assert driven.answer(prompts.ask(model="new", max_new_tokens=20)).texts == new


def test_the_first_adapter_may_come_while_the_base_answers(engine_of, prompts, tiny_adapters, shared):
    driven = engine_of()
    driven.take("runs", prompts.ask(max_new_tokens=20))
    driven.step()
    assert driven.answer(AddAdapter("dpo", tiny_adapters["dpo"])).end == Ended()
    assert driven.whole("runs").texts == driven.answer(prompts.ask(max_new_tokens=20)).texts
    expected = shared.answer(prompts.ask(model="dpo")).texts
    assert driven.answer(prompts.ask(model="dpo")).texts == expected


def test_adapters_come_and_go_in_any_order(shapes, tiny_llava, tiny_adapters):
    """Also the first one, also all, also those that replace the same module."""
    folders = shapes | tiny_adapters
    del folders["everywhere"]  # adapts what another replaces as a whole; PEFT cannot hold both
    model = AdaptedLlava(LlavaForConditionalGeneration.from_pretrained(tiny_llava).eval())
    ids = torch.randint(4, 300, (1, 9), generator=torch.Generator().manual_seed(0))

    def logits(name):
        with torch.no_grad(), model.rows([name]):
            return model.llava(input_ids=ids).logits

    expected = {"base": logits("base")}
    for name, folder in folders.items():
        model.add(name, folder)
        expected[name] = logits(name)
    rng = random.Random(0)
    for _ in range(15):
        name = rng.choice(sorted(folders))
        if name in model.names:
            model.remove(name)
        else:
            model.add(name, folders[name])
        for each in model.names:
            assert torch.equal(logits(each), expected[each])
