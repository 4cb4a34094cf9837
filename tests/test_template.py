"""One template for training, sampling and serving: equal to plain transformers, and blind to special tokens in text."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from mmalign.messages import ImageSlot, Message, Text, parse_messages
from mmalign.processor import load_processor
from mmalign.template import CHAT_TEMPLATES, SYSTEM_SENTENCES, Template


@pytest.fixture(scope="module")
def template(tiny_llava):
    return Template(load_processor(tiny_llava), "llava_hf")


def user(*parts):
    return Message("user", tuple(parts))


CONVERSATIONS = [
    [{"role": "user", "content": "What do you see?"}],
    [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What do you see?"}]}],
    [
        {"role": "user", "content": [{"type": "image"}, {"type": "image"}, {"type": "text", "text": "Compare."}]},
        {"role": "assistant", "content": [{"type": "text", "text": "A red circle."}]},
        {"role": "user", "content": [{"type": "text", "text": "Sure?"}]},
    ],
]


@pytest.mark.parametrize("name", ["vicuna_v1", "llava_hf"])
@pytest.mark.parametrize("messages", CONVERSATIONS, ids=["text", "image", "turns"])
def test_prompt_equals_plain_transformers(tiny_llava, name, messages):
    """`processor.apply_chat_template` with the exported Jinja gives the same tokens."""
    processor = load_processor(tiny_llava)
    text = processor.apply_chat_template(messages, chat_template=CHAT_TEMPLATES[name])
    images = sum(part["type"] == "image" for m in messages for part in m["content"] if isinstance(part, dict))
    plain = processor(text=text, images=[Image.new("RGB", (64, 64))] * images or None, add_special_tokens=False)[
        "input_ids"
    ][0]
    assert Template(processor, name).encode_prompt(parse_messages(messages)) == list(plain)


def test_the_papers_system_sentence_comes_first(tiny_llava):
    template = Template(load_processor(tiny_llava), "vicuna_v1")
    text = template.tokenizer.decode(template.encode_prompt([user(Text("Hi"))]))
    assert text == f"<s>{SYSTEM_SENTENCES['vicuna_v1']} USER: Hi ASSISTANT:"


@given(text=st.text(max_size=60))
@settings(max_examples=200, deadline=None)
def test_any_answer_survives_encoding(template, text):
    """What is trained decodes to the answer, whatever its characters."""
    encodable = text.encode("utf-8", "ignore").decode()
    assert template.decode_response(template.encode_response(encodable)) == encodable


@pytest.mark.parametrize("literal", ["<image>", "</s>", "<s>", "<pad>", "a <image> b </s>"])
def test_special_tokens_in_text_are_text(template, literal):
    """A user who types a special token gets neither a picture nor an end."""
    ids = template.encode_prompt([user(Text(literal))]) + template.encode_response(literal)
    special = {template.bos_token_id, template.eos_token_id, template.image_token_id}
    assert [i for i in ids if i in special] == [template.bos_token_id, template.eos_token_id]
    assert template.decode_response(template.encode_response(literal)) == literal


def test_every_picture_has_its_tokens_where_it_stands(template):
    ids = template.encode_prompt([user(Text("first"), ImageSlot(), Text("then"), ImageSlot())])
    assert ids.count(template.image_token_id) == 2 * template.num_image_tokens == 32


def test_pictures_belong_to_user_turns(template):
    with pytest.raises(ValueError, match="Only user turns can hold pictures"):
        template.encode_prompt([Message("assistant", (ImageSlot(),)), user(Text("q"))])
