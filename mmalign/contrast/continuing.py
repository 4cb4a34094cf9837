"""Answers that go on from an opening: what the model writes behind it, with the space that leads it, if any.

    openings ["There is a red", ""]  ->  [" ball in the grass.", "A dog sleeps."]

Tests   tests/contrast/test_continuing.py
"""

from collections.abc import Sequence

from mmalign.generate import Prompt, Sampling, cut_behind, generate_ids
from mmalign.messages import Message, Text
from mmalign.sampling.policy import Policy


def check_limit(max_new_tokens: int) -> None:
    """Raise where nothing may be written."""
    if max_new_tokens < 1:
        raise ValueError(f"`--max_new_tokens` must be 1 or more, got {max_new_tokens}. Usually 256.")


def continue_answers(
    policy: Policy, prompts: Sequence[Prompt], openings: Sequence[str], sampling: Sampling, *, batch_size: int
) -> list[str]:
    """One continuation a prompt.

    Args:
        policy: Writes.
        prompts: Conversations without the openings.
        openings: Of their answers, each ending behind a word; an empty one leaves the whole answer to the model.
        sampling: Temperature and limits.
        batch_size: Prompts that run together.
    """
    template = policy.template
    opened = [_opened(*pair) for pair in zip(prompts, openings, strict=True)]
    found = generate_ids(policy.model, template, opened, sampling, batch_size=batch_size)
    continued = list[str]()
    for opening, ids in zip(openings, found, strict=True):
        before = template.encode_response(opening)[:-1] if opening else []
        # Decoded together: by itself a continuation does not say whether it begins with a space.
        text = template.decode_response([*before, *ids])[len(template.decode_response(before)) :]
        continued.append(cut_behind(sampling.until, text))
    return continued


def _opened(prompt: Prompt, opening: str) -> Prompt:
    """The prompt with the opening of its answer; a model of SteerLM may have a line before it."""
    if not opening:
        return prompt
    *earlier, last = prompt.messages
    if last.role != "assistant":
        return prompt._replace(messages=(*prompt.messages, Message("assistant", (Text(opening),))))
    line = "".join(part.text for part in last.content if isinstance(part, Text))
    return prompt._replace(messages=(*earlier, Message("assistant", (Text(f"{line} {opening}"),))))
