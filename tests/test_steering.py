"""Steering: the paper's exact words, NeMo's line, and no prompt steered twice."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mmalign.backbone import load_llava
from mmalign.generate import Prompt, Sampling, generate
from mmalign.messages import ImageSlot, Message, Text
from mmalign.processor import load_processor, open_image
from mmalign.steering import ATTRIBUTES, check_attributes, num_requests, steer
from mmalign.template import Template

GOLDEN = {"helpfulness": 3, "correctness": 4, "coherence": 4, "complexity": 2, "verbosity": 0}
PAPER = (
    "What is this?\nPlease answer the question such that your response is in the following attributes in 5-point Likert"
    " scale:\nHelpfulness:3,Correctness:4,Coherence:4,Complexity:2,Verbosity:0"
)
EARLIER = (Message("user", (ImageSlot(), Text("Hi."))), Message("assistant", (Text("Hello."),)))
QUESTION = Message("user", (Text("What is this?"),))


def words(message):
    return "".join(part.text for part in message.content if isinstance(part, Text))


def test_the_papers_suffix_to_the_letter():
    """Behind the last question, in the order of HelpSteer; earlier turns and pictures stay as they are."""
    *earlier, question = steer((*EARLIER, QUESTION), GOLDEN, "likert")
    assert tuple(earlier) == EARLIER
    assert words(question) == PAPER
    (lone,) = steer((Message("user", (ImageSlot(), Text("What is this?"))),), GOLDEN, "likert")
    assert (lone.content[0], words(lone)) == (ImageSlot(), PAPER)


def test_nemos_line_opens_the_answer():
    *asked, opening = steer((*EARLIER, QUESTION), GOLDEN, "nemo")
    assert tuple(asked) == (*EARLIER, QUESTION)
    line = "helpfulness:3,correctness:4,coherence:4,complexity:2,verbosity:0\n"
    assert opening == Message("assistant", (Text(line),))


@given(st.fixed_dictionaries({name: st.integers(0, 4) for name in ATTRIBUTES}), st.sampled_from(["likert", "nemo"]))
def test_every_attribute_can_be_read_back(attributes, form):
    text = words(steer((QUESTION,), attributes, form)[-1]).lower()
    read = dict(pair.split(":") for pair in text.strip().splitlines()[-1].split(","))
    assert {name: int(value) for name, value in read.items()} == attributes


def test_the_prompt_given_is_left_as_it_is():
    """The published data went wrong there: a dictionary that was shared got a second suffix."""
    messages = [*EARLIER, QUESTION]
    first = steer(messages, GOLDEN, "likert")
    assert messages == [*EARLIER, QUESTION]
    assert first == steer(messages, GOLDEN, "likert")
    assert num_requests(first[-1]) == 1


@pytest.mark.parametrize("form", ["likert", "nemo"])
@pytest.mark.parametrize("steered", ["likert", "nemo"])
def test_a_steered_prompt_is_not_steered_again(form, steered):
    prompt = steer((QUESTION,), GOLDEN, steered)
    with pytest.raises(ValueError, match=r"already.*(Take the suffix out|Steer a prompt once)"):
        steer(prompt, GOLDEN, form)


@pytest.mark.parametrize(
    ("attributes", "words"),
    [
        ({"helpfulness": 4}, r"got \['helpfulness'\]\. Give all five"),
        (GOLDEN | {"humor": 0}, "'humor'.*Give all five, no other"),
        (GOLDEN | {"coherence": 5}, r"from 0 to 4, got {'coherence': 5}\. Round or rescale"),
        (GOLDEN | {"coherence": -1}, "got {'coherence': -1}"),
        (GOLDEN | {"verbosity": 2.5}, "got {'verbosity': 2.5}"),
        (GOLDEN | {"verbosity": True}, "got {'verbosity': True}"),
    ],
)
def test_other_attributes_are_refused(attributes, words):
    with pytest.raises(ValueError, match=words):
        check_attributes(attributes)


def test_steering_checks_its_attributes():
    with pytest.raises(ValueError, match="Give all five"):
        steer((QUESTION,), {"helpfulness": 4}, "likert")


def test_a_model_goes_on_from_an_opening(tiny_llava, png):
    """The same as transformers' greedy decoding from these tokens, whatever runs beside it."""
    model, template = load_llava(tiny_llava, dtype=torch.float32), Template(load_processor(tiny_llava), "llava_hf")
    picture = open_image(png("red"), where="test")
    steered = steer((Message("user", (ImageSlot(), Text("What?"))),), GOLDEN, "nemo")
    prompts = [Prompt(steered, (picture,)), Prompt((QUESTION,)), Prompt(steer((QUESTION,), GOLDEN, "nemo"))]
    together = generate(model, template, prompts, Sampling(max_new_tokens=8))
    ids = torch.tensor([template.encode_prompt(prompts[2].messages)])
    plain = model.generate(input_ids=ids, max_new_tokens=8, do_sample=False, eos_token_id=2, pad_token_id=0)
    assert together[2] == template.decode_response(plain[0, ids.shape[1] :].tolist())
    assert together[1] != together[2]
    assert together == [generate(model, template, [prompt], Sampling(max_new_tokens=8))[0] for prompt in prompts]
