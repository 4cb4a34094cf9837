"""Words are found in texts as CHAIR's own libraries find them, faults included."""

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmalign.evaluation.benchmarks.nouns import (
    chair_vocabulary,
    halbench_vocabulary,
    pattern_singular,
    tokens,
)
from mmalign.evaluation.steps.sources import records
from tests.harness.published import published

SYNONYMS = """person, man, woman, people, baby
dog, puppy
bird
chair, seat
toilet
wine glass
tie, bow, bow tie
bus
train
boat
cake,  cheesecake
"""
SENTENCE_END = re.compile(r"(?<=[.?!])[\"')\]]*\s+")


@pytest.fixture
def synonyms(tmp_path: Path) -> str:
    """Some of COCO's objects."""
    path = tmp_path / "synonyms.txt"
    path.write_text(SYNONYMS)
    return str(path)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Two dogs, a puppy.", ["dog", "puppy"]),
        ("A baby bird and a baby", ["bird", "baby"]),
        ("wine glasses and a wine glass", ["wine glass", "wine glass"]),
        ("the seat of the toilet", ["toilet"]),
        ("a toilet seat, a seat", ["toilet"]),
        ("a passenger train on a train track", ["train"]),
        ("The man's dog. Dogs' bowls (a bird)", ["man", "dog", "dog", "bird"]),
        ("a bus, buses and ties", ["bus"]),
        ("cheesecake", []),
        ("dog-shaped; dog/bird", []),
        ("", []),
    ],
)
def test_words_of_chair(synonyms: str, text: str, words: list[str]) -> None:
    """With its faults: `bus` and `ties` get singulars that no one knows, and cheesecake has a blank too many."""
    assert chair_vocabulary(synonyms).words(text) == words


def test_object_halbench_has_no_such_faults(synonyms: str) -> None:
    """Words of the list stay, other ones get a singular that is in the list, and blanks too many are cut."""
    words = halbench_vocabulary(synonyms).words("A bus, two buses, ties, women, cheesecakes and a dress")
    assert words == ["bus", "bus", "tie", "woman", "cheesecake"]


@pytest.mark.parametrize(
    ("plural", "singular"),
    [
        ("dogs", "dog"),
        ("benches", "bench"),
        ("knives", "knife"),
        ("calves", "calf"),
        ("babies", "baby"),
        ("policemen", "policeman"),
        ("people", "person"),
        ("potatoes", "potato"),
        ("scissors", "scissors"),
        ("chesterfield", "chesterfield"),
        ("bus", "bu"),
        ("glass", "glas"),
        ("ties", "ty"),
    ],
)
def test_singulars_are_those_of_pattern(plural: str, singular: str) -> None:
    """Right or wrong."""
    assert pattern_singular(plural) == singular


@pytest.mark.parametrize(
    ("captions", "step"), [("Instruction1_llava", 4), pytest.param("Instruction1_minigpt-4", 1, marks=pytest.mark.slow)]
)
def test_texts_are_split_as_nltk_splits_them(captions: str, step: int) -> None:
    """In published captions: all objects, and but for `do n't` and the like all words of 99 %."""
    from nltk.tokenize.destructive import NLTKWordTokenizer

    vocabulary = chair_vocabulary(str(published("chair", "synonyms.txt")))
    tokenizer = NLTKWordTokenizer()
    differing = 0
    for row in records(published("chair", "captions", f"{captions}.json.gz"))[::step]:
        text = row["text"].lower()
        expected = [token for sentence in SENTENCE_END.split(text) for token in tokenizer.tokenize(sentence)]
        singulars = [pattern_singular(token) for token in expected]
        words = [word for word, _ in vocabulary.joined(singulars)]
        words = [word for word in words if not (word == "seat" and "toilet" in words)]
        assert vocabulary.words(text) == [word for word in words if word in vocabulary.objects], row
        differing += [token for token in tokens(text) if token.isalpha()] != [
            each for each in expected if each.isalpha()
        ]
    assert differing < 20


@given(st.text(max_size=200))
def test_splitting_loses_nothing(text: str) -> None:
    """Every sign of any text is in some token, in its order."""
    assert "".join(tokens(text)) == "".join(text.split())


def test_a_file_without_synonyms_is_refused(tmp_path: Path) -> None:
    """A file of another kind would find no objects at all, and CHAIR 0."""
    for content in (b"dog\ncat\n", b'{"40468": ["person", "dog"]}', b"dog, \xff\xfe\n"):
        (tmp_path / "names.txt").write_bytes(content)
        with pytest.raises(ValueError, match="holds no synonyms"):
            chair_vocabulary(str(tmp_path / "names.txt"))
    with pytest.raises(FileNotFoundError, match="--synonyms"):
        chair_vocabulary(str(tmp_path / "none.txt"))
