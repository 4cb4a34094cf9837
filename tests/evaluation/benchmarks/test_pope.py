import json
import math
import random
import re
import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mmalign.evaluation.benchmarks.pope import Pope
from mmalign.evaluation.benchmarks.pope_questions import read_questions
from mmalign.evaluation.paired import Direction
from mmalign.evaluation.steps.faults import Handling
from mmalign.evaluation.steps.reading import read_answers
from mmalign.evaluation.steps.records import Answer
from mmalign.evaluation.steps.scored import read_scored
from tests.harness.published import published

COUNT = Handling(on_bad="count")
OFFICIAL = Handling(compat="official")
PRINTED = {
    "Accuracy": "accuracy",
    "Precision": "precision",
    "Recall": "recall",
    "F1 score": "f1",
    "Yes ratio": "yes_ratio",
}
OBJECTS = {
    "adversarial": ["dog", "cat", "car", "cup"],
    "random": ["dog", "bus", "car", "sky"],
    "popular": ["dog", "man"],
}
LABELS = ["yes", "no", "yes", "no"]
OFFSET = {"adversarial": 0, "random": 10_000_000, "popular": 20_000_000}


def rows_of(split):
    """Two questions a picture."""
    return [
        {"question_id": n + 1, "image": f"{n // 2}.jpg", "text": f"Is there a {what} in the image?", "label": LABELS[n]}
        for n, what in enumerate(OBJECTS[split])
    ]


@pytest.fixture
def files(tmp_path):
    """LLaVA's question file and the authors' folder, small."""
    folder = tmp_path / "coco"
    folder.mkdir()
    questions = []
    for split in OBJECTS:
        rows = rows_of(split)
        (folder / f"coco_pope_{split}.json").write_text("\n".join(map(json.dumps, rows)))
        for row in rows:
            text = row["text"] + "\nAnswer the question using a single word or phrase."
            name = OFFSET[split] + row["question_id"]
            questions.append({"question_id": name, "image": row["image"], "text": text, "category": split})
    (tmp_path / "llava_pope_test.jsonl").write_text("\n".join(map(json.dumps, questions)))
    return tmp_path


@pytest.fixture
def bench(files):
    return Pope(questions=str(files / "llava_pope_test.jsonl"), labels=str(files / "coco"))


def said(texts, split=None):
    """Answers to all ten questions, or to one split's."""
    ids = [OFFSET[each] + n + 1 for each in OBJECTS if split in (None, each) for n in range(len(OBJECTS[each]))]
    return [Answer(str(name), [text], "m") for name, text in zip(ids, texts, strict=True)]


@pytest.fixture(scope="module")
def llava_7b():
    """LLaVA's questions, and the published answers of LLaVA-1.5-7B."""
    bench = Pope(
        questions=str(published("pope", "llava_pope_test.jsonl")),
        labels=str(published("pope", "2023")),
        images="val2014",
    )
    return bench, read_answers(bench, str(published("pope", "llava-v1.5-7b.jsonl.gz")))


@pytest.fixture(scope="module")
def new_release():
    return Pope(questions=str(published("pope")), images="val2014")


def test_the_published_results_are_reproduced_to_the_last_digit(llava_7b):
    """What LLaVA's script printed for LLaVA-1.5-7B before it stopped at the split without answers."""
    bench, answers = llava_7b
    scored = bench.score(answers, [], OFFICIAL)
    blocks = published("pope", "POPE_results.txt").read_text().split("====================================")
    seen = {}
    for block in blocks:
        split, samples = re.search(r"Category: (\w+), # samples: (\d+)", block).groups()
        seen[split] = int(samples)
        if split == "popular":
            continue
        accuracy = scored[f"accuracy/{split}"]
        assert accuracy.terms.denominators.sum() == int(samples)
        for printed, name in PRINTED.items():
            assert scored[f"{name}/{split}"].official == float(re.search(rf"{printed}: (\S+)", block)[1])
    assert seen == {"adversarial": 3000, "random": 2712, "popular": 0}
    assert "popular" in str(scored.failures)


