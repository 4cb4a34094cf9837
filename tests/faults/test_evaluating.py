"""Judging a benchmark, killed on the way, by a judge that is busy, fails and hangs: nothing is asked twice or lost."""

import signal

import pytest
from killed_judge import CONCURRENCY, judge_with_kills
from mock_api import Faults

NUM = 400


@pytest.mark.faults
@pytest.mark.parametrize(
    ("number", "kills", "hang"), [(signal.SIGKILL, 10, 0.005), (signal.SIGTERM, 4, 0.0), (signal.SIGINT, 4, 0.0)]
)
def test_killed_on_the_way_nothing_that_was_answered_is_asked_again(record, tmp_path, number, kills, hang):
    faults = Faults(busy=0.05, fail=0.03, hang=hang)
    found = judge_with_kills(tmp_path, num=NUM, kills=kills, number=number, faults=faults, latency_s=0.02)
    assert found.asked_again == 0
    assert found.requests == found.least + found.lost
    most = CONCURRENCY * kills if number is signal.SIGKILL else 0  # a signal waits for what is under way
    assert found.lost <= most
    assert [reply.id for reply in found.replies] == [f"q{i}" for i in range(NUM)]
    assert [reply.text for reply in found.replies] == [str((0, 0.5, 1)[i % 3]) for i in range(NUM)]
    record(f"evaluate judge: {number.name}, 429, 500, hangs", faults=kills + found.faults, passed=kills + found.faults)
