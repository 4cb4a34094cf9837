import base64
import csv
import io
import json
import random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from mmalign.evaluation.benchmarks.mmbench import MMBench, is_letter
from mmalign.evaluation.benchmarks.mmbench_extraction import picked_option
from mmalign.evaluation.benchmarks.mmbench_metrics import mmbench_metrics, pick
from mmalign.evaluation.benchmarks.mmbench_questions import MMBenchQuestion, rotated
from mmalign.evaluation.paired import Direction
from mmalign.evaluation.steps.faults import Handling
from mmalign.evaluation.steps.reading import read_answers
from mmalign.evaluation.steps.records import Answer

COUNT = Handling(on_bad="count")
OFFICIAL = Handling(compat="official")
COLUMNS = [
    "index",
    "question",
    "hint",
    *"ABCD",
    "answer",
    "category",
    "image",
    "source",
    "l2-category",
    "comment",
    "split",
]
PETS = {"A": "a cat", "B": "a dog", "C": "a bus", "D": "the sky"}


def picture(colour):
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), colour).save(buffer, "JPEG")
    return buffer.getvalue()


RED = picture("red")


def row(index, options, answer, *, question="What is it?", hint="", image=None, category="identity", l2="coarse"):
    cells = dict(zip("ABCD", [*options, "", "", ""], strict=False))
    picture_cell = base64.b64encode(RED).decode() if image is None else image
    return dict.fromkeys(COLUMNS, "") | cells | {
        "index": index, "question": question, "hint": hint, "answer": answer, "category": category,
        "image": picture_cell, "l2-category": l2, "split": "dev",
    }  # fmt: skip


ROWS = [
    row(7, ["cat", "dog"], "B", hint="Look\tclosely."),
    row(8, ["one", "two", "three"], "A", question="How\nmany?", category="counting", l2="fine"),
    row(1_000_007, ["dog", "cat"], "A", hint="Look\tclosely.", image="7"),
    row(1_000_008, ["two", "three", "one"], "C", question="How\nmany?", image="8", category="counting", l2="fine"),
    row(2_000_008, ["three", "one", "two"], "B", question="How\nmany?", image="8", category="counting", l2="fine"),
]
RIGHT = {"7": "B", "8": "A", "1000007": "A", "1000008": "C", "2000008": "B"}


def write_tsv(path, rows):
    with path.open("w", newline="") as file:
        table = csv.DictWriter(file, list(rows[0]), delimiter="\t")
        table.writeheader()
        table.writerows(rows)
    return str(path)


@pytest.fixture
def bench(tmp_path):
    return MMBench(questions=write_tsv(tmp_path / "mmbench_dev.tsv", ROWS))


def said(**changed):
    """Right answers, but for some."""
    return [Answer(name, [text], "m") for name, text in (RIGHT | {k.strip("_"): v for k, v in changed.items()}).items()]


def test_a_question_counts_only_if_every_rotation_is_right(bench):
    """One of the three rotations of 8 is wrong: circular 1/2, by row 4/5; `fine` 0, `coarse` 1."""
    scored = bench.score(said(_1000008="B"), [], Handling())
    values = {metric.name: metric.value for metric in scored.metrics}
    assert values == {
        "accuracy": 1 / 2, "vanilla": 4 / 5, "unresolved": 0, "l2_category/coarse": 1, "l2_category/fine": 0,
        "category/counting": 0, "category/identity": 1, "format_kept": 1, "words": 1,
    }  # fmt: skip
    assert scored.headline.name == "accuracy"
    assert scored["accuracy"].official == 1 / 2
    assert scored["accuracy"].ids == scored["vanilla"].ids == ("7", "8"), "rotations are drawn together"
    assert (scored.num_questions, scored.num_scored) == (5, 5)
    wrong = [item for item in scored.items if item.score == 0]
    assert [(item.id, item.expected, item.category) for item in wrong] == [("1000008", "C. one", "counting")]


def test_an_answer_without_an_option_is_a_miss_and_counted(bench):
    """Where the authors' script, after its judge, takes an option by chance."""
    scored = bench.score(said(_7="I see both."), [], Handling())
    assert scored["accuracy"].value == 1 / 2
    assert scored["unresolved"].value == 1 / 5
    assert scored["unresolved"].direction is Direction.LOWER
    assert scored["format_kept"].value == 4 / 5
    assert scored.items[0].note == "no option can be read of the answer"


