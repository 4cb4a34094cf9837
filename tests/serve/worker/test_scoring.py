"""Log-probabilities that are told: of prompts and answers, with texts that are the whole when put together."""

import dataclasses

import pytest
import torch
from tokenizers import Tokenizer, decoders, normalizers
from tokenizers.models import BPE
from transformers import LlavaForConditionalGeneration, PreTrainedTokenizerFast

from mmalign.messages import Message, Text
from mmalign.processor import load_processor
from mmalign.serve.messages import Conversation, Job, Raw
from mmalign.serve.worker import scoring
from mmalign.serve.worker.answering import Answering
from mmalign.serve.worker.scoring import Score, Teller, told_prompt
from mmalign.serve.worker.tokens import Decoder, Tokens
from mmalign.template import Template

TEXT = "A red circle 🔴 and naïve Ünïcode: 日本語, 👩‍👩‍👧, tab\t, line\nline. </s> <image> \ufffd end"


@pytest.fixture(scope="module")
def llama_like(tiny_llava):
    """Llama's kind of tokenizer: a space in front of a text, and bytes that no token covers as `<0xE2>`."""
    special = ["<s>", "</s>", "<pad>", "<image>"]
    pieces = [*special, *(f"<0x{byte:02X}>" for byte in range(256)), "▁", *"Aacdeilnrt:.,"]
    backend = Tokenizer(BPE({piece: i for i, piece in enumerate(pieces)}, [], byte_fallback=True, unk_token="<pad>"))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    processor = load_processor(tiny_llava)
    processor.tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    )
    return Template(processor)


@pytest.fixture(params=["template", "llama_like"])
def any_template(request):
    return request.getfixturevalue(request.param)


def test_the_texts_of_a_prompts_tokens_are_the_prompt(any_template):
    """And their bytes are its bytes."""
    tokens = Tokens(any_template)
    ids = [any_template.bos_token_id, *tokens.encode(TEXT)]
    told = told_prompt(tokens, ids, [Score(-1.0, ())] * (len(ids) - 1))
    assert len(told) == len(ids)
    assert "".join(token.text for token in told) == TEXT == scoring.prompt_text(tokens, ids)
    assert b"".join(token.bytes for token in told).removeprefix(b" " * tokens.puts_space) == TEXT.encode()
    assert told[0].logprob is None
    assert told[0].text == ""


def test_half_a_character_at_the_very_end_is_told(any_template):
    tokens = Tokens(any_template)
    ids = tokens.encode("a 🔴")[:-1]
    teller = Teller(tokens, answer=True)
    told = [teller.tell(token, None, last=i == len(ids) - 1) for i, token in enumerate(ids)]
    assert "".join(token.text for token in told) == any_template.decode_response(ids)


def test_a_half_character_does_not_hide_in_the_next_token(any_template):
    """Nothing is lost where a text is told token by token."""
    tokens = Tokens(any_template)
    ids = tokens.encode("日本語" * 20)
    decoder = Decoder(tokens, silent=tokens.silent, drops_space=True)
    pieces = [decoder.push(token) for token in ids]
    assert "".join(pieces) + decoder.finish() == any_template.decode_response(ids)


@pytest.mark.parametrize(
    ("prompt", "keeps"),
    [
        (Raw(text="It is"), True),
        (Conversation(messages=(Message("user", (Text("?"),)), Message("assistant", (Text("It is"),)))), True),
        (Conversation(messages=(Message("user", (Text("?"),)),)), False),
    ],
    ids=["raw", "an opening", "a turn"],
)
def test_only_an_answer_that_is_a_turn_loses_its_first_space(any_template, prompt, keeps):
    """Put behind its prompt, the continuation of a text is all that the tokens say; so are its log-probabilities."""
    tokens = Tokens(any_template)
    begun, more = tokens.encode("It is"), tokens.encode("It is a dear")[len(tokens.encode("It is")) :]
    job = Job(model="base", prompt=prompt, seeds=(0,), top_logprobs=0)
    answering = Answering("", job, 0, limit=len(more), deadline=1e9, tokens=tokens)
    pieces = [answering.push(token, Score(0.0, ()), 0.0) for token in more]
    text = "".join(piece.text for piece in pieces if piece)
    told = [token for piece in pieces if piece for token in piece.tokens]
    assert text == ("" if not keeps else " ") + "a dear"
    assert "".join(token.text for token in told) == text == b"".join(token.bytes for token in told).decode()
    if keeps:
        assert scoring.prompt_text(tokens, [tokens.begin, *begun]) + text == any_template.tokenizer.decode(begun + more)


def test_ids_beyond_the_tokenizer_say_nothing(any_template):
    """A model may have more rows of embeddings than its tokenizer has tokens."""
    tokens = Tokens(any_template)
    assert (tokens.bytes_of(len(tokens) + 5), tokens.text_of(len(tokens) + 5)) == (b"", "")


