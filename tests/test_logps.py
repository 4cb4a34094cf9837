"""What must be true of a response's log-probability: it is what plain transformers gives for that response alone."""

import pytest
import torch

from mmalign.backbone import BackboneSettings, Llava, response_mask
from mmalign.batch import Role
from mmalign.data.collate import Collator
from mmalign.data.rows import Answer, Row, RowEncoder
from mmalign.logps import pair_logps, response_logps, target_logps
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


def test_equal_in_float64(setting):
    """The rest is rounding: in float64 the two agree to 1e-9."""
    llava, collate, encoded = setting
    llava.double()
    try:
        states = llava(collate(encoded))
        batch = collate(encoded)
        logits = llava.head(states.flatten(0, 1)[batch.predictors])
        token = logits.log_softmax(-1).gather(-1, batch.targets[:, None])[:, 0]
        sums = torch.zeros(batch.num_responses, dtype=torch.float64).index_add(0, batch.response_index, token)
        torch.testing.assert_close(sums, alone(llava, encoded), rtol=1e-9, atol=1e-9)
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


def test_gradient_checkpointing_changes_nothing(tiny_llava, setting):
    _, collate, encoded = setting
    batch, found = collate(encoded), []
    for recompute in (False, True):
        torch.manual_seed(2)
        settings = BackboneSettings(
            checkpoint=tiny_llava, dtype="float32", lora_dropout=0.0, gradient_checkpointing=recompute
        )
        llava = Llava(settings)
        assert llava.training, "eval mode would silently turn it off"
        response_logps(llava, batch).sums.sum().backward()
        found.append(gradients(llava))
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])


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


def test_no_logits_beyond_a_chunk(monkeypatch):
    """The head never sees more than a chunk of states, and the chunks give what the whole gives, gradients too."""
    from mmalign import logps

    monkeypatch.setattr(logps, "CHUNK", 5)
    torch.manual_seed(0)
    head, sizes = torch.nn.Linear(8, 30), []
    head.register_forward_hook(lambda module, args, output: sizes.append(len(output)))
    states, targets = torch.randn(12, 8, requires_grad=True), torch.randint(0, 30, (12,))
    chunked = target_logps(head, states, targets)
    (found,) = torch.autograd.grad(chunked.sum(), states)
    assert max(sizes) == 5
    whole = head(states).log_softmax(-1).gather(-1, targets[:, None])[:, 0]
    torch.testing.assert_close(chunked, whole)
    torch.testing.assert_close(found, torch.autograd.grad(whole.sum(), states)[0])


def test_who_sees_whom():
    """Prompt of two, answers of one and two tokens, one pad; by hand."""
    seen = response_mask(torch.tensor([[0, 0, 1, 2, 2, -1]]))[0, 0].int().tolist()
    assert seen == [
        [1, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0],
        [1, 1, 0, 1, 0, 0],
        [1, 1, 0, 1, 1, 0],
        [1, 1, 0, 0, 0, 1],
    ]


def test_pairs_by_role(setting):
    llava, collate, encoded = setting
    batch = collate(encoded)
    logps = response_logps(llava, batch)
    pairs = pair_logps(logps, batch)
    assert torch.equal(pairs.chosen, logps.sums[[0, 2, 5]])
    assert torch.equal(pairs.rejected, logps.sums[[1, 3, 6]])
    assert torch.equal(pair_logps(logps, batch, average=True).chosen, logps.means[[0, 2, 5]])