def test_llavas_prompt(bench):
    """Hint, question, options up to the first empty one, request; greedy; a short cell names the picture's row."""
    asks = {ask.id: ask for ask in bench.asks()}
    turn = asks["1000007"].turns[0]
    assert turn.text == (
        "Look\tclosely.\nWhat is it?\nA. dog\nB. cat\nAnswer with the option's letter from the given choices directly."
    )
    assert turn.pictures[0].read() == RED
    assert (asks["7"].temperature, asks["7"].max_new_tokens) == (0.0, 1024)
    chinese = MMBench(questions=bench.questions, language="cn")
    assert chinese.asks()[0].turns[0].text.endswith("\n请直接回答选项字母。")
    assert chinese.protocol != bench.protocol


def test_rows_of_the_hub_are_the_same_questions(bench, tmp_path):
    """lmms-lab/MMBench: `L2-category`, `nan` for empty, the picture in every row."""
    rows = [
        {
            ("L2-category" if name == "l2-category" else name): value or ("nan" if name in ("hint", *"CD") else "")
            for name, value in each.items()
        } | {"image": {"bytes": RED, "path": None}}
        for each in ROWS
    ]  # fmt: skip
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "dev.parquet")
    hub = MMBench(questions=str(tmp_path / "dev.parquet"))
    assert [ask.turns[0].text for ask in hub.asks()] == [ask.turns[0].text for ask in bench.asks()]
    assert hub.protocol == bench.protocol
    names = [metric.name for metric in hub.score(said(), [], Handling()).metrics]
    assert "l2_category/fine" in names


def test_missing_answers_are_an_error_or_leave_their_question_out(bench):
    answers = [*said()[1:], Answer("99", ["A"])]
    with pytest.raises(
        ValueError, match=r"1: no answer: 7(?s:.*)1: answers to questions that are not asked here.*: 99"
    ):
        bench.score(answers, [], Handling())
    scored = bench.score(answers, [], COUNT)
    assert scored["accuracy"].ids == ("8",)
    assert dict(zip(scored["vanilla"].ids, scored["vanilla"].terms.denominators, strict=True)) == {"7": 1, "8": 3}
    assert scored["accuracy"].official is None


def test_official_is_the_converter_and_the_table(bench):
    """A missing answer is an empty cell and so a miss; the last of several counts; others are ignored."""
    answers = [*said()[1:], Answer("8", ["B"]), Answer("8", ["A"]), Answer("99", ["A"])]
    scored = bench.score(answers, [], OFFICIAL)
    assert scored["accuracy"].official == 1 / 2
    assert scored["unresolved"].value == 1 / 5
    assert sorted(scored.failures.values()) == [("7",), ("8",), ("99",)]


def test_the_order_of_rows_does_not_matter(bench, tmp_path):
    answers = said(_1000008="B")
    shuffled, other = list(ROWS), list(answers)
    random.Random(1).shuffle(shuffled)
    random.Random(2).shuffle(other)
    again = MMBench(questions=write_tsv(tmp_path / "shuffled.tsv", shuffled)).score(other, [], Handling())
    expected = bench.score(answers, [], Handling())
    assert again.protocol == expected.protocol
    assert {each.name: each.value for each in again.metrics} == {each.name: each.value for each in expected.metrics}


@settings(max_examples=30)
@given(letters=st.lists(st.sampled_from("ABCDZ"), min_size=8, max_size=8))
def test_circular_is_never_above_the_accuracy_by_row(letters):
    """For questions of one size; a group is right at most as often as its rows are."""
    questions = rotated([MMBenchQuestion(n, "What?", "", PETS, "B", "c", "l", "") for n in range(2)])
    picks = [pick(question, letter) for question, letter in zip(questions, letters, strict=True)]
    circular, by_row, *_ = mmbench_metrics(picks, {"0": 4, "1": 4}, is_printed=True)
    assert circular.value <= by_row.value


