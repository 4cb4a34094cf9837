import pytest

from mmalign.world.questions import Question
from mmalign.world.scene import Scene, Thing
from mmalign.world.tasks import Task

SCENE = Scene(
    (
        Thing("red", "circle", "small", cell=0, dx=0, dy=0),
        Thing("blue", "star", "large", cell=5, dx=0, dy=0),
        Thing("green", "ring", "small", cell=15, dx=0, dy=0),
    ),
    tint=0,
)


@pytest.fixture(scope="session")
def describe_task():
    """A description asked for, of a red circle, a blue star and a green ring."""
    return Task(
        id="world/heldout/describe/000000",
        split="heldout",
        kind="describe",
        scenes=(SCENE,),
        history=(),
        question=Question("Describe the image.", "There is a red circle, a blue star and a green ring.", "describe"),
    )