def test_missing_answers_are_an_error_that_says_how_many_and_which(llava_7b):
    bench, answers = llava_7b
    with pytest.raises(ValueError, match=r"3198: no answer \(none at all in popular: .*\): 10002713, "):
        bench.score(answers, [], Handling())


def test_splits_that_exist_are_scored_where_missing_answers_are_counted(llava_7b, tmp_path):
    """Joined by id the numbers equal the script's here; without `popular`, a mean over the splits is undefined."""
    bench, answers = llava_7b
    bench.score(answers, [], COUNT).write(tmp_path)
    scored = read_scored(tmp_path)
    ((reason, ids),) = scored.failures.items()
    assert (reason.split(":")[0], len(ids)) == ("no answer (none at all in popular", 3198)
    assert (scored.num_questions, scored.num_scored) == (8910, 5712)
    assert math.isnan(scored.headline.value)
    assert scored["f1/random"].value == pytest.approx(0.8723824575266693, abs=1e-15)
    assert scored["f1/random"].official is None  # the script would not print it for these
    assert not [metric.name for metric in scored.metrics if metric.name.endswith("/popular")]


def test_both_releases_are_known_and_llavas_file_is_the_one_of_2023(llava_7b, new_release):
    """The authors' files of 2023 give LLaVA's questions, word for word and id for id."""
    llava = read_questions(llava_7b[0].questions)
    old = read_questions(str(published("pope", "2023")))
    assert {each.id: each for each in llava} == {each.id: each._replace(label=None) for each in old}
    assert (len(old), len(new_release.asks())) == (8910, 9000)
    assert llava_7b[0].protocol == "pope/llava15-e3e3926"
    assert new_release.protocol == "pope/llava15-3df3ba1"


def test_questions_and_labels_of_different_releases_are_named():
    bench = Pope(questions=str(published("pope", "llava_pope_test.jsonl")), labels=str(published("pope")))
    with pytest.raises(ValueError, match=r"release e3e3926, the labels of release 3df3ba1. random: 2,893 of 2,910"):
        bench.score([], [], COUNT)


def test_answers_to_questions_of_another_release_are_named(new_release):
    """Their ids are asked, but not for the objects that their prompts name."""
    answers = read_answers(new_release, str(published("pope", "llava-v1.5-7b.jsonl.gz")))
    with pytest.raises(ValueError, match=r"26\d\d: answers whose file says that another question was asked"):
        new_release.score(answers, [], Handling())


def test_8910_answers_take_less_than_five_seconds_and_no_torch():
    """In a process of its own: here, every call's types are checked."""
    code = f"""
import sys, time
from mmalign.evaluation.steps.faults import Handling
from mmalign.evaluation.benchmarks.pope import Pope
from mmalign.evaluation.steps.records import Answer
began = time.process_time()
bench = Pope(questions={str(published("pope", "llava_pope_test.jsonl"))!r}, labels={str(published("pope", "2023"))!r})
ids = [n * 10_000_000 + k for n, size in enumerate((3000, 2910, 3000)) for k in range(1, size + 1)]
scored = bench.score([Answer(str(name), ["Yes"]) for name in ids], [], Handling())
assert scored.num_scored == 8910 and "torch" not in sys.modules
print(scored["f1/popular"].official, time.process_time() - began)
"""
    f1, seconds = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    ).stdout.split()
    assert float(f1) == pytest.approx(2 / 3)
    assert float(seconds) < 5


