"""CHAIR reproduces the published rates, reads COCO's own annotations, and names what it cannot score."""

import json
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from mmalign.evaluation.benchmarks.chair import Chair
from mmalign.evaluation.steps.faults import MISSING, UNKNOWN, Handling
from mmalign.evaluation.steps.reading import read_answers
from mmalign.evaluation.steps.records import Answer
from tests.harness.published import published

SYNONYMS = "person, man, woman, people\ndog, puppy\nboat, ship\nchair, seat\ntoilet\ndining table, table\n"
TRUTH = {"7": ["person", "dog"], "8": ["boat"]}
COUNT = Handling(on_bad="count")


@pytest.fixture
def chair(tmp_path: Path) -> Chair:
    """Two pictures: a person with a dog, and a boat."""
    (tmp_path / "synonyms.txt").write_text(SYNONYMS)
    (tmp_path / "truth.json").write_text(json.dumps(TRUTH))
    return Chair(ground_truth=str(tmp_path / "truth.json"), synonyms=str(tmp_path / "synonyms.txt"))


@pytest.mark.parametrize(
    ("captions", "chair_i", "chair_s"),
    [
        ("Instruction1_llava", 18.8, 62.7),
        ("Instruction1_mmgpt", 18.2, 36.2),
        ("Instruction1_minigpt-4", 9.2, 31.5),
        ("Instruction2_minigpt-4", 6.7, 9.5),
        ("Instruction2_mmgpt", 11.1, 15.0),  # ours; not printed in the paper for this file
    ],
)
def test_published_captions_give_the_published_rates(captions: str, chair_i: float, chair_s: float) -> None:
    """POPE's Table 2, from its captions and the objects of the pictures."""
    bench = Chair(
        ground_truth=str(published("chair", "coco_gt_objects.json")),
        synonyms=str(published("chair", "synonyms.txt")),
    )
    answers = read_answers(bench, str(published("chair", "captions", f"{captions}.json.gz")))
    start = time.process_time()
    scored = bench.score(answers, [], Handling())
    assert time.process_time() - start < 2, "2,000 captions"
    assert scored["chair_i"].official == chair_i
    assert scored["chair_s"].official == chair_s
    assert scored.num_scored == 2000
    assert scored.headline.name == "chair_i"


def test_by_hand(chair: Chair) -> None:
    """3 false of 6 named (repeats count), 1 of 2 captions with any, 2 of 3 objects found."""
    answers = [Answer("7", ["A man and a dog near a boat. Two ships and the people's boat."]), Answer("8", ["Water."])]
    scored = chair.score(answers, [], Handling())
    assert scored["chair_i"].value == pytest.approx(3 / 6)
    assert scored["chair_s"].value == pytest.approx(1 / 2)
    assert scored["recall"].value == pytest.approx(2 / 3)
    assert scored["mentions"].value == pytest.approx(3)
    assert scored["words"].value == pytest.approx(7.5)
    first, second = scored.items
    assert (first.score, second.score) == (0.5, 1.0)
    assert first.note == "not there: boat, ship, boat"


def test_an_answer_that_names_what_is_there_is_without_fault(chair: Chair) -> None:
    """CHAIR 0, recall 1."""
    scored = chair.score([Answer("7", ["A person, a dog."]), Answer("8", ["A boat."])], [], Handling())
    assert [scored[name].value for name in ("chair_i", "chair_s", "recall")] == [0, 0, 1]


def test_ground_truth_of_coco_is_the_union_of_outlines_and_captions(tmp_path: Path, chair: Chair) -> None:
    """Picture 7: a dog is outlined, a ship is in a caption; 8 is only described; 9 has nothing at all."""
    categories = [{"id": 18, "name": "dog"}]
    instances = {
        "images": [{"id": 7}, {"id": 8}, {"id": 9}],
        "categories": categories,
        "annotations": [{"image_id": 7, "category_id": 18}, {"image_id": 7, "category_id": 18}],
    }
    captions = {
        "images": [{"id": 7}, {"id": 8}],
        "annotations": [{"image_id": 7, "caption": "A ship."}, {"image_id": 8, "caption": "Three women at a table"}],
    }
    folder = tmp_path / "annotations"
    folder.mkdir()
    (folder / "instances_val2014.json").write_text(json.dumps(instances))
    (folder / "captions_val2014.json").write_text(json.dumps(captions))
    bench = Chair(ground_truth=str(tmp_path), synonyms=chair.synonyms)
    answers = [Answer(name, ["A dog, a ship, a woman, a table."]) for name in ("7", "8", "9")]
    scored = bench.score(answers, [], Handling())
    assert [item.expected for item in scored.items] == ["boat, dog", "dining table, person", ""]
    assert scored["chair_i"].value == pytest.approx((2 + 2 + 4) / 12)


