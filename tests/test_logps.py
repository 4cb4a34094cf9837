"""What must be true of a response's log-probability: it is what plain transformers gives for that response alone."""

from collections import Counter
from contextlib import contextmanager

import pytest
import torch
from torch.nn.functional import rms_norm
from torch.utils._python_dispatch import TorchDispatchMode
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from mmalign import logps as logps_module
from mmalign.backbone import BackboneSettings, Llava
from mmalign.batch import Role
from mmalign.data.collate import Collator
from mmalign.data.rows import Answer, Row, RowEncoder
from mmalign.logps import CHUNK, pair_logps, response_logps, target_logps
from mmalign.messages import ImageSlot, Message, Text
from mmalign.processor import load_processor
from mmalign.template import Template


def make_rows(png):
    """No picture, one, two, several turns; answers of one to many tokens; one to three answers a row."""

    def user(*parts):
        return Message("user", tuple(parts))

    red, green, blue = png("red"), png("green", (64, 20)), png("blue", (30, 90))
    turns = (user(ImageSlot(), Text("What?")), Message("assistant", (Text("A circle."),)), user(Text("Which colour?")))
    pair = (Answer("A red circle.", Role.CHOSEN), Answer("No", Role.REJECTED))
    return [
        Row("a", (user(ImageSlot(), Text("What do you see?")),), (red,), pair),
        Row("b", (user(Text("Sort b a c")),), (), (Answer("a b c", Role.CHOSEN), Answer("c, b and a", Role.REJECTED))),
        Row("c", (user(ImageSlot(), ImageSlot(), Text("Same?")),), (green, blue), (Answer("x", Role.ANSWER),)),
        Row("d", turns, (blue,), (*pair, Answer("It is blue, very blue indeed, I would say.", Role.ANSWER))),
    ]


@pytest.fixture(scope="module")
def setting(tiny_llava, png):
    """A LLaVA whose adapters do something, its template, and the encoded rows."""
    torch.manual_seed(1)
    llava = Llava(
        BackboneSettings(
            checkpoint=tiny_llava, template="llava_hf", dtype="float32", lora_rank=4, lora_alpha=8, lora_dropout=0.0
        )
    )
    for name, p in llava.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(p, std=0.1)
    template = Template(load_processor(tiny_llava), "llava_hf")
    encoded = [RowEncoder(template, max_length=512)(row) for row in make_rows(png)]
    return llava, Collator(pad_token_id=0, pad_to_multiple=8), encoded


def alone(llava, encoded):
    """Each response by itself through plain transformers, one at a time: full logits, then a loop over its tokens."""
    found = []
    for row in encoded:
        for answer in row.answers:
            input_ids = torch.tensor([row.prompt + answer.ids])
            pixels = row.pixel_values.to(llava.base.dtype) if len(row.pixel_values) else None
            logits = llava.model(
                input_ids=input_ids, attention_mask=torch.ones_like(input_ids), pixel_values=pixels
            ).logits[0]
            first = len(row.prompt) - 1
            found.append(sum(logits[first + i].log_softmax(-1)[token] for i, token in enumerate(answer.ids)))
    return torch.stack(found)


def gradients(llava):
    found = {name: p.grad.clone() for name, p in llava.named_parameters() if p.grad is not None}
    llava.zero_grad()
    return found


def test_equal_to_each_response_alone(setting):
    """Float32, with padding, mixed lengths, mixed picture counts: sums and every gradient to 1e-5 relative."""
    llava, collate, encoded = setting
    packed, expected = response_logps(llava, collate(encoded)), alone(llava, encoded)
    torch.testing.assert_close(packed.sums, expected, rtol=1e-5, atol=0)
    weights = torch.linspace(-1, 1, len(expected))
    (packed.sums * weights).sum().backward()
    found = gradients(llava)
    (alone(llava, encoded) * weights).sum().backward()
    for name, gradient in gradients(llava).items():
        assert (found[name] - gradient).norm() <= 1e-5 * gradient.norm(), name


def test_equal_in_float64(setting, monkeypatch):
    """The rest is rounding: in float64 the two agree to 1e-9, sums and every gradient.

    Once transformers' norms don't turn to float32 inside.
    """
    monkeypatch.setattr(
        LlamaRMSNorm, "forward", lambda self, x: rms_norm(x, x.shape[-1:], self.weight, self.variance_epsilon)
    )
    llava, collate, encoded = setting
    llava.double()
    try:
        found = response_logps(llava, collate(encoded)).sums
        torch.testing.assert_close(found, alone(llava, encoded), rtol=1e-9, atol=1e-9)
        weights = torch.linspace(-1, 1, len(found), dtype=torch.float64)
        (found * weights).sum().backward()
        expected = gradients(llava)
        (alone(llava, encoded) * weights).sum().backward()
        for name, gradient in gradients(llava).items():
            assert (expected[name] - gradient).norm() <= 1e-9 * gradient.norm(), name
    finally:
        llava.float()


