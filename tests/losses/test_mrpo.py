"""multi_reference against values worked out by hand, then against the properties of a harmonic mean."""

import math

import pytest
import torch

from mmalign.batch import PairLogps
from mmalign.losses.mrpo import multi_reference

HALF_AND_QUARTER = [
    PairLogps(torch.tensor([1 / 2]).log(), torch.tensor([1 / 8]).log()),
    PairLogps(torch.tensor([1 / 4]).log(), torch.tensor([1 / 8]).log()),
]
"""Gaps of the chosen over the rejected answer: 2 log 2 and log 2."""


def random_references(number: int) -> list[PairLogps]:
    return [PairLogps(*torch.empty(2, 5).uniform_(-40, -10)) for _ in range(number)]


def assert_same(ours: PairLogps, theirs: PairLogps) -> None:
    torch.testing.assert_close(ours.chosen, theirs.chosen)
    torch.testing.assert_close(ours.rejected, theirs.rejected)


def test_fixed_weights_golden_by_hand():
    """1 / (0.75 * 2 + 0.25 * 4) = 2/5 for the chosen answer; both give the rejected one 1/8."""
    output = multi_reference(references=HALF_AND_QUARTER, alphas=[0.75, 0.25], eta=None)
    assert_same(output, PairLogps(torch.tensor([2 / 5]).log(), torch.tensor([1 / 8]).log()))


def test_adaptive_weights_golden_by_hand():
    """Gaps 2 log 2 and log 2, so weights 2/3 and 1/3: 1 / (2/3 * 2 + 1/3 * 4) = 3/8."""
    output = multi_reference(references=HALF_AND_QUARTER, eta=None)
    assert_same(output, PairLogps(torch.tensor([3 / 8]).log(), torch.tensor([1 / 8]).log()))


def test_code_alpha_golden_by_hand():
    """The authors' code puts the weights on the wrong references: 1 / (1/3 * 2 + 2/3 * 4) = 3/10."""
    output = multi_reference(references=HALF_AND_QUARTER, eta=None, code_alpha=True)
    assert_same(output, PairLogps(torch.tensor([3 / 10]).log(), torch.tensor([1 / 8]).log()))


def test_fixed_clip_golden_by_hand():
    """eta 0.1 around the base's -10: -20 becomes -11, and -10.5 stays. All weight is on the clipped reference."""
    base = PairLogps(torch.tensor([-10.0]), torch.tensor([-10.0]))
    other = PairLogps(torch.tensor([-20.0]), torch.tensor([-10.5]))
    output = multi_reference(references=[base, other], alphas=[0.0, 1.0], eta=0.1, adaptive_eta=False)
    assert_same(output, PairLogps(torch.tensor([-11.0]), torch.tensor([-10.5])))


def test_adaptive_clip_golden_by_hand():
    """Means -15 and -45, so eta 0.1 is shared out 1/4 to 3/4: clip to -10 * 1.025 and to -50 * (1 - 0.075)."""
    base = PairLogps(torch.tensor([-10.0]), torch.tensor([-50.0]))
    other = PairLogps(torch.tensor([-20.0]), torch.tensor([-40.0]))
    output = multi_reference(references=[base, other], alphas=[0.0, 1.0], eta=0.1)
    assert_same(output, PairLogps(torch.tensor([-10.25]), torch.tensor([-46.25])))


def test_the_authors_code_on_two_references():
    """Their two-reference arithmetic in their own order (the base is their second), with their swapped weights."""
    torch.manual_seed(0)
    base, other = random_references(2)
    alpha = (other.chosen - other.rejected).abs() / (
        (other.chosen - other.rejected).abs() + (base.chosen - base.rejected).abs()
    )
    sizes = [(b + o).abs() / 2 for b, o in zip(base, other, strict=True)]
    expected = []
    for b, o, size in zip(base, other, sizes, strict=True):
        eta = 0.1 * size / (sizes[0] + sizes[1])
        near = torch.minimum(torch.maximum(o, b * (1 + eta)), b * (1 - eta))
        expected.append(near + b - (alpha * near.exp() + (1 - alpha) * b.exp()).log())
    output = multi_reference(references=[base, other], eta=0.1, code_alpha=True)
    torch.testing.assert_close(output.chosen, expected[0], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(output.rejected, expected[1], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("number", [1, 2, 5])
@pytest.mark.parametrize("eta", [None, 0.1])
def test_equal_references_are_that_reference(number, eta):
    torch.manual_seed(1)
    reference = random_references(1)[0]
    assert_same(multi_reference(references=[reference] * number, eta=eta), reference)


def test_order_is_irrelevant_when_nothing_is_clipped():
    torch.manual_seed(2)
    a, b, c = random_references(3)
    assert_same(multi_reference(references=[a, b, c], eta=None), multi_reference(references=[c, a, b], eta=None))
    assert_same(
        multi_reference(references=[a, b, c], alphas=[0.5, 0.3, 0.2], eta=None),
        multi_reference(references=[c, a, b], alphas=[0.2, 0.5, 0.3], eta=None),
    )


def test_the_first_reference_is_the_base_that_others_are_clipped_to():
    torch.manual_seed(3)
    references = random_references(3)
    output = multi_reference(references=references, eta=0.1, adaptive_eta=False)
    for combined, base in zip(output, references[0], strict=True):
        assert (combined <= 0.9 * base + 1e-4).all()
        assert (combined >= 1.1 * base - 1e-4).all()


def test_references_without_any_opinion_weigh_the_same():
    """No gap anywhere: 1 / (1/2 * 2 + 1/2 * 4) = 1/3."""
    references = [PairLogps(torch.tensor([p]).log(), torch.tensor([p]).log()) for p in (1 / 2, 1 / 4)]
    output = multi_reference(references=references, eta=None)
    torch.testing.assert_close(output.chosen, torch.tensor([-math.log(3)]))


@pytest.mark.parametrize("eta", [None, 0.1])
def test_finite_a_thousand_nats_apart(eta):
    near, far = torch.tensor([-1.0]), torch.tensor([-1001.0])
    output = multi_reference(references=[PairLogps(near, far), PairLogps(far, near), PairLogps(far, far)], eta=eta)
    assert output.chosen.isfinite().all()
    assert output.rejected.isfinite().all()


def test_answers_of_probability_one_are_finite():
    certain = PairLogps(torch.zeros(1), torch.zeros(1))
    assert_same(multi_reference(references=[certain, certain]), certain)


def test_carries_no_gradient():
    leaf = torch.tensor([-1.0], requires_grad=True)
    output = multi_reference(references=[PairLogps(leaf, leaf - 1), PairLogps(leaf - 2, leaf)])
    assert not output.chosen.requires_grad
    assert not output.rejected.requires_grad


@pytest.mark.parametrize("alphas", [[0.5], [0.5, 0.6], [1.5, -0.5]])
def test_weights_that_do_not_fit_are_refused(alphas):
    with pytest.raises(ValueError, match="one weight, 0 or more, for each reference, with sum 1"):
        multi_reference(references=HALF_AND_QUARTER, alphas=alphas)


def test_swapped_weights_of_three_references_are_refused():
    with pytest.raises(ValueError, match="there are 3"):
        multi_reference(references=[*HALF_AND_QUARTER, HALF_AND_QUARTER[0]], code_alpha=True)


def test_no_reference_is_refused():
    with pytest.raises(ValueError, match="Name at least one reference store"):
        multi_reference(references=[])
