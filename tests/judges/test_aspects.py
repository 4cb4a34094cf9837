"""Aspect sets: the shipped ones, and what is wrong with one's own."""

import pytest
import yaml

from mmalign.judges.aspects import load_aspects, shipped_sets
from mmalign.steering import ATTRIBUTES, SCALE

OWN = {
    "name": "own",
    "kind": "together",
    "scale": [1, 5],
    "aspects": {"grounded": "Is it there?"},
    "prompt": "{{conversation}} {{responses}} {{format}} {{n}} {{low}} {{high}} {{guide}}",
}


def write(tmp_path, record):
    path = tmp_path / "own.yaml"
    path.write_text(record if isinstance(record, str) else yaml.safe_dump(record))
    return str(path)


def test_the_shipped_sets_are_those_of_the_papers():
    assert shipped_sets() == ("helpsteer", "pairwise", "ultrafeedback")
    helpsteer, pairwise, ultrafeedback = map(load_aspects, shipped_sets())
    assert (helpsteer.ratings, helpsteer.scale) == (ATTRIBUTES, SCALE)
    assert ultrafeedback.scale == (1, 5)
    assert len(ultrafeedback.ratings) == 4
    assert not set(ultrafeedback.ratings) & set(ATTRIBUTES)
    assert pairwise.ratings == ("wins",)
    assert "choose a response that contains less hallucination" in pairwise.prompt


def test_ones_own_is_read_and_another_text_is_another_judge(tmp_path):
    found = load_aspects(write(tmp_path, OWN))
    assert (found.name, found.ratings, found.scale) == ("own", ("grounded",), (1, 5))
    other = load_aspects(write(tmp_path, OWN | {"aspects": {"grounded": "Is it really there?"}}))
    assert other.identity() != found.identity()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "all"}, "`kind` must be one of together, pairwise"),
        ({"kind": "pairwise"}, r"does not know \['aspects', 'scale'\]"),
        ({"colour": 1}, r"does not know \['colour'\]"),
        ({"name": "a b"}, "`name` must be letters"),
        ({"prompt": 3}, "`prompt` must be text"),
        ({"prompt": "{{conversation}} {{format}}"}, r"must hold \{\{responses\}\} once, it has it 0 times"),
        ({"prompt": OWN["prompt"] + "{{format}}"}, "2 times"),
        ({"prompt": OWN["prompt"] + "{{question}}"}, r"has placeholders \['question'\], but known are"),
        ({"scale": [5, 1]}, "`scale` must be two whole numbers"),
        ({"scale": [0, 1000]}, "at most 100 apart"),
        ({"scale": "1-5"}, "`scale` must be"),
        ({"aspects": {}}, "at least one rating"),
        ({"aspects": {"response": "x"}}, "cannot be called 'response'"),
        ({"aspects": {"a": ""}}, "needs a guide"),
        ({"aspects": {"helpfulness": "x"}}, "are HelpSteer's, from 0 to 4"),
    ],
)
def test_a_broken_set_is_refused_with_what_to_do(tmp_path, change, message):
    with pytest.raises(ValueError, match=message) as caught:
        load_aspects(write(tmp_path, OWN | change))
    assert "helpsteer.yaml for a whole one" in str(caught.value)


@pytest.mark.parametrize("text", ["a: [", "- 1", "\x00", "!!python/object:os.system {}"])
def test_a_file_that_is_no_set_is_refused(tmp_path, text):
    with pytest.raises(ValueError, match="--aspects"):
        load_aspects(write(tmp_path, text))


def test_a_name_that_nobody_knows_is_refused():
    with pytest.raises(FileNotFoundError, match="neither one of helpsteer, pairwise, ultrafeedback nor a file"):
        load_aspects("helpfull")
