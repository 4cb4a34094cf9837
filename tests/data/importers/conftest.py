"""Records as rows, and pictures in memory."""

import pytest

from mmalign.data.importers import Skipped, UnreadableError
from mmalign.data.importers.conversations import PictureSource, Row


class Album(PictureSource):
    """Pictures by name."""

    def __init__(self, pictures):
        self.pictures = pictures

    def read(self, name):
        if name not in self.pictures:
            raise UnreadableError(f"no picture {name}")
        return self.pictures[name]


@pytest.fixture
def album(png):
    """`a.png` and `b.png`."""
    return Album({"a.png": png("red"), "b.png": png("blue")})


@pytest.fixture
def convert_all(album):
    """Makes samples, or reasons by name, of records in memory."""

    def convert(reader, *records, pictures=album):
        rows = [Row(f"record {number}", record) for number, record in enumerate(records)]
        made = list(reader(rows, pictures, source="mine"))
        assert len(made) == len(records), "every record has its sample or its reason"
        return made

    return convert


@pytest.fixture
def reason_of(convert_all):
    """The reason for which one record is refused."""

    def reason(reader, record, **options):
        (made,) = convert_all(reader, record, **options)
        assert isinstance(made, Skipped), made
        return made.reason

    return reason
