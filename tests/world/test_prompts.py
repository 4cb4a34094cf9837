"""The world's prompts as samples: those of the shipped shards, to the byte."""

import io
from dataclasses import replace

import pytest
from PIL import Image, ImageChops

from mmalign.data.reader import ShardSet
from mmalign.data.rowset import Source
from mmalign.world.prompts import world_prompts
from mmalign.world.tasks import task, tasks


@pytest.mark.parametrize(("name", "split", "skip"), [("world", "preference", 0), ("world-heldout", "heldout", 2000)])
def test_prompts_are_those_of_the_shipped_shards(name, split, skip):
    """Keys, ids, messages and pictures, of all kinds of tasks; without the answers."""
    shipped = ShardSet(Source(path=name).resolve())
    for number, sample in enumerate(world_prompts(split, "preference", 40, skip=skip)):
        assert sample == replace(shipped[number], responses=())


def test_an_id_leads_back_to_what_the_picture_shows():
    for sample in world_prompts("heldout", "two_images", 2):
        shown = task(sample.id).images
        pictures = [Image.open(io.BytesIO(data)) for data in sample.images]
        assert not any(ImageChops.difference(*pair).getbbox() for pair in zip(shown, pictures, strict=True))


def test_what_is_left_out_comes_first():
    ids = [sample.id for sample in world_prompts("preference", "text", 3, skip=2)]
    assert ids == tasks("preference", "text", 5)[2:]


@pytest.mark.parametrize(("num", "skip"), [(0, 0), (-1, 0), (3, -1)])
def test_no_prompts_are_refused(num, skip):
    with pytest.raises(ValueError, match="1 prompt or more"):
        next(world_prompts("preference", "preference", num, skip))


def test_a_mix_that_is_not_there_is_named():
    with pytest.raises(ValueError, match="'riddles' is neither"):
        next(world_prompts("preference", "riddles", 1))
