"""apo_zero_loss and apo_down_loss against values worked out by hand."""

import math

import pytest
import torch

from mmalign.batch import PairLogps
from mmalign.losses.apo import apo_down_loss, apo_zero_loss

POLICY = PairLogps(torch.tensor([-10.0]), torch.tensor([-14.0]))
REFERENCE = PairLogps(torch.tensor([-11.0]), torch.tensor([-13.0]))


def test_zero_golden_by_hand():
    """Rewards 0.5 and -0.5: (1 - sigmoid(0.5)) + sigmoid(-0.5) = 2 / (1 + e^0.5)."""
    output = apo_zero_loss(policy=POLICY, reference=REFERENCE, beta=0.5)
    torch.testing.assert_close(output.losses, torch.tensor([2 / (1 + math.exp(0.5))]))


def test_down_golden_by_hand():
    """Rewards 0.5 and -0.5: sigmoid(0.5) + (1 - sigmoid(1)) = 1 / (1 + e^-0.5) + 1 / (1 + e)."""
    output = apo_down_loss(policy=POLICY, reference=REFERENCE, beta=0.5)
    torch.testing.assert_close(output.losses, torch.tensor([1 / (1 + math.exp(-0.5)) + 1 / (1 + math.e)]))


@pytest.mark.parametrize("loss", [apo_zero_loss, apo_down_loss])
def test_loss_is_one_at_the_reference(loss):
    assert loss(policy=REFERENCE, reference=REFERENCE, beta=0.1).losses.item() == 1


def test_zero_moves_both_answers_alike_at_the_reference():
    """sigmoid'(0) = 1/4, down for the chosen answer's loss and up for the rejected one's."""
    chosen, rejected = torch.tensor([-3.0], requires_grad=True), torch.tensor([-3.0], requires_grad=True)
    reference = PairLogps(torch.tensor([-3.0]), torch.tensor([-3.0]))
    apo_zero_loss(policy=PairLogps(chosen, rejected), reference=reference, beta=1.0).losses.sum().backward()
    assert chosen.grad.item() == pytest.approx(-0.25)
    assert rejected.grad.item() == pytest.approx(0.25)


def test_down_lowers_the_chosen_answer_where_the_margin_is_reached():
    """Rewards 0 and -3: slope of the chosen one is sigmoid'(0) - sigmoid'(3) = 0.25 - 0.0452 > 0."""
    chosen, rejected = torch.tensor([-3.0], requires_grad=True), torch.tensor([-6.0], requires_grad=True)
    reference = PairLogps(torch.tensor([-3.0]), torch.tensor([-3.0]))
    apo_down_loss(policy=PairLogps(chosen, rejected), reference=reference, beta=1.0).losses.sum().backward()
    assert chosen.grad.item() == pytest.approx(0.25 - 0.045177, abs=1e-5)
    assert rejected.grad.item() == pytest.approx(0.045177, abs=1e-5)
