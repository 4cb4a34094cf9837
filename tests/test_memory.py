"""What the plan counts is what modules, optimizer, and forward and backward passes really hold."""

from dataclasses import replace

import pytest
import torch
from allocations import adapted, loss_of, saved_bytes, traced_step
from memory import measured, planned, settings_of
from synthetic import LLAVA_13B, SMALL, TINY, batch, config
from torch.optim import AdamW

from mmalign.architecture import PUBLISHED, count_parameters, read_architecture
from mmalign.backbone import BackboneSettings, Llava
from mmalign.memory import Model, Placement, Zero, activations, optimizer_items, weight_items

EMBEDDED = replace(
    TINY, layers=4, width=128, inner=384, heads=4, vision_layers=4, vision_width=128, vision_inner=256, vision_heads=4,
    vocabulary=768, prompt_tokens=40, answer_tokens=60, pairs=4,
)  # fmt: skip
"""Sizes of the model that ships with mmalign."""
ALONE = Placement(sharding="replicated", ranks=1, per_node=1)


def elements(parameters):
    return sum(parameter.numel() for parameter in parameters)


def by_name(items):
    return {item.name: item.bytes for item in items}


@pytest.mark.parametrize("checkpoint", [*PUBLISHED, "embedded"])
@pytest.mark.parametrize("projector", [False, True])
def test_parameters_are_those_of_the_modules(checkpoint, projector):
    """Built on the meta device by transformers and PEFT; a projector that trains is a copy."""
    sizes, _ = read_architecture(checkpoint)
    settings = BackboneSettings(checkpoint=checkpoint, train_projector=projector)
    llava = adapted(sizes, settings, device="meta")
    model = Model(config=sizes, rank=128, trains_projector=projector)
    assert model.trained == elements(p for p in llava.parameters() if p.requires_grad)
    assert model.frozen == elements(p for p in llava.parameters() if not p.requires_grad)


def test_every_part_of_13b_has_its_parameters():
    sizes, _ = read_architecture("llava-hf/llava-1.5-13b-hf")
    base = adapted(sizes, BackboneSettings(checkpoint=""), device="meta").base
    counts, inner = count_parameters(sizes), base.model
    frozen = lambda module: elements(p for p in module.parameters() if not p.requires_grad)  # noqa: E731
    assert counts.tower == frozen(inner.vision_tower)
    assert counts.projector == frozen(inner.multi_modal_projector)
    assert counts.layer == frozen(inner.language_model.layers[17])
    assert counts.head == frozen(base.lm_head)


def test_weights_and_optimizer_are_exact_on_the_embedded_model():
    """Bytes of a real AdamW after one step, of its gradients, and of the weights that were loaded."""
    llava = Llava(BackboneSettings(checkpoint="embedded", dtype="float32", lora_rank=16, train_projector=True))
    trained = [parameter for parameter in llava.parameters() if parameter.requires_grad]
    for parameter in trained:
        parameter.grad = torch.ones_like(parameter)
    optimizer = AdamW(trained)
    optimizer.step()
    sizes, source = read_architecture("embedded")
    model = Model(config=sizes, rank=16, weight_bytes=4, trains_projector=True)
    found = by_name(optimizer_items(model, ALONE)) | by_name(weight_items(model, ALONE))
    moments = [state[name] for state in optimizer.state.values() for name in ("exp_avg", "exp_avg_sq")]
    assert source == "its config.json"
    assert found["optimizer moments"] == sum(moment.nbytes for moment in moments)
    assert found["gradients"] == found["trained weights"] == sum(parameter.grad.nbytes for parameter in trained)
    assert found["frozen weights"] == sum(p.nbytes for p in llava.parameters() if not p.requires_grad)


@pytest.mark.parametrize("dropout", [0.0, 0.05])
@pytest.mark.parametrize(
    ("shape", "dtype"),
    [
        pytest.param(EMBEDDED, "float32", id="embedded"),
        pytest.param(EMBEDDED, "bfloat16", id="embedded-bfloat16"),
        pytest.param(replace(SMALL, pairs=1, layers=4, vision_layers=2), "float32", id="small", marks=pytest.mark.slow),
    ],
)
def test_saved_tensors_of_a_real_forward_pass_are_within_a_tenth(shape, dtype, dropout):
    settings = replace(settings_of(0.0, dtype=dtype, dropout=dropout), lora_rank=16)
    llava, rows = adapted(config(shape), settings, device="cpu"), batch(shape)
    found = saved_bytes(llava, lambda: loss_of(llava, rows, autocast=dtype == "bfloat16"))
    assert activations(*planned(shape, settings, on_gpu=False)).saved == pytest.approx(found, rel=0.1)


def test_the_embedded_shape_is_that_of_the_embedded_model():
    assert count_parameters(config(EMBEDDED)) == count_parameters(read_architecture("embedded")[0])


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("recomputed", [0.0, 0.5, 1.0])
def test_whole_steps_at_the_size_of_13b_are_within_a_tenth(dtype, recomputed):
    """Four of its layers, on tensors without values: everything that is allocated, forward and backward."""
    shape = replace(LLAVA_13B, layers=4, vision_layers=2, pairs=8)
    settings = settings_of(recomputed, dtype=dtype)
    step = traced_step(config(shape), settings, batch(shape))
    kept, layer, working = activations(*planned(shape, settings, on_gpu=True))
    assert max(kept, step.gradients) + layer + working == pytest.approx(step.peak, rel=0.1)


@pytest.mark.gpu
@pytest.mark.parametrize("recomputed", [0.0, 1.0])
def test_peaks_on_a_gpu_are_within_a_tenth(recomputed):
    """Of all that torch allocates, weights and optimizer included."""
    shape = replace(LLAVA_13B, layers=4, pairs=4)
    assert abs(measured("four layers of 13B", shape, settings_of(recomputed))["off"]) < 0.1


def test_ranks_share_what_a_strategy_cuts():
    sizes, _ = read_architecture("llava-hf/llava-1.5-13b-hf")
    model = Model(config=sizes, rank=128)
    alone = by_name([*weight_items(model, ALONE), *optimizer_items(model, ALONE)])
    placement = Placement(sharding="zero3", ranks=4, per_node=4)
    cut = by_name([*weight_items(model, placement), *optimizer_items(model, placement)])
    assert all(4 * cut[name] == pytest.approx(size, abs=16) for name, size in alone.items())
    assert 0 < cut["gathered weights"] < alone["frozen weights"] / 4
    whole = Placement(sharding="ddp", ranks=4, per_node=4)
    copies = by_name([*weight_items(model, whole), *optimizer_items(model, whole)])
    assert copies == alone | {"gradient buckets": alone["gradients"]}


@pytest.mark.slow
def test_buffers_are_those_that_deepspeed_will_be_told():
    """Its own defaults, and what our strategy hands it."""
    from deepspeed.runtime.zero.config import DeepSpeedZeroConfig

    from mmalign.strategies import Zero3Strategy

    told = DeepSpeedZeroConfig(**Zero3Strategy().config["zero_optimization"])
    assert Zero() == Zero(
        stage3_max_live_parameters=told.max_live_parameters,
        stage3_prefetch_bucket_size=told.prefetch_bucket_size,
        reduce_bucket_size=told.reduce_bucket_size,
    )
