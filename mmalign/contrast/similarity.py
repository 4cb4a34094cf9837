"""How alike two answers are, from -1 to 1: the cosine of two embeddings, by a model that the user names.

    policy                     the policy's own last hidden states of the answer, averaged: nothing further to install
    a name or a folder         a model of sentence-transformers, which the paper on BDHS uses: all-mpnet-base-v2

The scales differ: hidden states of a language model lie close together, so a threshold of one does not fit the other.
Each text is embedded by itself, so no number depends on a batch.

Tests   tests/contrast/test_similarity.py
"""

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from mmalign.generate import llava_of
from mmalign.sampling.policy import Policy, weights_hash

OWN = "policy"
DECIMALS = 6
REMEMBERED = 1024
"""Embeddings kept: a chosen answer is compared once a round."""


@runtime_checkable
class Similarity(Protocol):
    """Compares two texts."""

    name: str
    """Of the model, for the provenance of what was made with it."""

    def __call__(self, one: str, other: str) -> float:
        """From -1 to 1."""


class EmbeddingSimilarity:
    """Cosine of two embeddings."""

    def __init__(self, name: str, embed: Callable[[str], Float[Tensor, " width"]]) -> None:
        """Remember the model.

        Args:
            name: See `Similarity`.
            embed: One text -> its embedding, of any length.
        """
        self.name = name
        self._embed = lru_cache(REMEMBERED)(embed)

    def __call__(self, one: str, other: str) -> float:
        """Cosine, rounded to what two machines agree on."""
        cosine = torch.cosine_similarity(self._embed(one).double(), self._embed(other).double(), dim=0)
        return round(float(cosine), DECIMALS)


def load_similarity(name: str, policy: Policy) -> Similarity:
    """The model of this name.

    Args:
        name: `policy`, or what sentence-transformers loads: a folder or a hub name.
        policy: The model that writes the answers.

    Raises:
        ValueError: sentence-transformers is not installed, or finds no such model.
    """
    if name == OWN:
        return EmbeddingSimilarity(OWN, lambda text: pooled_states(policy, text))
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError as error:
        raise ValueError(
            f"`--similarity {name}` needs sentence-transformers: pip install 'mmalign[similarity]'. "
            "`--similarity policy` needs nothing further."
        ) from error
    try:
        model = SentenceTransformer(name, device=policy.device)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"`--similarity {name}`: sentence-transformers finds no such model ({str(error).splitlines()[0]}). Give "
            "a folder or a hub name, such as sentence-transformers/all-mpnet-base-v2, or `policy`."
        ) from error
    return EmbeddingSimilarity(
        name, lambda text: model.encode([text], convert_to_tensor=True, show_progress_bar=False)[0].cpu()
    )


def pooled_states(policy: Policy, text: str) -> Float[Tensor, " hidden"]:
    """Mean of the last hidden states of a text, read without prompt and picture.

    The first token, on which all texts agree and which outweighs all others, is left out; so is the end token.

    Args:
        policy: With its adapter, if any.
        text: Not empty.
    """
    model, template = policy.model, policy.template
    tokens = torch.tensor([[template.bos_token_id, *template.encode_response(text)[:-1]]], device=policy.device)
    was_training = model.training
    model.eval()
    with torch.inference_mode():
        states = llava_of(model).model(input_ids=tokens, use_cache=False).last_hidden_state[0, 1:]
    model.train(was_training)
    pooled: Tensor = states.float().mean(0).cpu()
    return pooled


def similarity_identity(name: str) -> dict[str, str]:
    """What the numbers of a model depend on; the policy's own say so already.

    Args:
        name: As for `load_similarity`.
    """
    folder = Path(name)
    return {"similarity": name} | ({"similarity_hash": weights_hash(folder)} if folder.is_dir() else {})
