"""The teacher: always right, and never in the embedded model's own words."""

import pytest

from mmalign.world.judge import WorldJudge, is_right
from mmalign.world.tasks import KINDS, task, tasks
from mmalign.world.teacher import teacher_answer
from mmalign.world.text_tasks import TEXT_KINDS

VISUAL = [kind for kind in KINDS if kind not in TEXT_KINDS]


@pytest.mark.parametrize("kind", VISUAL)
def test_it_is_right_about_pictures(kind):
    """By the exact judge: fully helpful, correct and coherent, for 60 tasks of every kind, whatever form they take."""
    for task_id in tasks("preference", kind, 60):
        each = task(task_id)
        rated = WorldJudge().rate(each, teacher_answer(each))
        assert rated.quality == 12, (each.question, teacher_answer(each), rated)


@pytest.mark.parametrize("kind", TEXT_KINDS)
def test_it_talks_around_a_right_text(kind):
    """The value stands in a line of its own; the task wanted nothing else."""
    for task_id in tasks("preference", kind, 30):
        each = task(task_id)
        assert f"\n{each.value}\n" in teacher_answer(each)
        assert not is_right(each, teacher_answer(each))


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_long_winded(kind):
    """Always a sentence, longer than the gold answer, and the same every time."""
    for task_id in tasks("heldout", kind, 20):
        each = task(task_id)
        said = teacher_answer(each)
        assert said == teacher_answer(task(task_id))
        assert len(said.split()) > max(10, len(each.gold.split()))


def test_it_says_what_the_picture_shows(describe_task):
    """Small and large, red, blue and green, and where; nothing else."""
    assert teacher_answer(describe_task).endswith(
        ", the composition comprises a small red circle in the top left, a large blue star in the centre and "
        "a small green ring in the bottom right, and this is everything on display."
    )
