"""Judging against an API with faults, killed with SIGKILL on the way: all rated, none twice, none lost."""

import pytest
from judging import measure

PROMPTS, KILLS = 400, 3


@pytest.mark.faults
def test_killed_on_the_way_every_answer_is_rated_and_no_reply_is_paid_for_twice(record):
    """The full size is `python benchmarks/judging.py`."""
    found = measure(PROMPTS, KILLS)
    assert found["samples"] == PROMPTS
    assert found["answers_judged_once"] == 4 * PROMPTS
    assert found["answers_rated"] + found["answers_invalid"] == 4 * PROMPTS
    assert found["asked_again_though_kept"] == 0
    assert found["calls_to_least_possible"] <= 1.2
    faults = KILLS + sum(found["faults"].values())
    record("judging: SIGKILL, 429, 500, cut JSON, hangs", faults=faults, passed=faults)