def test_metrics_by_hand(bench):
    """The headline is the mean over the splits, not the pooled F1.

    adversarial  yes no yes no: said Yes, No, No, Yes  -> TP 1, FP 1, TN 1, FN 1: all 1/2
    random       yes no yes no: said Yes, No, Yes, No  -> all 1, yes-ratio 1/2
    popular      yes no:        said Yes, Yes          -> precision 1/2, recall 1, F1 2/3, yes-ratio 1
    """
    scored = bench.score(said(["Yes", "No", "No", "Yes", "Yes", "No", "Yes", "No", "Yes", "Yes"]), [], Handling())
    values = {metric.name: metric.value for metric in scored.metrics}
    assert values["mean_f1"] == pytest.approx((1 / 2 + 1 + 2 / 3) / 3)
    assert values["accuracy"] == pytest.approx((1 / 2 + 1 + 1 / 2) / 3)
    assert values["yes_ratio"] == pytest.approx((1 / 2 + 1 / 2 + 1) / 3)
    assert [values[f"{name}/popular"] for name in ("precision", "recall", "f1")] == pytest.approx([1 / 2, 1, 2 / 3])
    assert scored.headline.name == "mean_f1"
    assert scored["yes_ratio"].direction is Direction.NEITHER
    assert scored["mean_f1"].ids == ("0.jpg", "1.jpg"), "answers to one picture are drawn together"
    assert scored["f1/popular"].ids == ("0.jpg",)
    wrong = [item.id for item in scored.items if item.score == 0]
    assert wrong == ["3", "4", "20000002"]
    assert (scored.items[0].expected, scored.items[0].category) == ("yes", "adversarial")


def test_no_answer_read_as_yes_leaves_the_precision_undefined(bench):
    """The official script divides by zero, and prints nothing of the split."""
    scored = bench.score(said(["No"] * 10), [], OFFICIAL)
    assert math.isnan(scored["precision/random"].value)
    assert scored["f1/random"].value == 0
    assert scored["accuracy/random"].official is None


def test_the_order_of_files_does_not_matter(bench, files):
    """Labels and answers are joined by id."""
    texts = ["Yes", "No", "No", "Yes", "Yes", "No", "Yes", "No", "Yes", "Yes"]
    expected = bench.score(said(texts), [], Handling()).headline.value
    for file in (files / "coco").iterdir():
        file.write_text("\n".join(reversed(file.read_text().splitlines())))
    shuffled = said(texts)
    random.Random(0).shuffle(shuffled)
    fresh = Pope(questions=bench.questions, labels=bench.labels)
    assert fresh.score(shuffled, [], Handling()).headline.value == pytest.approx(expected)


def test_official_joins_by_order_and_takes_double_answers(bench):
    """As the script does: the first label meets the first answer, whosever it is; extra ones count in the yes-ratio."""
    answers = said(["Yes", "No", "Yes", "No"], "random")
    moved = [*answers[1:], answers[0], answers[0]]
    scored = bench.score([*said(["Yes"] * 4, "adversarial"), *moved, *said(["Yes"] * 2, "popular")], [], OFFICIAL)
    assert scored["accuracy/random"].value == 0
    assert scored["yes_ratio/random"].value == 3 / 5
    assert scored.failures["answered more than once"] == ("10000001",)
    with pytest.raises(ValueError, match=r"1 answers are to questions that are not asked here \(7\)"):
        bench.score([Answer("7", ["Yes"])], [], OFFICIAL)


def test_answers_that_failed_are_counted_and_not_read(bench):
    answers = said(["Yes", "No"] * 5)
    answers[0] = Answer("1", [], failure="the picture is gone")
    scored = bench.score(answers, [], COUNT)
    assert scored.num_scored == 9
    assert list(scored.failures.values()) == [("1",)]
    assert scored.items[0].score is None


def test_the_authors_files_alone_are_asked_with_llavas_prompt(files):
    """Greedily, with the picture before the question."""
    bench = Pope(questions=str(files / "coco" / "coco_pope_random.json"), images=str(files))
    ask = bench.asks()[1]
    assert (ask.id, ask.temperature, ask.max_new_tokens) == ("10000002", 0.0, 128)
    assert ask.turns[0].text == "Is there a bus in the image?\nAnswer the question using a single word or phrase."
    assert ask.turns[0].pictures[0].path == files / "0.jpg"
    scored = bench.score(said(["Yes", "No", "Yes", "No"], "random"), [], Handling())
    assert scored.headline.value == 1
    assert bench.protocol not in ("pope/llava15-e3e3926", "pope/llava15-3df3ba1")


