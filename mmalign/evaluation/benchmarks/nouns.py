"""The objects that a text names: words, singulars, double words, synonyms.

    vocabulary = chair_vocabulary("synonyms.txt")
    vocabulary.words("Two baby elephants stand by a wine glass.")     -> ["elephant", "wine glass"]
    vocabulary.objects["puppy"]                                       -> "dog"

Paper   Rohrbach et al., 2018, https://arxiv.org/abs/1809.02156; rule: `utils/chair.py` of LisaAnne/Hallucination
Tests   tests/evaluation/benchmarks/test_nouns.py

The original splits with NLTK and takes singulars from `pattern` 3.6, which cannot be installed any more. Here both are
a few rules that treat the words of the benchmarks as these do, faults included: `bus` becomes `bu` and is no object,
`buses` is one. (Importing NLTK and `inflect`, its usual replacement, takes longer than scoring 10,000 captions.)
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from functools import lru_cache
from itertools import product
from pathlib import Path
from typing import NamedTuple

SIGNS = r"""\]\[(){}<>"`;@#$%&?!*\u2013\u2014«»\u201c\u201d\u201e\u2018\u2019"""
FULL_STOP = r"""\.(?=[\])}>"'»\u201d\u2019]*(?:\s|$))"""
OPENING_QUOTE = r"(?<!\w)'(?!(?:re|ve|ll|[mtsdn])\b)(?=\w)"
CLITIC = rf"'(?:s|m|d|ll|re|ve)?(?![^\s{SIGNS}.,:])"
TOKEN = re.compile(
    rf"""[{SIGNS}]|{OPENING_QUOTE}|\.\.+|--+|[,:](?!\d)|{FULL_STOP}|{CLITIC}"""
    rf"""|(?:[^\s{SIGNS},:.'-]|[,:](?=\d)|(?!{FULL_STOP}|\.\.)\.|(?!{CLITIC})'|-(?!-))+"""
)
"""A sign, the end of `dog's`, or a word, as NLTK splits lower-cased text, but for `can not` and `do n't`."""
IRREGULAR = {"men": "man", "people": "person", "children": "child", "geese": "goose", "oxen": "ox", "mice": "mouse"}
"""Ends of words."""
UNCHANGED = {"scissors", "bison", "luggage", "collies", "doggies"}
PATTERN_ENDINGS = tuple(
    (re.compile(f"(?:{ending})$"), singular)
    for ending, singular in (
        (r"(?<=[^aeiouy])ies", "y"),
        (r"(?<=o|x)es|(?<=ch|ss|sh)es|(?<=bus)es", ""),
        (r"(?<=[aeo]l)ves|(?<=[^d]ea)ves|(?<=ar)ves", "f"),
        (r"(?<=[nlw]i)ves", "fe"),
        (r"s", ""),
    )
)
"""Of `pattern`; the first that fits is taken, whether or not that makes a word: `ties` becomes `ty`."""
ENDINGS = (("men", "man"), ("ies", "y"), ("ves", "f"), ("ves", "fe"), ("es", ""), ("s", ""))
"""Of nouns; the first that makes a known word is taken."""
# fmt: off
DOUBLE_WORDS = (
    "motor bike", "motor cycle", "air plane", "traffic light", "street light", "traffic signal", "stop light",
    "fire hydrant", "stop sign", "parking meter", "suit case", "sports ball", "baseball bat", "baseball glove",
    "tennis racket", "wine glass", "hot dog", "cell phone", "mobile phone", "teddy bear", "hair drier",
    "potted plant", "laptop computer",
)
# fmt: on
"""Of CHAIR; its `stove top oven` is left out, as three words never match two."""
NO_OBJECTS = ("home plate", "train track")
"""Double words that hide an object's name."""
ANIMALS = ("bird", "cat", "dog", "horse", "sheep", "cow", "elephant", "bear", "zebra", "giraffe", "animal", "cub")
RENAMED = {
    **{f"{age} {animal}": animal for age, animal in product(("baby", "adult"), ANIMALS)},
    **{f"passenger {vehicle}": vehicle for vehicle in ("jet", "train")},
    "bow tie": "tie",
    "toilet seat": "toilet",
    "wine glas": "wine glass",
}
"""Double words that count as a single one: a baby elephant is no person."""
WORDS_KEPT = 1 << 18


class Vocabulary(NamedTuple):
    """Names of objects, and how they are found in a text."""

    objects: Mapping[str, str]
    """Word or double word -> the object that it stands for: `puppy` -> `dog`."""
    double_words: Mapping[str, str]
    """Two singulars -> what they count as."""
    singular: Callable[[str], str]

    def words(self, text: str) -> list[str]:
        """The names of objects in a text, in their order, each as often as it is there."""
        words = [word for word, _ in self.joined([self.singular(token) for token in tokens(text.lower())])]
        if "toilet" in words:  # the seat of a toilet is no chair
            words = [word for word in words if word != "seat"]
        return [word for word in words if word in self.objects]

    def joined(self, words: Sequence[str]) -> Iterator[tuple[str, bool]]:
        """Words, with two that make a double word as one, and whether each was two."""
        place = 0
        while place < len(words):
            double = " ".join(words[place : place + 2])
            is_double = double in self.double_words
            yield self.double_words.get(double, words[place]), is_double
            place += 2 if is_double else 1


def tokens(text: str) -> list[str]:
    """Words and signs of a text."""
    return TOKEN.findall(text)


def chair_vocabulary(place: str) -> Vocabulary:
    """CHAIR's, from its `synonyms.txt`; an object a line, its synonyms behind it.

    Names with a blank too many (`,  cheesecake`) are never found, as in the original.
    """
    objects = {word: line[0] for line in _lines(place) for word in line}
    double_words = {word: word for word in (*DOUBLE_WORDS, *NO_OBJECTS)} | RENAMED
    return Vocabulary(objects, double_words, pattern_singular)


def halbench_vocabulary(place: str) -> Vocabulary:
    """Object HalBench's, from its `synonyms_refine.txt`: every double word of the file is one."""
    lines = [[word.strip() for word in line] for line in _lines(place)]
    objects = {word: line[0] for line in lines for word in line}
    double_words = {word: word for word in (*objects, *NO_OBJECTS) if " " in word} | RENAMED
    return Vocabulary(objects, double_words, known_singulars(objects, double_words))


def known_singulars(*names: Mapping[str, str] | Set[str]) -> Callable[[str], str]:
    """Singular of a word, as far as it is known; another one stays.

    Args:
        names: Of what is known, words and double words.
    """
    known = {part for group in names for name in group for part in name.split()}

    @lru_cache(WORDS_KEPT)
    def singular(word: str) -> str:
        ends = [*IRREGULAR.items(), *ENDINGS]
        found = (word.removesuffix(end) + instead for end, instead in ends if word.endswith(end))
        return word if word in known else next((each for each in found if each in known), word)

    return singular


@lru_cache(WORDS_KEPT)
def pattern_singular(word: str) -> str:
    """Singular as `pattern` has it, for the words that CHAIR knows."""
    if word in UNCHANGED:
        return word
    for end, instead in IRREGULAR.items():
        if word.endswith(end):
            return word.removesuffix(end) + instead
    for ending, instead in PATTERN_ENDINGS:
        if ending.search(word):
            return ending.sub(instead, word)
    return word


def _lines(place: str) -> list[list[str]]:
    """Names of each object.

    Raises:
        FileNotFoundError, ValueError: No such file, or another one.
    """
    if not place:
        raise ValueError("The names of objects are needed: give the benchmark's synonyms file with `--synonyms`.")
    path = Path(place)
    if not path.is_file():
        raise FileNotFoundError(f"No synonyms at {path}. Give the benchmark's synonyms file with `--synonyms`.")
    text = path.read_bytes().decode("utf-8", "replace")
    lines = [line.strip().split(", ") for line in text.splitlines() if line.strip()]
    if not any(len(line) > 1 for line in lines) or "\N{REPLACEMENT CHARACTER}" in text or text.lstrip()[0] in "[{":
        raise ValueError(f"{path} holds no synonyms; a line is an object and its synonyms: `dog, puppy, beagle`.")
    return lines