@pytest.mark.parametrize(
    ("answer", "picked"),
    [
        ("B", "B"), ("(B)", "B"), ("B. a dog", "B"), ("The answer is B.", "B"), ("**B**", "B"),
        ("A or B", None), ("a", None), ("A dog", "A"), ("a dog", "B"), ("It is A DOG, surely", "A"),
        ("A nice picture of my dog here", None), ("Is A here?", "A"), ("I see a cat and a dog", None),
        ("A thing that I would not call by any such name", None),
        ("The correct answer is **C**. Here's why: it has wheels and so it is surely one of these", "C"),
        ("E", None), ("Z", "Z"), ("I'm sorry, but without the image provided, B", "Z"),
        ("Failed to obtain answer via API: a bus", "C"), ("", None), ("dog " * 30 + "a dog", None),
    ],
)  # fmt: skip
def test_options_are_read_as_vlmevalkit_reads_them(answer, picked):
    """One letter among the last words, or "answer is X", or one option's text in a short answer."""
    assert picked_option(answer, PETS) == picked


def test_answers_in_llavas_layout_are_read(bench, tmp_path):
    """Rows of `--all-rounds` are joined by the options that they had, in whatever order the file rotates them."""
    rows = [
        {"question_id": 8, "round_id": 0, "text": "A", "options": ["one", "two", "three"], "model_id": "llava"},
        {"question_id": 8, "round_id": 1, "text": "C", "options": ["two", "three", "one"], "model_id": "llava"},
        {"question_id": 8, "round_id": 2, "text": "B", "options": ["three", "one", "two"], "model_id": "llava"},
        {"question_id": 1_000_007, "text": "A", "model_id": "llava"},
    ]
    file = tmp_path / "llava.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)))
    answers = read_answers(bench, str(file))
    assert [(answer.id, answer.text) for answer in answers] == [
        ("8", "A"), ("1000008", "C"), ("2000008", "B"), ("1000007", "A"),
    ]  # fmt: skip
    assert answers[0].model == "llava"


def test_answers_to_other_options_are_named(bench):
    rows = [{"question_id": 8, "round_id": 0, "text": "A", "options": ["red", "green", "blue"]}]
    scored = bench.score([*bench.read_answers(rows), *[each for each in said() if each.id != "8"]], [], COUNT)
    assert [(reason[:48], ids) for reason, ids in scored.failures.items()] == [
        ("answers whose file says that another question wa", ("8",))
    ]


def test_vlmevalkits_table_is_read(bench, tmp_path):
    rows = [each | {"prediction": RIGHT[str(each["index"])], "image": ""} for each in ROWS]
    rows[0]["prediction"] = ""
    answers = read_answers(bench, write_tsv(tmp_path / "MMBench_DEV_EN.tsv", rows))
    assert bench.score(answers, [], OFFICIAL)["accuracy"].official == 1 / 2
    with pytest.raises(ValueError, match="lacks 'question_id'"):
        read_answers(bench, write_tsv(tmp_path / "other.tsv", [{"number": 1}]))


def test_rotations_are_made_for_a_file_that_lacks_them(bench, tmp_path):
    """As LLaVA's --all-rounds: the same five rows, so the same protocol and score."""
    made = MMBench(questions=write_tsv(tmp_path / "once.tsv", ROWS[:2]), rotations=True)
    assert {ask.id: ask.turns for ask in made.asks()}.keys() == RIGHT.keys()
    assert made.protocol == bench.protocol
    assert made.score(said(), [], Handling()).headline.value == 1
    with pytest.raises(ValueError, match="has the rotations"):
        MMBench(questions=bench.questions, rotations=True).asks()


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"index": 1, "question": "What?"}], "holds no questions of MMBench .KeyError: 'image'"),
        ([ROWS[0], ROWS[0]], "1 indices are there twice"),
        (ROWS[2:], "pictures of 3 questions are in rows that are not there .the first of them: 1000007"),
        ([ROWS[0], ROWS[1] | {"answer": ""}], r"no answer to 1 of 2 questions \(8\). Those of the test split"),
    ],
)
def test_files_that_cannot_be_scored_are_named(tmp_path, rows, message):
    with pytest.raises(ValueError, match=message):
        MMBench(questions=write_tsv(tmp_path / "broken.tsv", rows)).score([], [], COUNT)


def test_questions_are_needed():
    with pytest.raises(ValueError, match="--questions"):
        MMBench().asks()


@pytest.mark.parametrize(
    ("text", "is_one"), [("B", True), (" (B).", True), ("b", False), ("B. dog", False), ("", False)]
)
def test_the_asked_format_is_a_letter(text, is_one):
    assert is_letter(text) == is_one