def test_rows_of_the_hub_hold_their_pictures_and_are_the_same_questions(files):
    rows = [
        {
            "id": str(n), "question_id": str(row["question_id"]), "question": row["text"], "answer": row["label"],
            "image_source": row["image"].removesuffix(".jpg"), "image": {"bytes": b"jpeg", "path": None},
            "category": split,
        }
        for split in OBJECTS for n, row in enumerate(rows_of(split))
    ]  # fmt: skip
    pq.write_table(pa.Table.from_pylist(rows), files / "test.parquet")
    hub, authors = Pope(questions=str(files / "test.parquet")), Pope(labels=str(files / "coco"))
    assert hub.protocol == authors.protocol
    assert hub.asks()[0].turns[0].pictures[0].read() == b"jpeg"
    answers = said(["Yes"] * 10)
    assert hub.score(answers, [], Handling()).headline.value == authors.score(answers, [], Handling()).headline.value


def test_answers_in_llavas_layout_are_read(bench, files):
    rows = [{"question_id": 1, "prompt": "Is there a dog in the image?", "text": "Yes", "model_id": "llava-7b"}]
    file = files / "answers.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)))
    assert read_answers(bench, str(file)) == [Answer("1", ["Yes"], "llava-7b")]
    file.write_text(json.dumps({"question": "Is there a dog?", "answer": "yes"}))
    with pytest.raises(ValueError, match="lacks 'question_id'"):
        read_answers(bench, str(file))


def test_the_gallery_shows_the_pictures_that_are_there(bench, files):
    (files / "1.jpg").write_bytes(b"")
    shown = Pope(questions=bench.questions, labels=bench.labels, images=str(files))
    items = shown.score(said(["Yes"] * 10), [], Handling()).items
    assert [list(item.pictures) for item in items[:4]] == [[], [], *[[str(files / "1.jpg")]] * 2]


def test_losing_the_short_format_shows(bench):
    texts = ["Yes", "No.", "Yes, there is a dog in the image.", "No, I cannot see any dog here."] + ["No"] * 6
    scored = bench.score(said(texts), [], Handling())
    assert scored["format_kept"].value == 8 / 10
    assert scored["words"].value == (2 + 8 + 7 + 6) / 10
    assert scored["words"].direction is Direction.NEITHER


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "--questions"),
        ({"questions": "llava_pope_test.jsonl"}, "--labels"),
        ({"questions": "."}, "holds no coco_pope_random.json"),
        ({"questions": "other.jsonl"}, "lacks|KeyError: 'category'"),
        ({"questions": "double.jsonl"}, "2 questions are there twice: 1, 2"),
        ({"questions": "coco_pope_random.json"}, "label 'maybe' is neither yes nor no"),
    ],
)
def test_files_that_cannot_be_scored_are_named(files, monkeypatch, settings, message):
    monkeypatch.chdir(files)
    (files / "other.jsonl").write_text('{"question_id": 1, "text": "What is this?"}')
    rows = (files / "llava_pope_test.jsonl").read_text().splitlines()
    (files / "double.jsonl").write_text("\n".join([*rows, *rows[:2]]))
    (files / "coco_pope_random.json").write_text(json.dumps([rows_of("random")[0] | {"label": "maybe"}]))
    if settings.get("questions") == ".":
        (files / "coco_pope_random.json").unlink()
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        Pope(**settings).score([], [], COUNT)


def test_pictures_are_needed_to_ask(bench):
    with pytest.raises(ValueError, match="--images"):
        bench.asks()


def test_of_a_single_split_the_authors_numbers_are_read(files):
    bench = Pope(questions=str(files / "coco" / "coco_pope_random.json"))
    rows = [{"question_id": row["question_id"], "text": "Yes"} for row in rows_of("random")]
    assert bench.score(bench.read_answers(rows), [], Handling())["accuracy"].value == 0.5
