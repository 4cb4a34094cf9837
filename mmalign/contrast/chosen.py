"""The chosen answer that a rejected one is made from, how the model is asked, and what is known of what it wrote.

    preference   the one that a person or a published set chose       best   the best rated one, as view BestOfN has it
    gold         the answer by the model of this name; any other name likewise
    auto         the first of these that there is: preference, best, gold, teacher

Tests   tests/contrast/test_chosen.py
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import NamedTuple

from mmalign.data.manifest import Entry
from mmalign.data.sample import Response, Sample
from mmalign.data.views import BestOfN, Gold, Unusable, View
from mmalign.generate import Prompt
from mmalign.processor import open_image
from mmalign.sampling.policy import Policy

AUTO = ("preference", "best", "gold", "teacher")
"""What `auto` looks for; the last two are what importers, and the world's shards, call right answers."""

WRITER = ("checkpoint_hash", "adapter_hash", "attributes")
"""What every answer says of the model that wrote it; the lineage of the shards says the rest."""


class Positive(NamedTuple):
    """A sample with its chosen answer."""

    sample: Sample
    chosen: int
    """Number of its chosen response."""
    prompt: Prompt
    """What the model is asked, with the pictures."""

    @property
    def text(self) -> str:
        """The chosen answer."""
        return self.sample.responses[self.chosen].text


def rejected(policy: Policy, positive: Positive, text: str, method: str, how: Mapping[str, object]) -> Response:
    """A rejected answer with its provenance.

    Args:
        policy: Wrote it.
        positive: It was made from.
        text: The answer.
        method: By which.
        how: Its settings, and what was measured on the way.
    """
    writer = {name: policy.identity[name] for name in WRITER if name in policy.identity}
    return Response(text=text, model=policy.name, sampling={"method": method, "of": positive.chosen, **how, **writer})


def find_positive(policy: Policy, sample: Sample, chosen: str, *, new_tokens: int) -> Positive | Unusable:
    """The chosen answer of a sample, or why no rejected one can be made from it.

    Args:
        policy: Shall write the rejected one.
        sample: With its pictures.
        chosen: `auto`, `preference`, `best`, or the name of a model.
        new_tokens: That may follow on prompt and answer.
    """
    if not sample.images:
        return Unusable("no picture")
    index = chosen_index(sample, chosen)
    if isinstance(index, Unusable):
        return index
    try:
        images = tuple(open_image(data, where=f"picture {number}") for number, data in enumerate(sample.images))
    except ValueError as error:
        return Unusable(str(error))
    messages = sample.messages if policy.steering is None else policy.steering.ask(sample.messages)
    template = policy.template
    length = len(template.encode_prompt(messages)) + len(template.encode_response(sample.responses[index].text))
    if length + new_tokens > policy.context:
        return Unusable(
            f"{length} tokens of prompt and answer, and {new_tokens} new ones, do not fit the model's context of "
            f"{policy.context}"
        )
    return Positive(sample, index, Prompt(messages, images))


def chosen_index(sample: Sample, chosen: str) -> int | Unusable:
    """Which response is the chosen one, see above; or why there is none."""
    if chosen == "auto":
        found = [_index(sample, name) for name in AUTO]
        return next((each for each in found if isinstance(each, int)), Unusable(f"none by {', '.join(AUTO)}"))
    return _index(sample, chosen)


def _index(sample: Sample, name: str) -> int | Unusable:
    if name == "preference":
        if sample.preference is None:
            return Unusable("nobody chose directly")
        index = sample.preference.chosen
        return index if sample.responses[index].text.strip() else Unusable("the chosen response is empty")
    view: View = BestOfN() if name == "best" else Gold(model=name)
    choices = view.choose(Entry.of(replace(sample, images=())))  # no view looks at them, and hashing takes time
    return choices if isinstance(choices, Unusable) else choices[0][0].response
