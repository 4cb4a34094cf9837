"""One template for training, sampling and serving: equal to plain transformers, and blind to special tokens in text."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from transformers import LlamaTokenizer, LlavaProcessor

from mmalign.messages import ImageSlot, Message, Text, parse_messages
from mmalign.processor import load_processor
from mmalign.template import CHAT_TEMPLATES, SYSTEM_SENTENCES, Template


def llama_tokenizer(legacy):
    """A Llama tokenizer with bytes and a few words; `legacy` puts a space behind every special token."""
    words = ["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256)), "\u2581", *map(chr, range(33, 127))]
    merges = [("U", "S"), ("E", "R"), ("\u2581", "A"), ("\u2581A", "S"), ("\u2581", "U"), (":", "A")]
    vocab = {word: i for i, word in enumerate([*words, *("".join(pair) for pair in merges)])}
    tokenizer = LlamaTokenizer(vocab=vocab, merges=merges[:-1], legacy=legacy, add_bos_token=False)
    tokenizer.add_special_tokens({"pad_token": "<pad>", "extra_special_tokens": ["<image>"]})
    return tokenizer


@pytest.fixture(scope="module", params=["bytes", "llama", "llama, legacy"])
def processor(request, tiny_llava):
    """The tiny LLaVA's byte-level tokenizer, and both kinds of Llama's, which LLaVA-1.5 has."""
    processor = load_processor(tiny_llava)
    if request.param == "bytes":
        return processor
    tokenizer = llama_tokenizer(legacy="legacy" in request.param)
    tokenizer.image_token = "<image>"
    return LlavaProcessor(
        image_processor=processor.image_processor,
        tokenizer=tokenizer,
        patch_size=16,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    )


@pytest.fixture(scope="module")
def template(processor):
    return Template(processor, "llava_hf")


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
def test_prompt_equals_plain_transformers(processor, name, messages):
    """`processor.apply_chat_template` with the exported Jinja gives the same tokens."""
    text = processor.apply_chat_template(messages, chat_template=CHAT_TEMPLATES[name])
    images = sum(part["type"] == "image" for m in messages for part in m["content"] if isinstance(part, dict))
    plain = processor(text=text, images=[Image.new("RGB", (64, 64))] * images or None, add_special_tokens=False)[
        "input_ids"
    ][0]
    assert Template(processor, name).encode_prompt(parse_messages(messages)) == list(plain)


def test_the_papers_system_sentence_comes_first(processor):
    template = Template(processor, "vicuna_v1")
    text = template.tokenizer.decode(template.encode_prompt([user(Text("Hi"))]))
    assert text.replace("<s> ", "<s>") == f"<s>{SYSTEM_SENTENCES['vicuna_v1']} USER: Hi ASSISTANT:"


@given(text=st.text(st.characters(exclude_characters="\u2581"), max_size=60))  # Llama's vocabulary spells a space so
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


def test_llamas_two_modes_differ(template):
    """Otherwise the comparison above would not see the space that the legacy mode puts behind special tokens."""
    first = template.encode_prompt([user(Text("Hi"))])[1]
    assert template.tokenizer.convert_ids_to_tokens(first).startswith("\u2581") == template.tokenizer.__dict__.get(
        "legacy", False
    )


def test_every_picture_has_its_tokens_where_it_stands(template):
    ids = template.encode_prompt([user(Text("first"), ImageSlot(), Text("then"), ImageSlot())])
    assert ids.count(template.image_token_id) == 2 * template.num_image_tokens == 32


def test_pictures_belong_to_user_turns(template):
    with pytest.raises(ValueError, match="Only user turns can hold pictures"):
        template.encode_prompt([Message("assistant", (ImageSlot(),)), user(Text("q"))])


OPENINGS = ["helpfulness:4,correctness:4,coherence:4,complexity:4,verbosity:4\n", "I can see", "<image> </s>"]


@pytest.mark.parametrize("opening", OPENINGS)
@pytest.mark.parametrize("name", ["vicuna_v1", "llava_hf"])
@pytest.mark.parametrize("messages", CONVERSATIONS, ids=["text", "image", "turns"])
def test_an_opened_answer_has_the_tokens_of_the_whole_conversation(processor, name, messages, opening):
    """Opening and answer apart give the same ids as one assistant turn, from us and from plain transformers."""
    template = Template(processor, name)
    asked, answer = parse_messages(messages), "A red circle."
    apart = template.encode_prompt([*asked, Message("assistant", (Text(opening),))]) + template.encode_response(answer)
    whole = f"{opening} {answer}"
    assert apart == template.encode_prompt(asked) + template.encode_response(whole)
    if "</s>" in opening:
        return  # plain transformers reads that as the end
    text = processor.apply_chat_template(
        [*messages, {"role": "assistant", "content": whole}], chat_template=CHAT_TEMPLATES[name]
    )
    images = sum(part["type"] == "image" for m in messages for part in m["content"] if isinstance(part, dict))
    pictures = [Image.new("RGB", (64, 64))] * images or None
    assert apart == processor(text=text, images=pictures, add_special_tokens=False)["input_ids"][0]


@pytest.mark.parametrize("opening", OPENINGS[:2])
@pytest.mark.parametrize("messages", CONVERSATIONS, ids=["text", "image", "turns"])
def test_plain_transformers_continues_an_opening(processor, messages, opening):
    """`continue_final_message` with the exported Jinja: what serves an export elsewhere needs no other template."""
    opened = [*messages, {"role": "assistant", "content": opening}]
    text = processor.apply_chat_template(opened, chat_template=CHAT_TEMPLATES["llava_hf"], continue_final_message=True)
    images = sum(part["type"] == "image" for m in messages for part in m["content"] if isinstance(part, dict))
    pictures = [Image.new("RGB", (64, 64))] * images or None
    plain = processor(text=text, images=pictures, add_special_tokens=False)["input_ids"][0]
    assert Template(processor, "llava_hf").encode_prompt(parse_messages(opened)) == plain


def test_only_the_last_assistant_turn_is_open(template):
    """Earlier ones keep their end token, and the opening of a text-only prompt has none."""
    earlier, opening = (Message("assistant", (Text(text),)) for text in ("Yes.", "It"))
    ids = template.encode_prompt([user(Text("a")), earlier, user(Text("b")), opening])
    assert ids.count(template.eos_token_id) == 1
    assert ids[-1] != template.eos_token_id