def test_neither_padding_nor_neighbours_matter(setting):
    llava, collate, encoded = setting
    together = response_logps(llava, collate(encoded)).sums
    wide = Collator(pad_token_id=0, pad_to_multiple=100)
    torch.testing.assert_close(response_logps(llava, wide(encoded)).sums, together, rtol=1e-5, atol=1e-5)
    single = torch.cat([response_logps(llava, collate([row])).sums for row in encoded])
    torch.testing.assert_close(single, together, rtol=1e-5, atol=1e-5)
    backwards = torch.cat([response_logps(llava, collate(encoded[::-1])).sums])
    counts = [len(row.answers) for row in encoded[::-1]]
    reordered = torch.cat(list(reversed(backwards.split(counts))))
    torch.testing.assert_close(reordered, together, rtol=1e-5, atol=1e-5)


def test_reference_is_the_untouched_model_bit_for_bit(setting, tiny_llava):
    llava, collate, encoded = setting
    batch = collate(encoded)
    fresh = Llava(BackboneSettings(checkpoint=tiny_llava, dtype="float32", lora_rank=4, lora_dropout=0.0))
    with torch.no_grad(), llava.reference():
        found = response_logps(llava, batch).sums
    with torch.no_grad():
        assert torch.equal(found, response_logps(fresh, batch).sums)
        assert not torch.equal(found, response_logps(llava, batch).sums)


def test_a_trained_projector_is_not_in_the_reference(tiny_llava, setting):
    _, collate, encoded = setting
    settings = BackboneSettings(checkpoint=tiny_llava, dtype="float32", lora_dropout=0.0, train_projector=True)
    llava, batch = Llava(settings), collate(encoded)
    with torch.no_grad():
        before = response_logps(llava, batch).sums
        for name, p in llava.named_parameters():
            if p.requires_grad and "multi_modal_projector" in name:
                p.add_(0.1)
        assert not torch.equal(response_logps(llava, batch).sums, before)
        with llava.reference():
            assert torch.equal(response_logps(llava, batch).sums, before)


def test_a_text_only_batch_still_reaches_a_trained_projector(tiny_llava, setting):
    """With a gradient of zero: otherwise ranks would disagree on which parameters have one, and hang."""
    _, collate, encoded = setting
    settings = BackboneSettings(checkpoint=tiny_llava, dtype="float32", lora_dropout=0.0, train_projector=True)
    llava = Llava(settings)
    response_logps(llava, collate([encoded[1]])).sums.sum().backward()
    assert all(p.grad is not None for p in llava.parameters() if p.requires_grad)


@pytest.mark.parametrize(("share", "layers"), [(False, []), (0.5, [0]), (True, [0, 1])])
def test_gradient_checkpointing_changes_nothing_but_who_runs_twice(tiny_llava, setting, share, layers):
    """In training the first layers run again in the backward pass, as many as asked for; in a reference pass none."""
    _, collate, encoded = setting
    batch, settings = collate(encoded), {"checkpoint": tiny_llava, "dtype": "float32", "lora_dropout": 0.0}
    torch.manual_seed(2)
    plain = Llava(BackboneSettings(**settings))
    torch.manual_seed(2)
    llava = Llava(BackboneSettings(**settings, gradient_checkpointing=share))
    assert llava.training, "eval mode would silently turn it off"
    runs = Counter()
    for number, layer in enumerate(llava.base.model.language_model.layers):
        layer.mlp.register_forward_pre_hook(lambda *_, number=number: runs.update([number]))
    for each in (plain, llava):
        response_logps(each, batch).sums.sum().backward()
    assert runs == {number: 2 if number in layers else 1 for number in (0, 1)}
    expected, found = gradients(plain), gradients(llava)
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    runs.clear()
    with torch.no_grad(), llava.reference():
        response_logps(llava, batch)
    assert runs == {0: 1, 1: 1}


@pytest.mark.parametrize("share", [-0.1, 1.5])
def test_a_share_of_layers_is_between_none_and_all(tiny_llava, share):
    with pytest.raises(ValueError, match=r"must lie in \[0, 1\]"):
        Llava(BackboneSettings(checkpoint=tiny_llava, dtype="float32", gradient_checkpointing=share))


def test_the_tower_runs_once_a_picture(setting):
    """Three rows have four pictures and more answers; the tower sees four."""
    llava, collate, encoded = setting
    seen = []
    hook = llava.base.model.vision_tower.register_forward_hook(
        lambda module, args, kwargs, output: seen.append(len((args or list(kwargs.values()))[0])), with_kwargs=True
    )
    llava(collate(encoded))
    hook.remove()
    assert seen == [4]


