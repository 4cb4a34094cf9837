"""orpo_loss against values worked out by hand."""

import math

import torch

from mmalign.batch import PairLogps
from mmalign.losses.orpo import orpo_loss


def test_golden_by_hand():
    """p 1/2 and 1/4, odds 1 and 1/3, ratio 3, sigmoid(log 3) = 3/4: log 2 - 0.5 log(3/4)."""
    output = orpo_loss(policy=PairLogps(torch.tensor([1 / 2]).log(), torch.tensor([1 / 4]).log()), beta=0.5)
    torch.testing.assert_close(output.losses, torch.tensor([math.log(2) - 0.5 * math.log(3 / 4)]))
    torch.testing.assert_close(output.chosen_rewards, torch.tensor([0.5 * math.log(1 / 2)]))


def test_equal_answers_cost_their_likelihood_and_beta_log_two():
    same = torch.tensor([-1.5])
    output = orpo_loss(policy=PairLogps(same, same), beta=0.1)
    torch.testing.assert_close(output.losses, torch.tensor([1.5 + 0.1 * math.log(2)]))


def test_odds_of_a_nearly_certain_answer_are_exact():
    """p = 1 - 1e-5 has odds of about 1e5; 1 - exp(log p) would keep two digits of them in float32."""
    nearly = math.log1p(-1e-5)
    output = orpo_loss(policy=PairLogps(torch.tensor([-20.0]), torch.tensor([nearly])), beta=1.0)
    log_odds_ratio = (-20 - math.log(-math.expm1(-20))) - (nearly - math.log(1e-5))
    torch.testing.assert_close(output.losses, torch.tensor([20 + math.log(1 + math.exp(-log_odds_ratio))]))


def test_an_answer_of_probability_one_is_finite_and_still_comparable():
    sure, unsure = torch.zeros(1), torch.tensor([-1.0])
    right = orpo_loss(policy=PairLogps(sure, unsure), beta=1.0).losses
    wrong = orpo_loss(policy=PairLogps(unsure, sure), beta=1.0).losses
    assert 0 <= right.item() < 1e-6
    assert 16 < wrong.item() < 18  # 1 for the likelihood, and odds of 2^23
