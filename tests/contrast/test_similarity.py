"""Two texts are compared by the policy's own states, or by a model of sentence-transformers."""

import sys

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from mmalign.contrast.similarity import load_similarity, pooled_states, similarity_identity

WORDS = ["[PAD]", "[UNK]", "a", "red", "blue", "circle", "square"]


@pytest.fixture(scope="module")
def sentence_model(tmp_path_factory):
    """Folder of a random sentence-transformers model of one layer."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

    folder = tmp_path_factory.mktemp("embedder")
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="[PAD]", unk_token="[UNK]")
    tokenizer.save_pretrained(folder / "bert")
    torch.manual_seed(0)
    width = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    BertModel(BertConfig(vocab_size=len(WORDS), **width)).save_pretrained(folder / "bert")
    SentenceTransformer(modules=[Transformer(str(folder / "bert")), Pooling(16)], device="cpu").save(
        str(folder / "whole")
    )
    return str(folder / "whole")


def check(alike):
    assert alike("a red circle", "a red circle") == 1
    assert alike("a red circle", "a blue square") == alike("a blue square", "a red circle") < 0.9999


def test_equal_texts_are_1_and_others_less_either_way_round(policy):
    alike = load_similarity("policy", policy)
    assert alike.name == "policy"
    check(alike)


@pytest.mark.slow  # sentence-transformers takes seconds to import
def test_a_model_of_sentence_transformers_says_so_too(policy, sentence_model, tmp_path):
    alike = load_similarity(sentence_model, policy)
    assert alike.name == sentence_model
    check(alike)
    with pytest.raises(ValueError, match=f"--similarity {tmp_path}.*no such model"):
        load_similarity(str(tmp_path), policy)


def test_pooled_states_are_the_mean_over_the_answers_tokens(policy):
    """As transformers gives the last hidden states, without the first token's and the end token's."""
    template = policy.template
    ids = torch.tensor([[template.bos_token_id, *template.encode_response("a red circle")]])
    with torch.inference_mode():
        states = policy.model(input_ids=ids, output_hidden_states=True).hidden_states[-1][0]
    assert torch.allclose(pooled_states(policy, "a red circle"), states[1:-1].mean(0), atol=1e-6)


def test_a_missing_package_says_what_to_install(policy, monkeypatch):
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(ValueError, match=r"pip install 'mmalign\[similarity\]'"):
        load_similarity("all-mpnet-base-v2", policy)


def test_a_folder_is_known_by_its_weights(policy, tiny_llava):
    assert similarity_identity("policy") == {"similarity": "policy"}
    assert similarity_identity(tiny_llava)["similarity_hash"] == policy.identity["checkpoint_hash"]
