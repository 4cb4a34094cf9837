"""Noisy-image MT-Bench puts what it says before each turn, and is MT-Bench otherwise."""

import io
from pathlib import Path

import pytest
from PIL import Image

from mmalign.evaluation.benchmarks.mt_bench import MTBench
from mmalign.evaluation.benchmarks.noisy_mt_bench import MARKER, NoisyMTBench
from mmalign.evaluation.steps.benchmark import Ask, JudgedBenchmark
from mmalign.evaluation.steps.faults import Handling
from mmalign.evaluation.steps.records import Answer, JudgeReply
from mmalign.evaluation.steps.sources import load
from tests.harness.mt_bench import ANSWERS, QUESTIONS, write_mt_bench
from tests.harness.published import published

GOLDEN = [(6, 31), (33, 4), (42, 0)]
NAMES = [f"{number:012}.jpg" for number in range(50)]


@pytest.fixture
def folder(tmp_path: Path) -> str:
    return write_mt_bench(tmp_path / "mt_bench")


@pytest.fixture
def images(tmp_path: Path) -> str:
    return picture_folder(tmp_path / "train2017", NAMES)


def picture_folder(path: Path, names: list[str]) -> str:
    path.mkdir()
    for name in names:
        (path / name).write_bytes(b"a picture")
    (path / "notes.txt").write_text("none")
    return str(path)


def names_of(asks: list[Ask]) -> list[list[str]]:
    return [[picture.name for turn in ask.turns for picture in turn.pictures] for ask in asks]


def texts_of(asks: list[Ask]) -> list[list[str]]:
    return [[turn.text for turn in ask.turns] for ask in asks]


PLAIN = [list(question["turns"]) for question in QUESTIONS]


def test_without_noise_it_asks_what_mt_bench_asks(folder: str):
    """Temperatures and lengths, too."""
    assert NoisyMTBench(questions=folder, noise="none").asks() == MTBench(questions=folder).asks()


def test_the_marker_alone_is_text_and_no_picture(folder: str):
    """What the published script showed LLaVA."""
    asks = NoisyMTBench(questions=folder, noise="marker_only").asks()
    assert texts_of(asks) == [[f"<image>\n{turn}" for turn in turns] for turns in PLAIN]
    assert names_of(asks) == [[], [], []]


def test_blank_is_a_white_picture_before_each_turn(folder: str):
    """In memory, and the same bytes each time; the text is left alone."""
    asks = NoisyMTBench(questions=folder, noise="blank").asks()
    assert texts_of(asks) == PLAIN
    assert names_of(asks) == [["blank", "blank"]] * 3
    picture = Image.open(io.BytesIO(asks[0].turns[0].pictures[0].read()))
    assert (picture.format, picture.size, picture.getcolors()) == ("PNG", (336, 336), [(336 * 336, (255, 255, 255))])
    assert len({turn.pictures[0].read() for ask in asks for turn in ask.turns}) == 1


def test_random_pictures_are_fresh_for_each_turn(folder: str, images: str):
    """One before each, from the folder's pictures; these are the ones for seed 0 on any machine."""
    asks = NoisyMTBench(questions=folder, images=images).asks()
    assert texts_of(asks) == PLAIN
    assert names_of(asks) == [[NAMES[a], NAMES[b]] for a, b in GOLDEN]
    assert asks[0].turns[0].pictures[0].read() == b"a picture"


def test_seed_and_names_alone_decide(folder: str, images: str, tmp_path: Path):
    """Not where the folder lies or how it lists its files, and not which other questions are asked."""
    elsewhere = picture_folder(tmp_path / "moved", NAMES[::-1])
    first = names_of(NoisyMTBench(questions=folder, images=images).asks())
    assert names_of(NoisyMTBench(questions=folder, images=elsewhere).asks()) == first
    assert names_of(NoisyMTBench(questions=folder, images=images, noise_seed=1).asks()) != first
    lines = Path(folder, "question.jsonl").read_text().splitlines(keepends=True)
    Path(folder, "question.jsonl").write_text(lines[2])
    assert names_of(NoisyMTBench(questions=folder, images=images).asks()) == first[2:]