def raw(prompts, ids, **options):
    return dataclasses.replace(prompts.ask(**options), prompt=Raw(input_ids=tuple(ids)))


@pytest.mark.parametrize("chunk", [7, 256])
def test_an_echoed_prompt_has_the_models_own_log_probabilities(driven, prompts, tiny_llava, monkeypatch, chunk):
    monkeypatch.setattr(scoring, "CHUNK", chunk)
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(4, 300, (60,), generator=generator).tolist()
    told = driven.answer(raw(prompts, ids, echo=True, top_logprobs=3, max_new_tokens=1))
    model = LlavaForConditionalGeneration.from_pretrained(tiny_llava).eval()
    with torch.no_grad():
        logps = model(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)
    found = [token.logprob for token in told.begun.echoed]
    assert found[0] is None
    expected = logps[:-1].gather(-1, torch.tensor(ids[1:])[:, None])[:, 0].tolist()
    assert found[1:] == pytest.approx(expected, abs=1e-5)
    for token, row in zip(told.begun.echoed[1:], logps, strict=False):
        assert [each.logprob for each in token.top] == pytest.approx(row.topk(3).values.tolist(), abs=1e-5)


def test_a_prompt_of_the_likeliest_tokens_is_seen_to_be_greedy(driven, prompts, template):
    """lm_eval compares the token's value with the largest of the others, exactly."""
    start = [template.bos_token_id, *Tokens(template).encode("USER: hi")]
    greedy = driven.answer(raw(prompts, start, top_logprobs=0, max_new_tokens=8))
    table = {Tokens(template).bytes_of(i): i for i in range(len(template.tokenizer))}
    ids = [*start, *(table[token.bytes] for token in greedy.tokens[0])]
    echoed = driven.answer(raw(prompts, ids, echo=True, top_logprobs=1, max_new_tokens=0)).begun.echoed
    assert all(token.logprob == token.top[0].logprob for token in echoed[len(start) :])
    assert [token.logprob for token in echoed[len(start) :]] == pytest.approx(
        [token.logprob for token in greedy.tokens[0]], abs=1e-5
    )


def test_a_prompt_and_its_continuation_are_the_text_of_all_their_tokens(driven, prompts, template):
    tokens, start = Tokens(template), [template.bos_token_id, *Tokens(template).encode("USER: hi")]
    table = {tokens.bytes_of(i): i for i in range(len(template.tokenizer))}
    spaces = 0
    for seed in range(0, 64, 8):
        job = raw(prompts, start, echo=True, top_logprobs=0, temperature=2.0, seeds=tuple(range(seed, seed + 8)))
        told = driven.answer(job)
        for choice, text in told.texts.items():
            ids = [i for token in told.tokens[choice] if (i := table[token.bytes]) not in tokens.silent]
            assert told.begun.echoed_text + text == template.tokenizer.decode([*start[1:], *ids])
            spaces += text.startswith(" ")
    assert spaces, "none that could have lost one"


def test_log_probabilities_are_those_before_temperature_and_top_p(driven, prompts, tiny_llava, template):
    job = prompts.ask(temperature=1.4, top_p=0.5, seeds=(2,), top_logprobs=2, max_new_tokens=6)
    told = driven.answer(job)
    ids = template.encode_prompt(job.prompt.messages)
    model = LlavaForConditionalGeneration.from_pretrained(tiny_llava).eval()
    table = {Tokens(template).bytes_of(i): i for i in range(len(template.tokenizer))}
    for token in told.tokens[0]:
        with torch.no_grad():
            logps = model(input_ids=torch.tensor([ids])).logits[0, -1].log_softmax(-1)
        assert token.logprob == pytest.approx(logps[table[token.bytes]].item(), abs=1e-5)
        assert token.top[0].logprob == pytest.approx(logps.max().item(), abs=1e-5)
        ids.append(table[token.bytes])


def test_jobs_that_want_different_numbers_each_get_theirs(driven, prompts):
    wanted = (None, 0, 1, 5)
    for number in wanted:
        driven.take(str(number), prompts.ask(top_logprobs=number, max_new_tokens=5))
    driven.finish()
    for number in wanted:
        told = driven.whole(str(number)).tokens[0]
        assert {len(token.top) for token in told} == (set() if number is None else {number})


def test_an_end_token_is_told_as_it_is_spelled(driven, prompts, template):
    """One entry a token, the end token too: readers count them."""
    for seed in range(60):
        told = driven.answer(prompts.ask(temperature=2.0, seeds=(seed,), max_new_tokens=60, top_logprobs=0))
        assert len(told.tokens[0]) == told.counts[0]
        if told.reasons[0] == "stop":
            assert told.tokens[0][-1].bytes == b"</s>"
            assert "".join(token.text for token in told.tokens[0]) == told.texts[0] + "</s>"
            return
    pytest.fail("none ended")
