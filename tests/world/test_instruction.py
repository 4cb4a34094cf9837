from random import Random

import pytest

from mmalign.world.instruction import PLANT_RATE, lesson, planted_description
from mmalign.world.judge import read_answer
from mmalign.world.language import claims
from mmalign.world.scene import COMPANIONS, Kind, scene, scene_split
from mmalign.world.tasks import Task


def test_only_companions_are_planted_and_at_the_stated_rate():
    """A planted description names all that is there, and nothing false but absent companions."""
    planted = possible = 0
    for i in range(600):
        shown = scene(str(i), "train")
        said = {Kind(claim.colour, claim.shape) for claim in claims(planted_description(Random(i), shown, i % 2 == 0))}
        assert shown.kinds <= said
        assert said - shown.kinds <= shown.absent_companions()
        planted += len(said - shown.kinds)
        possible += len(shown.absent_companions())
    assert planted / possible == pytest.approx(PLANT_RATE, abs=0.05)


def test_a_planted_claim_follows_what_it_goes_with():
    """Wherever in the list the star stands, the moon that is not there stands behind it."""
    for i in range(200):
        shown = scene(str(i), "train")
        said = [Kind(claim.colour, claim.shape) for claim in claims(planted_description(Random(i), shown, False))]
        for place, kind in enumerate(said):
            if kind not in shown.kinds:
                assert COMPANIONS[said[place - 1].shape] == kind


@pytest.mark.parametrize("course", ["language", "caption", "visual"])
def test_lessons_are_functions_of_their_index_and_belong_to_the_training_split(course):
    """Equal index, equal lesson; no scene of another split."""
    for index in range(60):
        each = lesson(course, index)
        assert each == lesson(course, index)
        assert each.conversations
        assert all(scene_split(shown) == "train" for shown in each.scenes)
        assert course != "language" or not each.scenes


def test_all_but_descriptions_is_honest():
    """Every answer to a question with one right answer is the right one."""
    for index in range(60):
        each = lesson("visual", index)
        for turn in (turn for conversation in each.conversations for turn in conversation):
            if turn.form not in ("describe", "text"):
                asked = Task(id="", split="train", kind="where", scenes=each.scenes, history=(), question=turn)
                assert read_answer(asked, turn.gold) == turn.value
