"""A judge's list is read as the script reads it, and its phrases name COCO's objects by their last nouns."""

from pathlib import Path

import pytest

from mmalign.evaluation.benchmarks.nouns import Vocabulary, halbench_vocabulary
from mmalign.evaluation.benchmarks.object_lists import Found, listed, nouns, read_prompt, stored

SYNONYMS = """person, man, people, player
car, taxi
dining table, table
wine glass
chair, seat
toilet
tie
bus
dog, puppy
sports ball, ball
"""


@pytest.fixture
def vocabulary(tmp_path: Path) -> Vocabulary:
    """Some of COCO's objects."""
    (tmp_path / "synonyms.txt").write_text(SYNONYMS)
    return halbench_vocabulary(str(tmp_path / "synonyms.txt"))


@pytest.mark.parametrize(
    ("text", "phrases"),
    [
        ('["a dog", "car"]', ("a dog", "car")),
        ('Here it is:\n["dog"]', ("dog",)),
        ("[]", ()),
        ("()", None),
        ("There are no objects.", None),
        ('The list is ["dog"]', None),
        ("[1, 2]", None),
        ('{"objects": ["dog"]}', None),
        ("", None),
    ],
)
def test_a_list_is_the_whole_text_or_its_last_line(text: str, phrases: tuple[str, ...] | None) -> None:
    """As `parse_object_list`; what is no list of texts is none."""
    assert listed(text) == (None if phrases is None else Found(phrases))


@pytest.mark.parametrize(
    ("phrases", "words"),
    [
        (["red cars", "Group of people"], ["car", "people"]),
        (["dogs", "a dog", "puppy"], ["dog", "puppy"]),
        (["wine glasses on a table"], ["wine glass"]),
        (["glass"], []),
        (["dog leash", "orange juice", "car park"], []),
        (["seat of the toilet", "chair"], ["toilet", "chair"]),
        (["toilet seats"], ["toilet"]),
        (["ties", "buses", "bus"], ["tie", "bus"]),
        (["passenger train", ""], []),
    ],
)
def test_the_last_noun_of_each_part_counts_once(vocabulary: Vocabulary, phrases: list[str], words: list[str]) -> None:
    """Double words go before single ones; different words for one object count each."""
    assert nouns(Found(tuple(phrases)), vocabulary) == words


def test_words_of_a_review_are_taken_as_they_are(vocabulary: Vocabulary) -> None:
    """The parser's `kitchen table` is no COCO object, and stays none."""
    found = listed(stored({"words": ["kitchen table", "dog", "dog"], "caption": "..."}))
    assert found is not None
    assert nouns(found, vocabulary) == ["dog"]
    raw = listed(stored({"extract_objs": ["kitchen table"]}))
    assert raw is not None
    assert nouns(raw, vocabulary) == ["table"]


def test_the_prompt_is_read_from_the_script_without_running_it(tmp_path: Path) -> None:
    """The script would need a network and a key."""
    script = tmp_path / "eval_gpt_obj_halbench.py"
    script.write_text('raise SystemExit\nprompt_template = """Q: {question}\\nA: {answer} [\\"x\\"]\\n"""\n')
    assert read_prompt(str(script)) == 'Q: {question}\nA: {answer} ["x"]\n'
    script.write_text("prompt_template = None\n")
    with pytest.raises(ValueError, match="no prompt with"):
        read_prompt(str(script))
    with pytest.raises(FileNotFoundError, match="--extraction_prompt"):
        read_prompt(str(tmp_path / "none.py"))
