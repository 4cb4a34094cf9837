"""The embedded world: pictures of shapes, questions about them, and an exact judge.

    scene.py, render.py        what a picture holds, and how it looks
    language.py                naming things, and reading any text back
    questions.py, text_tasks.py, tasks.py    prompts with gold answers, known from an id
    instruction.py             what the embedded model is trained on, planted claims included
    judge.py, measures.py      HelpSteer ratings; CHAIR, recall and accuracy
    llava/                     the embedded model

Everything but the model is torch-free and a pure function of a seed.
"""

from mmalign.world.judge import Ratings, WorldJudge, is_right
from mmalign.world.tasks import Task, task, tasks

__all__ = ["Ratings", "Task", "WorldJudge", "is_right", "task", "tasks"]