class Largest(TorchDispatchMode):
    """Remembers the most elements that any tensor had which an operation made."""

    elements = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        output = function(*args, **(kwargs or {}))
        made = output if isinstance(output, (tuple, list)) else (output,)
        self.elements = max([self.elements, *(each.numel() for each in made if isinstance(each, torch.Tensor))])
        return output


def logps_and_gradient(head, states, targets, weights):
    states = states.clone().requires_grad_()
    found = target_logps(head, states, targets)
    (found * weights).sum().backward()
    return found.detach(), states.grad


@pytest.mark.parametrize("trains", [False, True])
def test_no_logits_beyond_a_chunk(monkeypatch, trains):
    """Chunks give what the whole gives, gradients too; no tensor is larger than a chunk's logits, or than the head."""
    monkeypatch.setattr(logps_module, "CHUNK", 5)
    torch.manual_seed(0)
    head = torch.nn.Linear(8, 300, bias=False).requires_grad_(trains)
    states, targets, weights = torch.randn(600, 8), torch.randint(0, 300, (600,)), torch.linspace(-1, 1, 600)
    with Largest() as largest:
        chunked, found = logps_and_gradient(head, states, targets, weights)
    assert largest.elements <= max(5 * 300, 600 * 8)
    alone = states.clone().requires_grad_()
    whole = head(alone).log_softmax(-1).gather(-1, targets[:, None])[:, 0]
    torch.testing.assert_close(chunked, whole.detach())
    (gradient,) = torch.autograd.grad((whole * weights).sum(), alone)
    torch.testing.assert_close(found, gradient)


@pytest.mark.parametrize(("dtype", "close"), [(torch.float64, 1e-9), (torch.float32, 1e-5), (torch.bfloat16, 1e-2)])
@pytest.mark.parametrize("bias", [False, True])
def test_a_frozen_head_gives_what_one_that_trains_gives(dtype, close, bias):
    """The same values and gradients from both ways of taking them, in each precision."""
    torch.manual_seed(0)
    head = torch.nn.Linear(16, 300, bias=bias, dtype=dtype)
    states, targets, weights = torch.randn(40, 16, dtype=dtype), torch.randint(0, 300, (40,)), torch.linspace(-1, 1, 40)
    logps, gradient = logps_and_gradient(head, states, targets, weights)
    frozen_logps, frozen_gradient = logps_and_gradient(head.requires_grad_(False), states, targets, weights)
    assert (frozen_logps - logps).norm() <= close * logps.norm()
    assert (frozen_gradient - gradient).norm() <= close * gradient.norm()
    assert frozen_gradient.dtype == dtype


def test_a_frozen_head_runs_once_and_keeps_neither_logits_nor_weight(monkeypatch):
    head = torch.nn.Linear(8, 300, bias=False).requires_grad_(False)
    linear, calls, kept = torch.nn.functional.linear, [], []
    monkeypatch.setattr("torch.nn.functional.linear", lambda *given: calls.append(1) or linear(*given))
    with torch.autograd.graph.saved_tensors_hooks(lambda each: kept.append(each.shape) or each, lambda each: each):
        found = target_logps(head, torch.randn(40, 8, requires_grad=True), torch.randint(0, 300, (40,)))
        found.sum().backward()
    assert len(calls) == 1
    assert kept == [(40, 8)]


def test_a_head_is_gathered_once_however_many_chunks_there_are(monkeypatch):
    """Ranks have different numbers of targets: where each chunk gathered it, they would wait for one another."""
    head = torch.nn.Linear(8, 30, bias=False).requires_grad_(False)
    asked = []

    @contextmanager
    def gathered(parameters):
        asked.append(list(parameters))
        yield

    monkeypatch.setattr("mmalign.logps.gathered", gathered)
    for targets in (0, 1, 3 * CHUNK):
        states = torch.randn(targets, 8, requires_grad=True)
        target_logps(head, states, torch.randint(0, 30, (targets,))).sum().backward()
    assert [len(parameters) for parameters in asked] == [1, 1, 1]


def test_pairs_by_role(setting):
    llava, collate, encoded = setting
    batch = collate(encoded)
    logps = response_logps(llava, batch)
    pairs = pair_logps(logps, batch)
    assert torch.equal(pairs.chosen, logps.sums[[0, 2, 5]])
    assert torch.equal(pairs.rejected, logps.sums[[1, 3, 6]])
    assert torch.equal(pair_logps(logps, batch, average=True).chosen, logps.means[[0, 2, 5]])
