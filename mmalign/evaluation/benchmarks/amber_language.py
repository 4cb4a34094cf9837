"""AMBER's own language tools: NLTK's tagger, WordNet's lemmas, spaCy's word vectors. All need data of their own.

    language = official_language()
    language.nouns("Two dogs run.")             -> ["dog"]
    language.similar("ship", "boat")            -> whether the cosine of their vectors exceeds 0.8

Rule    `inference.py` of junyangwang0410/AMBER at 534babf
Tests   tests/evaluation/benchmarks/test_amber.py
"""

import importlib
from functools import cache
from typing import Any

from mmalign.evaluation.benchmarks.amber_rule import Language

SIMILAR = 0.8
VECTORS = "en_core_web_lg"
DATA = ("punkt_tab", "averaged_perceptron_tagger_eng", "wordnet")


def official_language() -> Language:
    """The tools of the official script.

    Raises:
        ValueError: One is not installed; how to install all.
    """
    try:
        vectors: Any = importlib.import_module("spacy").load(VECTORS)
        import nltk
        from nltk.stem import WordNetLemmatizer

        lemmatizer: Any = WordNetLemmatizer()
        nltk.pos_tag(nltk.word_tokenize("A dog."))
        lemmatizer.lemmatize("dogs")
    except (ImportError, LookupError, OSError) as error:
        raise ValueError(
            "AMBER's own rule needs NLTK, spaCy and their data, and not all of it is here "
            f"({str(error).strip().splitlines()[0]}). Install: pip install 'mmalign[amber]'; python -m nltk.downloader "
            f"{' '.join(DATA)}; python -m spacy download {VECTORS}. Or score by `--language offline`."
        ) from error
    parsed = cache(vectors)

    def nouns(text: str) -> list[str]:
        tagged = nltk.pos_tag(nltk.word_tokenize(text))
        return [lemmatizer.lemmatize(word) for word, tag in tagged if tag.startswith("NN")]

    return Language(nouns, cache(lambda one, other: bool(parsed(one).similarity(parsed(other)) > SIMILAR)))
