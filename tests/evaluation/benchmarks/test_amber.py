"""AMBER's rule by hand, its properties on the authors' annotations, and what happens without their language data."""

import importlib.util
import json
from pathlib import Path

import pytest

from mmalign.evaluation.benchmarks.amber import Amber
from mmalign.evaluation.benchmarks.amber_rule import RARELY_NOUNS, SAFE_WORDS, Annotation, Assessed, assess, offline
from mmalign.evaluation.steps.faults import DOUBLE, MISSING, Handling
from mmalign.evaluation.steps.records import Answer
from tests.harness.published import published

RELATION = {
    "sky": [],
    "person": ["man", "woman"],
    "man": ["person"],
    "lake": ["water"],
    "boat": ["ship"],
    "dog": [],
    "can": [],
    "light": [],
}
ANNOTATIONS = [
    {"id": 1, "type": "generative", "truth": ["sky", "lake", "man"], "hallu": ["boat", "dog"]},
    {"id": 2, "type": "generative", "truth": ["person"], "hallu": ["dog"]},
    {"id": 1005, "type": "discriminative-hallucination", "truth": "yes"},
]
COUNT = Handling(on_bad="count")
ANSWERS = [
    Answer("1", ["A man in a ship can be seen on the water, with lights, two ships and a woman."]),
    Answer("2", ["A person."]),
]


@pytest.fixture
def amber(tmp_path: Path) -> Amber:
    """Two pictures, in a folder such as the authors'."""
    (tmp_path / "annotations.json").write_text(json.dumps(ANNOTATIONS))
    (tmp_path / "relation.json").write_text(json.dumps(RELATION))
    return Amber(annotations=str(tmp_path), images=str(tmp_path))


def test_by_hand(amber: Amber) -> None:
    """Counted are man, ship, water, light, ship, woman; person. False are both ships and the woman; lights never are.

    Of sky, lake, man and person three are named; of boat, dog and dog one is.
    """
    scored = amber.score(ANSWERS, [], Handling())
    assert scored["chair"].value == pytest.approx(3 / 7)
    assert scored["cover"].value == pytest.approx(3 / 4)
    assert scored["hal"].value == pytest.approx(1 / 2)
    assert scored["cog"].value == pytest.approx(1 / 3)
    assert {metric.official for metric in scored.metrics} == {None}, "another rule than the script's"
    assert scored.headline.name == "chair"
    assert scored.protocol == "amber/offline-534babf"
    assert scored.items[0].note == "not there: ship, ship, woman"


def test_related_nouns_of_all_objects_are_tried_before_the_objects() -> None:
    """As in the script: `man` is found as another word for `person`, and its own place stays uncovered."""
    annotation = Annotation(truth=("person", "man"), likely=("dog",))
    found = assess("1", ["man"], annotation, RELATION, str.__eq__)
    assert found == Assessed("1", ("man",), (), covered=1, truth=2, expected=0, likely=1)


def test_similar_nouns_are_no_hallucination() -> None:
    """The official rule's vectors; a noun may then be both what is there and what people would expect."""
    annotation = Annotation(truth=("lake",), likely=("boat",))
    found = assess("1", ["dog"], annotation, RELATION, lambda one, other: other in ("water", "boat"))
    assert (found.false, found.covered, found.expected) == ((), 1, 1)


def test_words_that_are_rarely_nouns_do_not_count() -> None:
    """`can be seen` is in every other description."""
    assert offline(RELATION).nouns("A can can be seen; men, dogs and a lake.") == ["man", "dog", "lake"]


def test_naming_what_is_there_is_never_false() -> None:
    """On all 1,004 pictures; where none repeats, stands for another or is passed over, all is covered."""
    bench = Amber(annotations=str(published("amber")))
    truths = {ask.id: ask for ask in bench.asks()}
    assert len(truths) == 1004
    rows = json.loads(published("amber", "annotations.generative.json").read_text())
    answers = [Answer(str(row["id"]), [f"{', '.join(row['truth'])}."]) for row in rows]
    scored = bench.score(answers, [], Handling())
    assert [scored[name].value for name in ("chair", "hal", "cog")] == [0, 0, 0]
    relation = json.loads(published("amber", "relation.json").read_text())
    simple = {
        str(row["id"])
        for row in rows
        if len(set(row["truth"])) == len(row["truth"])
        and not {other for name in row["truth"] for other in relation[name]} & set(row["truth"])
        and not (SAFE_WORDS | RARELY_NOUNS) & set(row["truth"])
    }
    cover = scored["cover"]
    covered = dict(zip(cover.ids, cover.terms.numerators / cover.terms.denominators, strict=True))
    assert len(simple) > 500
    assert not {name for name in simple if covered[name] < 1}


def test_answers_in_the_authors_layout(amber: Amber) -> None:
    """Those to yes/no questions are left to another benchmark."""
    rows = [{"id": 1, "response": "A dog."}, {"id": 1005, "response": "Yes"}]
    assert amber.read_answers(rows) == [Answer("1", ["A dog."])]
    assert [turn.pictures[0].name for ask in amber.asks() for turn in ask.turns] == ["AMBER_1.jpg", "AMBER_2.jpg"]


def test_a_double_answer_counts_twice_in_the_official_way_only(amber: Amber) -> None:
    """And a missing one not at all."""
    twice = [ANSWERS[0], ANSWERS[0]]
    with pytest.raises(ValueError, match="answered more than once: 1"):
        amber.score(twice, [], Handling())
    assert amber.score(ANSWERS[:1], [], COUNT).failures == {MISSING: ("2",)}
    official = amber.score(twice, [], Handling(compat="official"))
    assert official.failures == {DOUBLE: ("1",), MISSING: ("2",)}
    assert official["chair"].ids == ("1",)
    assert official["chair"].terms.denominators.tolist() == [12]


def test_the_official_language_is_printed_as_the_script_prints_it(
    amber: Amber, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With 0.001 added to each denominator, to one digit."""
    monkeypatch.setattr("mmalign.evaluation.benchmarks.amber.official_language", lambda: offline(RELATION))
    scored = Amber(annotations=amber.annotations, language="official").score(ANSWERS, [], Handling())
    assert [scored[name].official for name in ("chair", "cover", "hal", "cog")] == [42.9, 75.0, 50.0, 33.3]


def test_the_official_language_says_what_is_to_be_installed(amber: Amber) -> None:
    """And has a protocol of its own."""
    bench = Amber(annotations=amber.annotations, language="official")
    assert bench.protocol == "amber/534babf"
    if importlib.util.find_spec("en_core_web_lg"):
        pytest.skip("the official language data is installed")
    with pytest.raises(ValueError, match="spacy download en_core_web_lg"):
        bench.score(ANSWERS, [], Handling())


def test_files_of_different_releases_are_refused(amber: Amber) -> None:
    """A noun without relation would stop the official script."""
    (Path(amber.annotations) / "relation.json").write_text(json.dumps({"sky": []}))
    with pytest.raises(ValueError, match="do not fit together"):
        amber.asks()
    with pytest.raises(ValueError, match="--annotations"):
        Amber().asks()
