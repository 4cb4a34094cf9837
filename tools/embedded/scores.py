"""What the embedded model can do, measured on held-out tasks of the world with greedy decoding.

Tests   tests/world/test_committed_model.py
"""

from collections.abc import Sequence

from transformers import LlavaForConditionalGeneration

from mmalign.evaluation.pope import pope_score
from mmalign.generate import Prompt, Sampling, generate
from mmalign.messages import parse_messages
from mmalign.template import Template
from mmalign.world.measures import accuracy, chair, describe_counts, right_answers
from mmalign.world.tasks import Task, task, tasks

_VISUAL = ("how_many", "where", "compare", "multi_turn", "two_images", "no_picture")
_GREEDY = Sampling(max_new_tokens=160, temperature=0.0)


def score_model(model: LlavaForConditionalGeneration, template: Template, num: int) -> dict[str, float]:
    """Scores of a model on the held-out split, rounded to four places.

    Args:
        model: The embedded model, or one like it.
        template: How it is spoken to.
        num: Tasks of each group: descriptions, yes/no questions, other questions about pictures, text-only tasks.
    """
    described = [task(each) for each in tasks("heldout", "describe", num)]
    asked = [task(each) for each in tasks("heldout", "is_there", num)]
    answers = answer(model, template, described)
    rates = chair([describe_counts(*pair) for pair in zip(described, answers, strict=True)])
    scores = {f"describe/{name}": value for name, value in rates._asdict().items()}
    scores["describe/ended"] = sum(_has_ended(template, each) for each in answers) / len(answers)
    replies = answer(model, template, asked)
    pope = pope_score(replies, ["yes" if each.value == "yes" else "no" for each in asked])
    scores |= {f"yes_no/{name}": value for name, value in pope._asdict().items() if name != "num_answers"}
    for kind in _VISUAL:
        scores[f"visual/{kind}"] = _accuracy(model, template, tasks("heldout", kind, max(1, num // len(_VISUAL))))
    scores["text/accuracy"] = _accuracy(model, template, tasks("heldout", "text", num))
    return {name: round(value, 4) for name, value in scores.items()}


def answer(
    model: LlavaForConditionalGeneration,
    template: Template,
    asked: Sequence[Task],
    sampling: Sampling = _GREEDY,
    seeds: Sequence[int] = (),
) -> list[str]:
    """The model's answers to some tasks, in order.

    Args:
        model: The model.
        template: How it is spoken to.
        asked: The tasks.
        sampling: How to decode.
        seeds: One for each task; only for a temperature above 0.
    """
    prompts = [
        Prompt(parse_messages(each.messages), tuple(each.images), seed)
        for each, seed in zip(asked, seeds or [0] * len(asked), strict=True)
    ]
    return generate(model, template, prompts, sampling, batch_size=32)


def _accuracy(model: LlavaForConditionalGeneration, template: Template, ids: Sequence[str]) -> float:
    asked = [task(each) for each in ids]
    return accuracy(right_answers(asked, answer(model, template, asked)))


def _has_ended(template: Template, text: str) -> bool:
    return len(template.encode_response(text)) <= _GREEDY.max_new_tokens