def test_captions_that_cannot_be_scored_are_named_and_counted(chair: Chair, tmp_path: Path) -> None:
    """A missing one, an unasked one, and one of a picture that nothing is known of."""
    (tmp_path / "questions.jsonl").write_text(
        '{"image_id": 7}\n{"image": "COCO_val2014_000000000008.jpg"}\n{"image_id": 9}\n'
    )
    bench = Chair(ground_truth=chair.ground_truth, synonyms=chair.synonyms, questions=str(tmp_path / "questions.jsonl"))
    answers = [Answer("7", ["A dog."]), Answer("9", ["A cat."]), Answer("10", ["A cat."])]
    with pytest.raises(ValueError, match=r"1: no answer: 8"):
        bench.score(answers, [], Handling())
    scored = bench.score(answers, [], COUNT)
    assert scored.failures == {MISSING: ("8",), UNKNOWN: ("10",), "pictures without ground truth": ("9",)}
    assert (scored.num_questions, scored.num_scored) == (3, 1)
    assert [item.score for item in scored.items] == [1.0, None, None]
    assert scored["chair_i"].official is None, "the official script would not print this"


def test_pictures_are_asked_from_a_folder_or_a_file(chair: Chair, tmp_path: Path) -> None:
    """COCO's file names hold the numbers; rows may bring question and picture along."""
    images = tmp_path / "val2014"
    images.mkdir()
    for name in ("COCO_val2014_000000000008.jpg", "COCO_val2014_000000000007.jpg", "notes.txt"):
        (images / name).write_bytes(b"jpeg")
    asks = Chair(images=str(images), prompt="What is here?").asks()
    assert [ask.id for ask in asks] == ["7", "8"]
    assert asks[0].turns[0].text == "What is here?"
    assert asks[0].turns[0].pictures[0].read() == b"jpeg"

    (tmp_path / "questions.jsonl").write_text('{"image_id": 8, "question": "Describe it.", "image": "anBlZw=="}\n')
    (ask,) = Chair(questions=str(tmp_path / "questions.jsonl")).asks()
    assert (ask.id, ask.turns[0].text, ask.turns[0].pictures[0].read()) == ("8", "Describe it.", b"jpeg")
    (tmp_path / "questions.jsonl").write_text('{"image_id": 8}\n{"image_id": 8}\n')
    with pytest.raises(ValueError, match="1 pictures more than once"):
        Chair(questions=str(tmp_path / "questions.jsonl")).asks()
    with pytest.raises(ValueError, match="--images"):
        Chair().asks()


@pytest.mark.parametrize(
    "rows",
    [
        [{"image_id": 7, "text": "A dog."}],
        [{"image": "COCO_val2014_000000000007.jpg", "caption": "A dog."}],
        {"overall": {}, "imgToEval": {"7": {"image_id": 7, "caption": "A dog."}}},
        {"sentences": [{"image_id": 7, "caption": "A dog."}], "overall_metrics": {}},
    ],
)
def test_layouts_of_captions(rows: object) -> None:
    """Of POPE, LLaVA, CHAIR itself and its reviews."""
    assert Chair().read_answers(rows) == [Answer("7", ["A dog."])]


def test_files_that_are_missing_or_others_are_named(chair: Chair, tmp_path: Path) -> None:
    """Each error names the option."""
    answers = [Answer("7", ["A dog."])]
    with pytest.raises(ValueError, match="--synonyms"):
        Chair(ground_truth=chair.ground_truth).score(answers, [], Handling())
    with pytest.raises(ValueError, match="--ground_truth"):
        Chair(synonyms=chair.synonyms).score(answers, [], Handling())
    with pytest.raises(FileNotFoundError, match="instances_val2014"):
        Chair(synonyms=chair.synonyms, ground_truth=str(tmp_path)).score(answers, [], Handling())
    (tmp_path / "list.json").write_text("[1, 2]")
    with pytest.raises(ValueError, match="is no ground truth"):
        Chair(synonyms=chair.synonyms, ground_truth=str(tmp_path / "list.json")).score(answers, [], Handling())


def test_scoring_needs_no_torch_and_no_library_of_language() -> None:
    """Imports are what scoring waits for."""
    code = (
        "import sys, mmalign.evaluation.benchmarks.chair, mmalign.evaluation.benchmarks.object_halbench, "
        "mmalign.evaluation.benchmarks.amber; print({'torch', 'nltk', 'spacy', 'inflect'} & set(sys.modules))"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "set()"


def test_scores_by_other_truths_synonyms_or_prompts_are_not_comparable(chair: Chair, tmp_path: Path) -> None:
    (tmp_path / "other.json").write_text(json.dumps(TRUTH | {"9": ["chair"]}))
    (tmp_path / "other.txt").write_text(SYNONYMS + "cup\n")
    others = (
        {},
        {"ground_truth": f"{tmp_path}/other.json"},
        {"synonyms": f"{tmp_path}/other.txt"},
        {"prompt": "What is here?"},
    )
    benches = [replace(chair, **other) for other in others]
    assert len({bench.score([Answer("7", ["A dog."])], [], Handling()).protocol for bench in benches}) == len(others)


@pytest.mark.parametrize("objects", [["People"], [1, None]])
def test_a_truth_that_is_no_object_is_named(objects: list[object], chair: Chair, tmp_path: Path) -> None:
    (tmp_path / "truth.json").write_text(json.dumps({"7": objects}))
    with pytest.raises(ValueError, match=r"truth\.json: .* is no object of the synonyms file"):
        chair.score([Answer("7", ["A dog."])], [], Handling())
