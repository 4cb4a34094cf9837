import zlib

import numpy as np
import pytest

from mmalign.world.render import CELL_PX, render
from mmalign.world.scene import COMPANIONS, GRID, SPLITS, Scene, Thing, scene, scene_split
from mmalign.world.tasks import VISUAL_KINDS, task, tasks

SCENES_CRC = 2431180497


def test_a_scene_is_a_function_of_its_seed():
    """Equal seeds give equal scenes and equal pixels; the sum pins them across machines and versions."""
    first, second = scene("a", "train"), scene("a", "train")
    assert first == second != scene("b", "train")
    assert render(first).tobytes() == render(second).tobytes()
    content = repr([scene(str(i), "heldout") for i in range(50)])
    assert zlib.crc32(content.encode()) == SCENES_CRC


def test_things_are_few_distinct_and_in_reading_order():
    """One to six things, no two of one kind, one a cell."""
    scenes = [scene(str(i), "train") for i in range(300)]
    assert {len(each.things) for each in scenes} == set(range(1, 7))
    for each in scenes:
        assert len(each.kinds) == len(each.things)
        cells = [thing.cell for thing in each.things]
        assert cells == sorted(set(cells))


@pytest.mark.parametrize("size", ["small", "large"])
@pytest.mark.parametrize("dx", [-10, 10])
def test_a_thing_stays_in_its_cell(size, dx):
    """Outside of its cell, the picture is background: what a patch shows is what its cell holds."""
    for shape in ("circle", "star", "heart", "moon", "cross", "square", "triangle", "ring"):
        pixels = np.array(render(Scene((Thing("red", shape, size, cell=5, dx=dx, dy=-dx),), tint=0)))
        changed = (pixels != pixels[0, 0]).any(axis=-1)
        inside = np.zeros_like(changed)
        inside[CELL_PX : 2 * CELL_PX, CELL_PX : 2 * CELL_PX] = True
        assert changed[inside].sum() > 10
        assert not changed[~inside].any()


def test_splits_share_no_scene():
    """Tasks of two splits never show the same things in the same cells."""
    seen = {
        split: {
            tuple((*thing.kind, thing.size, thing.cell) for thing in shown.things)
            for kind in VISUAL_KINDS
            for each in tasks(split, kind, 40)
            for shown in task(each).scenes
        }
        for split in SPLITS
    }
    assert all(len(scenes) > 200 for scenes in seen.values())
    assert not seen["train"] & seen["heldout"]
    assert not seen["train"] & seen["preference"]
    assert not seen["preference"] & seen["heldout"]
    assert all(scene_split(scene(str(i), split)) == split for split in SPLITS for i in range(20))


def test_companions_come_along_at_an_honest_rate():
    """Of the scenes with a star, about a third really show a yellow moon; so never to say it would be wrong."""
    scenes = [scene(str(i), "heldout", min_things=4) for i in range(1500)]
    for shape, companion in COMPANIONS.items():
        with_trigger = [each for each in scenes if any(thing.shape == shape for thing in each.things)]
        share = sum(companion in each.kinds for each in with_trigger) / len(with_trigger)
        assert 0.2 < share < 0.45


def test_places_are_nine():
    """The corners are one cell each, the centre four."""
    places = [Thing("red", "circle", "small", cell, 0, 0).place for cell in range(GRID * GRID)]
    assert places[0] == "top left"
    assert places[1] == places[2] == "top"
    assert places[15] == "bottom right"
    assert places.count("centre") == 4
    assert len(set(places)) == 9
