"""The file that says what a shard set was made of."""

import pytest

from mmalign.data.lineage import LINEAGE_NAME, Step, lineage_of, without_secret
from mmalign.data.manifest import Manifest
from mmalign.data.sample import Sample, ShardError
from mmalign.data.shards import ShardWriter
from mmalign.messages import Message, Text

STEPS = (
    Step("import llava", "a.json", "9f2c", {"source": "lrv"}, {"samples": 1}),
    Step("judge", "shards/sampled", "77ab", {"judge": "gemini"}, {"invalid": 0, "cost": 0.25}),
)


def write(folder, steps):
    with ShardWriter(folder) as writer:
        writer.write(Sample(key="one", messages=(Message("user", (Text("What?"),)),)))
        writer.lineage = steps
    return Manifest.load(folder)


def test_steps_come_back_as_they_were_written(tmp_path):
    assert lineage_of(write(tmp_path / "set", STEPS)) == STEPS


def test_a_set_that_is_replaced_loses_its_lineage(tmp_path):
    write(tmp_path / "set", STEPS)
    assert lineage_of(write(tmp_path / "set", ())) == ()


def test_damage_is_named_with_what_to_do(tmp_path):
    manifest = write(tmp_path / "set", STEPS)
    (tmp_path / "set" / LINEAGE_NAME).write_text("[{")
    with pytest.raises(ShardError, match="Delete it"):
        lineage_of(manifest)


@pytest.mark.parametrize(
    ("location", "written"),
    [
        ("https://me:key@host/shards", "https://host/shards"),
        ("s3://key@bucket/a@b", "s3://bucket/a@b"),
        ("shards/a@b", "shards/a@b"),
    ],
)
def test_a_key_in_an_address_is_not_written(location, written):
    assert without_secret(location) == written
