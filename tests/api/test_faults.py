"""How long a server asks to wait."""

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from mmalign.api.faults import retry_after


@pytest.mark.parametrize(
    ("header", "seconds"),
    [("3", 3), ("0.5", 0.5), ("", 0), ("soon", 0), ("-2", 0), ("nan", 0), ("1e999", float("inf"))],
)
def test_seconds_are_read_and_nonsense_is_none(header, seconds):
    assert retry_after(header) == seconds


def test_a_date_is_read():
    assert 50 < retry_after(format_datetime(datetime.now(UTC) + timedelta(seconds=60), usegmt=True)) <= 60
    assert retry_after("Wed, 21 Oct 2015 07:28:00 GMT") == 0
