"""Work ahead: in order, within its bounds, errors where they belong, and no thread left behind."""

import threading
import time
from itertools import count

import pytest

from mmalign.tools.read_ahead import MOST_ITEMS, ahead


def test_results_come_in_order():
    def work(number):
        time.sleep(0.001 * (number % 3))
        return number * 2

    assert list(ahead(range(300), work, lambda _: 1)) == [2 * n for n in range(300)]


def test_what_waits_is_bounded_in_number():
    made = list[int]()
    results = ahead((made.append(n) or n for n in count()), lambda n: n, lambda _: 0)
    next(results)
    time.sleep(0.1)
    assert MOST_ITEMS // 2 < len(made) <= MOST_ITEMS + 1
    results.close()


def test_what_waits_is_bounded_in_bytes():
    made = list[int]()
    results = ahead((made.append(n) or n for n in count()), lambda n: n, lambda _: 10, most_bytes=35)
    assert next(results) == 0
    time.sleep(0.1)
    assert len(made) <= 4, "three that wait or are used, and one for which there is no room"
    assert [next(results) for _ in range(20)] == list(range(1, 21))
    results.close()


def test_one_that_is_larger_than_the_room_comes_alone():
    assert list(ahead([1, 99, 2, 98], lambda n: n, lambda n: n, most_bytes=10)) == [1, 99, 2, 98]


@pytest.mark.parametrize("place", ["items", "work"])
def test_an_error_comes_at_its_place_and_ends_all(place):
    def items():
        yield from range(5)
        if place == "items":
            raise RuntimeError("boom")
        yield from count(5)

    def work(number):
        if place == "work" and number == 5:
            raise RuntimeError("boom")
        return number

    before, seen = threading.active_count(), list[int]()
    with pytest.raises(RuntimeError, match="boom"):
        seen.extend(ahead(items(), work, lambda _: 10**9))
    assert seen == [0, 1, 2, 3, 4]
    assert threading.active_count() == before


def test_one_that_is_not_used_up_ends_when_it_is_closed():
    before = threading.active_count()
    results = ahead(count(), lambda n: n, lambda _: 10, most_bytes=10)
    next(results)
    results.close()
    assert threading.active_count() == before
