"""segment_weights against values worked out by hand."""

import pytest
import torch

from mmalign.batch import Batch, Role
from mmalign.losses.ddpo import segment_weights

GAMMA = 5.0


def batch_of(*responses: tuple[int, Role, list[int]]) -> Batch:
    """A batch of (row, role, token ids), of which only what says who the targets are matters."""
    rows = 1 + max(row for row, _, _ in responses)
    targets = [token for _, _, ids in responses for token in ids]
    nothing = torch.zeros(rows, 1, dtype=torch.long)
    return Batch(
        input_ids=nothing,
        position_ids=nothing,
        segment_ids=nothing,
        pixel_values=torch.zeros(0, 3, 2, 2),
        row_weights=torch.ones(rows),
        row_index=torch.tensor([row for row, _, _ in responses]),
        roles=torch.tensor([int(role) for _, role, _ in responses]),
        truncated=torch.zeros(len(responses), dtype=torch.long),
        predictors=torch.zeros(len(targets), dtype=torch.long),
        targets=torch.tensor(targets),
        response_index=torch.tensor([number for number, (_, _, ids) in enumerate(responses) for _ in ids]),
        reference_logps=torch.zeros(0, len(targets)),
        keys=["row"] * rows,
        refusals=[""] * rows,
    )


def weights_of_pair(chosen: list[int], rejected: list[int]) -> tuple[list[int], list[int]]:
    """Which tokens of each answer are weighted, as 1 or 0."""
    weights = segment_weights(batch_of((0, Role.CHOSEN, chosen), (0, Role.REJECTED, rejected)), GAMMA)
    assert set(weights.tolist()) <= {1.0, GAMMA}
    weighted = (weights == GAMMA).int().tolist()
    return weighted[: len(chosen)], weighted[len(chosen) :]


def test_golden_by_hand():
    """A red ball on the mat, a big blue ball on the mat: red stands for big blue, in the midst of equals."""
    a, red, big, blue, ball, on, mat, stop = range(8)
    chosen, rejected = weights_of_pair([a, red, ball, on, mat, stop], [a, big, blue, ball, on, mat, stop])
    assert chosen == [0, 1, 0, 0, 0, 0]
    assert rejected == [0, 1, 1, 0, 0, 0, 0]


def test_fewer_than_three_common_tokens_between_changes_are_part_of_them():
    """Common: 0, then 7 8 (two tokens, too few), then 4 5 6."""
    chosen, rejected = weights_of_pair([0, 1, 7, 8, 2, 4, 5, 6], [0, 11, 7, 8, 12, 4, 5, 6])
    assert chosen == rejected == [0, 1, 1, 1, 1, 0, 0, 0]


def test_three_common_tokens_between_changes_keep_weight_one():
    chosen, rejected = weights_of_pair([0, 1, 7, 8, 9, 2, 4, 5, 6], [0, 11, 7, 8, 9, 12, 4, 5, 6])
    assert chosen == rejected == [0, 1, 0, 0, 0, 1, 0, 0, 0]


def test_an_end_too_short_to_match_is_changed():
    """The end token alone, after a change, is no common block."""
    chosen, rejected = weights_of_pair([0, 1, 9], [0, 2, 9])
    assert chosen == rejected == [0, 1, 1]


@pytest.mark.parametrize(
    ("chosen", "rejected"),
    [([1, 2, 3], [1, 2, 3, 4, 5]), ([1, 2, 3, 8, 9, 4, 5, 6], [1, 2, 3, 4, 5, 6])],
    ids=["one goes on", "one has words between"],
)
def test_words_that_only_one_answer_has_keep_weight_one(chosen, rejected):
    assert sum(map(sum, weights_of_pair(chosen, rejected))) == 0


def test_equal_answers_have_weight_one_everywhere():
    assert sum(map(sum, weights_of_pair([1, 2, 3, 4], [1, 2, 3, 4]))) == 0


def test_answers_with_nothing_in_common_are_weighted_everywhere():
    assert weights_of_pair([1, 2], [3, 4, 5]) == ([1, 1], [1, 1, 1])


def test_frequent_tokens_of_a_long_answer_are_compared_too():
    """300 times 1 2 3 around one change; difflib would call all three tokens junk in so long an answer."""
    chosen, rejected = weights_of_pair([1, 2, 3] * 50 + [7] + [1, 2, 3] * 50, [1, 2, 3] * 50 + [8] + [1, 2, 3] * 50)
    assert chosen == rejected == [0] * 150 + [1] + [0] * 150


def test_rows_apart_and_other_roles_keep_weight_one():
    """Row 0 has a pair in the other order and an answer of another role, row 1 no rejected answer, row 2 a pair."""
    weights = segment_weights(
        batch_of(
            (0, Role.REJECTED, [1, 2]),
            (0, Role.ANSWER, [5, 6]),
            (0, Role.CHOSEN, [1, 3]),
            (1, Role.CHOSEN, [7]),
            (2, Role.CHOSEN, [8]),
            (2, Role.REJECTED, [9]),
        ),
        GAMMA,
    )
    assert weights.tolist() == [1, 5, 1, 1, 1, 5, 1, 5, 5]


def test_weight_one_changes_nothing():
    weights = segment_weights(batch_of((0, Role.CHOSEN, [1, 2]), (0, Role.REJECTED, [3])), 1.0)
    assert weights.tolist() == [1, 1, 1]
