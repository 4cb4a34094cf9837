"""Text as it is written equals the text of the whole, whatever the bytes and wherever a stop string falls."""

import random

import pytest
from tokenizers import Tokenizer, decoders
from tokenizers.models import BPE
from transformers import PreTrainedTokenizerFast

from mmalign.processor import load_processor
from mmalign.serve.worker.answer import AnswerText
from mmalign.serve.worker.tokens import Tokens
from mmalign.template import Template

TEXT = "A red circle 🔴 and naïve Ünïcode: 日本語, 👩‍👩‍👧, \u200b, tab\t, line\nline. </s> <image> \ufffd end"


@pytest.fixture(scope="module")
def byte_level(tiny_llava):
    return Template(load_processor(tiny_llava))


@pytest.fixture(scope="module")
def byte_fallback(tiny_llava):
    """Llama's kind of tokenizer: a byte that no token covers is a token `<0xE2>` of its own."""
    special = ["<s>", "</s>", "<pad>", "<image>"]
    pieces = [*special, *(f"<0x{byte:02X}>" for byte in range(256)), "▁", *"Aacdeilnrt:."]
    backend = Tokenizer(BPE({piece: i for i, piece in enumerate(pieces)}, [], byte_fallback=True, unk_token="<pad>"))
    backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    processor = load_processor(tiny_llava)
    processor.tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    )
    return Template(processor)


@pytest.fixture(params=["byte_level", "byte_fallback"])
def template(request):
    return request.getfixturevalue(request.param)


def pieces_of(template, ids, stops=()):
    """All pieces, and the answer, as the engine goes through it."""
    answer = AnswerText(Tokens(template), stops)
    pieces = []
    for token in ids:
        pieces.append(answer.push(token))
        if answer.ended:
            return pieces, answer
    return [*pieces, answer.finish()], answer


def some_ids(template, seed):
    """Any tokens but the special ones: half of them make no valid characters."""
    return random.Random(seed).choices(range(4, len(template.tokenizer)), k=60)


def test_an_answer_comes_out_as_it_went_in(template):
    ids = template.encode_response(TEXT)
    pieces, answer = pieces_of(template, ids)
    assert "".join(pieces) == template.decode_response(ids)
    assert answer.ended
    assert answer.num_tokens == len(ids)


@pytest.mark.parametrize("seed", range(50))
def test_any_tokens_give_the_text_of_the_whole(template, seed):
    ids = some_ids(template, seed)
    pieces, answer = pieces_of(template, ids)
    assert "".join(pieces) == template.decode_response(ids)
    assert not answer.ended


def test_no_character_is_split(byte_level):
    pieces, _ = pieces_of(byte_level, byte_level.encode_response("🔴" * 5)[:-1])
    assert {piece for piece in pieces if piece} == {"🔴"}


def test_text_does_not_wait_for_its_end(byte_level):
    ids = byte_level.encode_response("a red circle")
    assert AnswerText(Tokens(byte_level), []).push(ids[0]) == "a"


@pytest.mark.parametrize("stop", ["circle", "🔴", "A", " ", "\n", ".", "circle 🔴 and", "not there", "end of it"])
def test_the_answer_ends_before_the_stop_string(byte_level, stop):
    ids = byte_level.encode_response(TEXT)
    pieces, _ = pieces_of(byte_level, ids, [stop])
    assert "".join(pieces) == byte_level.decode_response(ids).partition(stop)[0]


@pytest.mark.parametrize("seed", range(50))
def test_the_first_of_several_stop_strings_counts(template, seed):
    """Stops are cut from the text itself, so that most of them occur, overlap and begin in vain."""
    rng = random.Random(seed)
    ids = some_ids(template, seed)
    text = template.decode_response(ids)
    stops = [text[at : at + rng.randint(1, 3)] for at in rng.choices(range(len(text) - 3), k=3)]
    pieces, answer = pieces_of(template, ids, stops)
    assert answer.ended
    assert "".join(pieces) == text[: min(text.find(stop) for stop in stops)]


def test_a_stop_string_begun_and_not_finished_is_text(byte_level):
    ids = byte_level.encode_response("a red circ")
    pieces, answer = pieces_of(byte_level, ids[:-1], ["circle"])
    assert "".join(pieces) == "a red circ"
    assert not answer.ended


def test_a_stop_string_that_only_the_end_completes_is_found(byte_level):
    """The tail of an answer is held back while it could be half a character; a stop may hide there."""
    ids = byte_level.encode_response("ab 🔴")[:-2]  # the last byte of the circle is missing
    pieces, answer = pieces_of(byte_level, ids, ["\ufffd"])
    assert "".join(pieces) == "ab "
    assert answer.ended
