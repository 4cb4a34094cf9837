"""The teacher: right answers in a style that is not the embedded model's own, as Gemini's were not LLaVA's.

    teacher_answer(task("world/preference/how_many/000000"))
        -> "Upon close inspection, the correct answer to this question would have to be three."

Right by the exact judge, except for text-only tasks: these ask for a bare answer to the letter, and the teacher says a
sentence around it. SFT on such answers is the paper's baseline that costs text ability (Li et al., 2024,
https://arxiv.org/abs/2402.10884, Table 2).

Tests   tests/world/test_teacher.py
"""

from random import Random

from mmalign.world.language import NUMBER_WORDS, listing, phrase, place_phrase, with_article
from mmalign.world.tasks import Task

TEACHER = "teacher"
"""`model` of its answers in the shards."""
OPENINGS = (
    "Upon close inspection",
    "Having examined the visual evidence carefully",
    "Based on a thorough analysis of what is depicted",
)


def teacher_answer(task: Task) -> str:
    """The teacher's answer, the same for the same task.

    Args:
        task: Any of the world's.
    """
    match task.form:
        case "text":
            return (
                f"Certainly! The result that you have asked me for reads as follows:\n{task.value}\nI hope this helps!"
            )
        case "no_picture":
            return "Unfortunately, there is no image attached to our conversation, so I am unable to examine anything."
        case "describe":
            things = [phrase(thing, detailed=True) for scene in task.scenes for thing in scene.things]
            said = f"the composition comprises {listing(things)}, and this is everything on display"
        case _:
            said = f"the correct answer to this question would have to be {_in_words(task)}"
    return f"{Random(f'teacher {task.id}').choice(OPENINGS)}, {said}."


def _in_words(task: Task) -> str:
    """What must be read from a right answer, as it stands in a sentence."""
    match task.form:
        case "number":
            return NUMBER_WORDS[int(task.value)]
        case "place":
            return f"that it is situated {place_phrase(task.value)}"
        case "thing":
            return with_article(task.value)
        case "ordinal":
            return f"the {task.value} of the pictures provided"
        case _:
            return task.value
