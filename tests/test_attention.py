"""What sees what, and that computing less of it changes nothing."""

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from mmalign.attention import prompt_first_attention, response_mask

ROWS = {
    "one layout": [[0] * 5 + [1] * 3 + [2] * 2 + [-1] * 2] * 2,
    "a short prompt": [[0] * 5 + [1] * 3 + [2] * 2 + [-1] * 2, [0] + [1] * 4 + [-1] * 7],
    "one answer each": [[0] * 9 + [1] * 3, [0] * 8 + [1] * 4],
}


def by_rule(segments: torch.Tensor) -> torch.Tensor:
    """Position by position: backwards, at the prompt or its own segment."""
    rows, tokens = segments.shape
    seen = torch.zeros(rows, 1, tokens, tokens, dtype=torch.bool)
    for row in range(rows):
        for query in range(tokens):
            for key in range(query + 1):
                seen[row, 0, query, key] = segments[row, key] in (0, segments[row, query])
    return seen


def test_who_sees_whom():
    """Prompt of two, answers of one and two tokens, one pad; by hand. The prompt is causal and needs no lines."""
    seen = response_mask(torch.tensor([[0, 0, 1, 2, 2, -1]]))[0, 0].int().tolist()
    assert seen == [
        [1, 1, 1, 0, 0, 0],
        [1, 1, 0, 1, 0, 0],
        [1, 1, 0, 1, 1, 0],
        [1, 1, 0, 0, 0, 1],
    ]


def test_lines_begin_where_the_first_row_leaves_its_prompt():
    """The second row answers from its second position on; the first is still in its prompt, and causal."""
    seen = response_mask(torch.tensor([[0, 0, 0, 1], [0, 1, 2, -1]]))[:, 0].int().tolist()
    assert seen == [[[1, 1, 0, 0], [1, 1, 1, 0], [1, 1, 1, 1]], [[1, 1, 0, 0], [1, 0, 1, 0], [1, 0, 0, 1]]]


class Layer(torch.nn.Module):
    """As much of an attention layer as attention functions read."""

    def __init__(self, groups: int) -> None:
        super().__init__()
        self.num_key_value_groups = groups
        self.is_causal = True


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("rows", ROWS)
def test_equal_to_the_whole_mask_values_and_gradients(rows, groups):
    torch.manual_seed(0)
    segments = torch.tensor(ROWS[rows])
    inputs = [
        torch.randn(2, heads, segments.shape[1], 4, dtype=torch.float64, requires_grad=True)
        for heads in (4, 4 // groups, 4 // groups)
    ]
    found, _ = prompt_first_attention(Layer(groups), *inputs, response_mask(segments), scaling=0.5)
    query, key, value = inputs
    key, value = (each.repeat_interleave(groups, dim=1) for each in (key, value))
    whole = scaled_dot_product_attention(query, key, value, attn_mask=by_rule(segments), scale=0.5).transpose(1, 2)
    torch.testing.assert_close(found, whole, rtol=1e-9, atol=1e-9)
    weights = torch.randn_like(whole)
    gradients = [torch.autograd.grad((each * weights).sum(), inputs, retain_graph=True) for each in (found, whole)]
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


def test_other_masks_are_sdpas_own_affair():
    """None is plain causal; a mask with a line for each position is taken as it is."""
    torch.manual_seed(0)
    inputs = [torch.randn(1, 2, 6, 4) for _ in range(3)]
    causal, _ = prompt_first_attention(Layer(1), *inputs, None)
    masked, _ = prompt_first_attention(Layer(1), *inputs, torch.ones(1, 1, 6, 6, dtype=torch.bool).tril())
    torch.testing.assert_close(causal, masked)
    torch.testing.assert_close(causal, scaled_dot_product_attention(*inputs, is_causal=True).transpose(1, 2))


@pytest.mark.gpu
def test_equal_on_a_gpu_in_bfloat16():
    torch.manual_seed(0)
    segments = torch.tensor(ROWS["one layout"], device="cuda")
    inputs = [torch.randn(2, 4, segments.shape[1], 16, device="cuda") for _ in range(3)]
    found, _ = prompt_first_attention(Layer(1), *(each.bfloat16() for each in inputs), response_mask(segments))
    mask = by_rule(segments.cpu()).cuda()
    whole = scaled_dot_product_attention(*inputs, attn_mask=mask).transpose(1, 2)
    torch.testing.assert_close(found.float(), whole, rtol=1e-2, atol=1e-2)