def test_no_folder_and_no_pictures_are_errors(folder: str, tmp_path: Path):
    """They name the option."""
    with pytest.raises(FileNotFoundError, match=r"--images.*--noise blank"):
        NoisyMTBench(questions=folder).asks()
    empty = picture_folder(tmp_path / "empty", [])
    for place in (empty, str(tmp_path / "gone")):
        with pytest.raises(FileNotFoundError, match=f"No .jpeg, .jpg, .png, .webp in {place}, the `--images`"):
            NoisyMTBench(questions=folder, images=place).asks()


def test_the_protocol_says_noise_and_seed(folder: str):
    """So that results under other noise are never compared."""
    ends = {
        NoisyMTBench(questions=folder, noise=noise, noise_seed=3).protocol.partition("+noise-")[2]
        for noise in ("none", "blank", "random", "marker_only")
    }
    assert ends == {"none", "blank", "random-seed-3", "marker_only"}
    assert NoisyMTBench(questions=folder).protocol.startswith("noisy_mt_bench/fastchat-0e6d3e4")


def test_the_judge_sees_text_alone(folder: str):
    """The same calls as MT-Bench's, whatever the noise."""
    for noise in ("blank", "random", "marker_only"):
        assert NoisyMTBench(questions=folder, noise=noise).calls(ANSWERS) == MTBench(questions=folder).calls(ANSWERS)


def test_it_is_scored_as_mt_bench(folder: str, images: str):
    """The numbers are the same, the names are its own; items show the pictures that an answer was given."""
    bench = NoisyMTBench(questions=folder, images=images)
    assert isinstance(bench, JudgedBenchmark)
    replies = [JudgeReply(call.id, "[[7]]", "gpt-4") for call in bench.calls(ANSWERS)]
    answers = [answer._replace(pictures=[[NAMES[0]], [NAMES[1]]]) for answer in ANSWERS]
    scored = bench.score(answers, [replies], Handling())
    plain = MTBench(questions=folder).score(answers, [replies], Handling())
    assert [(m.name, m.value, m.ids) for m in scored.metrics] == [(m.name, m.value, m.ids) for m in plain.metrics]
    assert (scored.benchmark, scored.title, scored.headline.value) == ("noisy_mt_bench", "Noisy-image MT-Bench", 7.0)
    assert scored.items[0].pictures == (f"{images}/{NAMES[0]}", f"{images}/{NAMES[1]}")
    blank = [answer._replace(pictures=[["blank"], ["blank"]]) for answer in ANSWERS]
    assert bench.score(blank, [replies], Handling()).items[0].pictures == ()


def test_scoring_needs_no_pictures(folder: str):
    """They may lie on the machine that generated."""
    bench = NoisyMTBench(questions=folder)
    replies = [JudgeReply(call.id, "[[7]]", "gpt-4") for call in bench.calls(ANSWERS)]
    assert bench.score([Answer(*answer[:3]) for answer in ANSWERS], [replies], Handling()).headline.value == 7.0


def test_the_papers_noisy_answers_saw_a_marker_and_no_picture():
    """LLaVA says so, and two turns of the DPO model's write the marker; this is why `marker_only` exists."""
    llava = published("mt_bench", "llava-v1.5-13b-random-coco.jsonl").read_text(encoding="utf-8")
    assert "cannot see the image" in llava
    assert "not able to see any images" in llava
    (path,) = published("mt_bench").glob("*dpo*random-coco.jsonl")
    answers = NoisyMTBench(questions="").read_answers(load(path))
    assert [(answer.id, turn) for answer in answers for turn in (0, 1) if MARKER in answer.turns[turn]] == [
        ("92", 1),
        ("108", 1),
    ]
