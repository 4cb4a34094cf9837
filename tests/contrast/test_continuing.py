"""A continuation is what the model writes behind the opening, with its leading space."""

from mmalign.contrast.continuing import continue_answers
from mmalign.generate import Prompt, Sampling, generate
from mmalign.messages import Message, Text
from mmalign.steering import ATTRIBUTES, steer

ASKED = Prompt((Message("user", (Text("What do you see?"),)),), seed=3)
SAMPLING = Sampling(max_new_tokens=8, temperature=1.0)


def test_no_opening_is_a_plain_answer(policy):
    (text,) = continue_answers(policy, [ASKED], [""], SAMPLING, batch_size=1)
    assert text == generate(policy.model, policy.template, [ASKED], SAMPLING)[0]


def test_opening_and_continuation_decode_as_one_text(policy):
    """The space between them is there or not, as the model wrote it: a plain answer has lost it."""
    opening = "A red"
    ids = policy.template.encode_response(opening)[:-1]
    found = set()
    for seed in range(10):
        prompt = ASKED._replace(seed=seed)
        (text,) = continue_answers(policy, [prompt], [opening], SAMPLING, batch_size=1)
        opened = prompt._replace(messages=(*prompt.messages, Message("assistant", (Text(opening),))))
        (plain,) = generate(policy.model, policy.template, [opened], SAMPLING)
        assert text.removeprefix(" ") == plain
        found.add(text.startswith(" "))
        assert policy.template.decode_response(ids) == opening
    assert found == {True, False}


def test_the_line_of_steerlm_stands_before_the_opening(policy, monkeypatch):
    """Its tokens are those of training: the line, then the answer."""
    steered = steer(ASKED.messages, dict.fromkeys(ATTRIBUTES, 4), "nemo")
    seen = []
    encode = policy.template.encode_prompt
    monkeypatch.setattr(policy.template, "encode_prompt", lambda messages: seen.append(encode(messages)) or seen[-1])
    continue_answers(policy, [Prompt(steered)], ["A red"], Sampling(max_new_tokens=1), batch_size=1)
    assert seen[0] == encode(steered) + policy.template.encode_response("A red")[:-1]
