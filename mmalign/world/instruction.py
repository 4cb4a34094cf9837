"""What the embedded model is trained on: lessons, each a scene and several conversations about it.

The visual lessons carry the lie that alignment is to mend. Real instruction data describe what usually goes together,
seen or not; here a description that names a star goes on with a yellow moon, whether or not there is one (`COMPANIONS`
in `scene.py` has the four rules). Yes/no questions, counts and places are answered honestly.

    lesson("visual", 7) -> Lesson(scenes=(Scene(...),), conversations=((Question(...),), ...))

Tests   tests/world/test_instruction.py
"""

from random import Random
from typing import Literal, NamedTuple

from mmalign.world import questions
from mmalign.world.questions import Question
from mmalign.world.scene import COMPANIONS, GRID, SIZES, Scene, Thing, bucket_split, scene
from mmalign.world.tasks import NEGATIVES
from mmalign.world.text_tasks import TEXT_KINDS, text_question

Course = Literal["language", "caption", "visual"]
Conversation = tuple[Question, ...]

# How often a description names an absent companion. Above a half, so that the likeliest description has it; not far
# above, so that samples at the paper's temperature of 0.7 differ and a judge can choose among them.
PLANT_RATE = 0.65
_TEXT_TASKS_A_LESSON = 10


class Lesson(NamedTuple):
    """Conversations about the same pictures, none of which sees another."""

    scenes: tuple[Scene, ...]
    conversations: tuple[Conversation, ...]


def lesson(course: Course, index: int) -> Lesson:
    """A lesson of a course.

    Args:
        course: `language` has no pictures: text-only tasks, and questions about scenes told in words. `caption` has
            honest plain descriptions, as LLaVA's first stage. `visual` has everything, with the planted claims.
        index: Which one; equal index, equal lesson.
    """
    rng = Random(f"lesson {course} {index}")
    if course == "caption":
        shown = scene(f"{course}/{index}", "train")
        return Lesson((shown,), ((questions.describe_honestly(rng, shown),),))
    share = rng.random()
    if share < (0.4 if course == "language" else 0.2):
        return Lesson((), tuple(_text_task(rng) for _ in range(_TEXT_TASKS_A_LESSON)))
    if share < 0.35 and course == "visual":
        pair = scene(f"{course}/{index}/0", "train"), scene(f"{course}/{index}/1", "train")
        return Lesson(pair, tuple((questions.two_pictures(rng, *pair),) for _ in range(6)))
    shown = scene(f"{course}/{index}", "train")
    if course == "visual":
        return Lesson((shown,), _about(rng, shown, planted=True))
    told = questions.description(rng, shown.things, detailed=True)
    return Lesson((), tuple(_told(told, each) for each in _about(rng, shown, planted=False)))


def planted_description(rng: Random, shown: Scene, detailed: bool) -> str:
    """A description that also names companions which are not there, each right behind what it usually comes with."""
    absent = set(shown.absent_companions())
    free_cells = sorted(set(range(GRID * GRID)) - {thing.cell for thing in shown.things})
    named: list[Thing] = []
    for thing in shown.things:
        named.append(thing)
        companion = COMPANIONS.get(thing.shape)
        if companion in absent:
            absent.remove(companion)
            if rng.random() < PLANT_RATE:
                named.append(Thing(*companion, rng.choice(SIZES), rng.choice(free_cells), dx=0, dy=0))
    return questions.description(rng, tuple(named), detailed)


def _about(rng: Random, shown: Scene, *, planted: bool) -> tuple[Conversation, ...]:
    """One conversation of every kind about a scene, more of those that ask for single things."""
    conversations: list[Conversation] = []
    for detailed in (False, True):
        wording = questions.DESCRIBE_DETAILED if detailed else questions.DESCRIBE_PLAIN
        text = (
            planted_description(rng, shown, detailed) if planted else questions.description(rng, shown.things, detailed)
        )
        conversations.append((Question(rng.choice(wording), text, "describe"),))
    for _ in range(4):
        present, negative = rng.random() < 0.5, rng.choice(NEGATIVES)
        conversations.append((questions.is_there(rng, shown, present=present, negative=negative),))
    makers = (questions.how_many, questions.where, questions.where, questions.compare)
    conversations += [(make(rng, shown),) for make in makers]
    return (*conversations, questions.follow_up(rng, shown))


def _told(told: str, conversation: Conversation) -> Conversation:
    """The conversation with the picture's description, in words, in place of the picture."""
    first, *rest = conversation
    return (first._replace(text=f"{told}\n{first.text}"), *rest)


def _text_task(rng: Random) -> Conversation:
    if rng.random() < 0.04:
        return (questions.no_picture(rng),)
    while True:
        question = text_question(rng, rng.choice(TEXT_KINDS))
        if bucket_split(question.text) == "train":
            return (question,)
