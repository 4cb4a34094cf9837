import pytest

from mmalign.evaluation.answers import Answer
from mmalign.evaluation.world import WorldSizes, held_out_ids
from mmalign.world.tasks import task


@pytest.fixture(scope="session")
def small_answers() -> list[Answer]:
    """A few of each sort; base and aligned both answer with gold."""
    found = []
    for task_id in held_out_ids(WorldSizes(describe=12, yes_no=12, text=5, other=5)):
        asked = task(task_id)
        found.append(Answer(asked.id, asked.kind, asked.question.text, asked.gold, asked.gold))
    return found
