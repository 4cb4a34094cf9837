r"""SteerLM: prompts that ask for an answer with given attributes, in the paper's words or in NeMo-Aligner's.

    likert    USER: <image>
              What is this?
              Please answer the question such that your response is in the following attributes in 5-point Likert scale:
              Helpfulness:4,Correctness:4,Coherence:4,Complexity:4,Verbosity:4 ASSISTANT:

    nemo      USER: <image>
              What is this? ASSISTANT: helpfulness:4,correctness:4,coherence:4,complexity:4,verbosity:4

Training puts an answer's own ratings there, inference the ratings that are wanted. In the form of NeMo the line opens
the assistant's turn, which the answer continues.

Papers   Li et al., 2024, https://arxiv.org/abs/2402.10884 (likert, the words of its code);
         Dong et al., 2023, https://arxiv.org/abs/2310.05344 (nemo, as NeMo-Aligner writes it)
Tests    tests/test_steering.py
"""

from collections.abc import Mapping, Sequence
from typing import Literal

from mmalign.messages import Message, Text

Form = Literal["likert", "nemo"]
Attributes = Mapping[str, int]

ATTRIBUTES = ("helpfulness", "correctness", "coherence", "complexity", "verbosity")
"""HelpSteer's, in the order in which both forms name them."""
SCALE = (0, 4)
"""Both ends included."""
LIKERT_REQUEST = (
    "\nPlease answer the question such that your response is in the following attributes in 5-point Likert scale:\n"
)


def steer(messages: Sequence[Message], attributes: Attributes, form: Form) -> tuple[Message, ...]:
    """A prompt that asks for these attributes; the one given is left as it is.

    NeMo-Aligner's own line begins with `<extra_id_2>` and four attributes of OpenAssistant (quality, toxicity, humor,
    creativity). Neither is here: Vicuna has no such token, and nobody rated those four.

    Args:
        messages: A conversation that ends with a user turn.
        attributes: A whole number from 0 to 4 for each of the five.
        form: Where and how they are said.

    Raises:
        ValueError: Other attributes than the five, values off the scale, or a prompt that is steered already.
    """
    check_attributes(attributes)
    check_unsteered(messages)
    if form == "nemo":
        line = ",".join(f"{name}:{attributes[name]}" for name in ATTRIBUTES)
        return (*messages, Message("assistant", (Text(f"{line}\n"),)))
    suffix = LIKERT_REQUEST + ",".join(f"{name.capitalize()}:{attributes[name]}" for name in ATTRIBUTES)
    *earlier, question = messages
    return (*earlier, Message("user", (*question.content, Text(suffix))))


def check_attributes(attributes: Mapping[str, object]) -> None:
    """Raise `ValueError` where these are not the five attributes with whole numbers from 0 to 4."""
    low, high = SCALE
    if set(attributes) != set(ATTRIBUTES):
        raise ValueError(f"Steering needs {', '.join(ATTRIBUTES)}, got {sorted(attributes)}. Give all five, no other.")
    strange = {name: v for name, v in attributes.items() if not (type(v) is int and low <= v <= high)}
    if strange:
        raise ValueError(f"Attributes are whole numbers from {low} to {high}, got {strange}. Round or rescale them.")


def check_unsteered(messages: Sequence[Message]) -> None:
    """Raise `ValueError` where a prompt already says which attributes its answer shall have."""
    if any(num_requests(message) for message in messages):
        raise ValueError(
            "the prompt already asks for attributes, so a second suffix would contradict it. Take the suffix out of "
            "the question; views add it."
        )
    if not messages or messages[-1].role != "user":
        raise ValueError("the prompt does not end with a user turn, so it is opened already. Steer a prompt once.")


def num_requests(message: Message) -> int:
    """How often a turn asks for attributes, in the paper's words."""
    text = "".join(part.text for part in message.content if isinstance(part, Text))
    return text.count(LIKERT_REQUEST.strip())
