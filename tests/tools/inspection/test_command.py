"""`mmalign inspect`: counts first, then what is wrong, then rows with the trained tokens told apart."""

import io
import json
from pathlib import Path

import pytest
from PIL import Image

from mmalign.data.sample import Preference, Response, Sample
from mmalign.data.shards import ShardWriter
from mmalign.messages import ImageSlot, Message, Text
from mmalign.tools.inspection.command import main

SHARED = Path(__file__).parents[3].parent / "shared" / "data"
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="no real data: ../shared/data is absent")


@pytest.fixture
def shards(tmp_path):
    """One sample with a picture and a preference, one that no pair can be made of."""
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(buffer, "PNG")
    question = Message("user", (ImageSlot(), Text("What is this?")))
    answers = (Response(text="A red square."), Response(text="A dog, of course, and it is large."))
    with ShardWriter(tmp_path / "set") as writer:
        pair = {"responses": answers, "preference": Preference(0, 1)}
        writer.write(Sample(key="pair", messages=(question,), images=(buffer.getvalue(),), **pair))
        writer.write(Sample(key="lone", messages=(Message("user", (Text("Hm?"),)),)))
    return tmp_path / "set"


def test_rows_are_shown_as_the_model_gets_them(shards, tiny_llava, capsys):
    main([str(shards), "--checkpoint", tiny_llava, "--verify", "true"])
    printed = capsys.readouterr().out
    assert "1 shards" in printed
    assert "1 of 2 samples usable, 1 rows; 1: fewer than two responses" in printed
    assert "Every shard hashes to what the manifest says." in printed
    assert "000000.tar/pair" in printed
    assert "USER: [image x16]\nWhat is this? ASSISTANT:" in printed
    assert "trained tokens: A red square.</s>" in printed
    assert "rejected, " in printed


def test_another_view_and_a_cut_are_shown(shards, tiny_llava, capsys):
    main([str(shards), "--checkpoint", tiny_llava, "--view", "Prompts"])
    printed = capsys.readouterr().out
    assert "2 of 2 samples usable" in printed
    assert "trained tokens" not in printed
    main([str(shards), "--checkpoint", tiny_llava, "--max_length", "10"])
    assert "a stand-in takes its place: 000000.tar/pair: " in capsys.readouterr().out
    main([str(shards), "--limit", "0"])
    assert "000000.tar/" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["BestOfN"], ["500 of 500 samples usable, 500 rows", "  answer, "]),
        (
            ["Gold", "--view.model", "teacher"],
            ["500 of 500 samples usable, 500 rows", "this is everything on display."],
        ),
        (["Steer"], ["1136 rows", "Helpfulness:3,Correctness:3,Coherence:4,Complexity:1,Verbosity:2 ASSISTANT:"]),
        (["Steer", "--view.form", "nemo"], ["ASSISTANT: helpfulness:3,correctness:3,coherence:4,"]),
        (["Unpaired"], ["498 of 500 samples usable", "  rejected, ", "  mismatched, ", " scored tokens: "]),
        (
            ["ImagePairs", "--view.variant", "RandomCrop"],
            [
                "  chosen, ",
                "  rejected, ",
                "  other_image, ",
                "changed by RandomCrop(min_area=0.01, max_area=0.2, seed=0)",
            ],
        ),
    ],
    ids=["best of n", "gold", "steer", "nemo", "unpaired", "image pairs"],
)
def test_one_shard_set_serves_every_view(options, words, capsys):
    """The one that ships with mmalign, without a step in between."""
    main(["world", "--limit", "2", "--view", *options])
    printed = capsys.readouterr().out
    assert [each for each in words if each not in printed] == []


def test_a_row_without_a_picture_to_change_counts_nothing(tmp_path, tiny_llava, capsys):
    answers = (Response(text="Yes."), Response(text="No."))
    with ShardWriter(tmp_path / "set") as writer:
        question = (Message("user", (Text("Hm?"),)),)
        writer.write(Sample(key="text", messages=question, responses=answers, preference=Preference(0, 1)))
    options = [str(tmp_path / "set"), "--checkpoint", tiny_llava]
    main([*options, "--view", "ImagePairs", "--view.variant", "DiffusionNoise"])
    assert "counts nothing, there is no picture to change" in capsys.readouterr().out


def test_a_set_is_shown_in_numbers(rich, capsys):
    main([str(rich), "--limit", "0"])
    printed = " ".join(capsys.readouterr().out.split())
    for words in (
        "made by import llava of a.json (samples 4)",
        "samples 4 from people 2, (none) 1, a 1",
        "pictures 4 a sample: 0 (1), 1 (2), 2 (1); 1 stand in several places, in 2 samples",
        "answers 7 a prompt: 0 (1), 2 (2), 3 (1); 3 rated",
        "models 3 (none) 4, llava 2, other 1",
        "preferences 2 chosen directly",
        "helpfulness 2.67",
        "1: 1 3: 1 4: 1",
        "3 of 4 samples usable, 3 rows; 1: fewer than two responses",
        "chosen is longer in 67 % of the pairs",
        "judge gemini, in all samples: 3 rated, 2 with reasons",
        "judge claims, in all samples: 0 rated, 0 with reasons, 1 invalid",
    ):
        assert words in printed


def test_what_is_wrong_is_listed_and_an_error_is_the_exit_code(rich, tiny_llava, tmp_path, capsys):
    listed = tmp_path / "problems.jsonl"
    options = ["--limit", "0", "--validate", "true", "--problems", str(listed), "--checkpoint", tiny_llava]
    with pytest.raises(SystemExit) as stopped:
        main([str(rich), *options])
    assert stopped.value.code == 1
    printed = capsys.readouterr().out
    assert "error: a picture cannot be decoded: 1\n  000000.tar/broken  picture 0, " in printed
    assert "4 samples read: 1 errors in 1 samples, 1 warnings." in printed
    records = [json.loads(line) for line in listed.read_text().splitlines()]
    assert [(each["key"], each["level"], each["kind"]) for each in records] == [
        ("judged", "warning", "a judgment is invalid"),
        ("broken", "error", "a picture cannot be decoded"),
    ]


def test_warnings_are_no_failure(tmp_path, capsys):
    with ShardWriter(tmp_path / "set") as writer:
        for number in range(7):
            question = (Message("user", (Text("Hm?"),)),)
            writer.write(Sample(key=f"{number}", messages=question, responses=(Response(text="Yes."),) * 2))
    main([str(tmp_path / "set"), "--limit", "0", "--validate", "true"])
    printed = capsys.readouterr().out
    assert "warning: two answers are the same text: 7" in printed
    assert "and 2 more; `--problems FILE` lists all" in printed
    assert "7 samples read: 0 errors in 0 samples, 7 warnings." in printed


def test_prompts_alone_are_no_failure(tmp_path, capsys):
    with ShardWriter(tmp_path / "set") as writer:
        writer.write(Sample(key="lone", messages=(Message("user", (Text("Hm?"),)),)))
    main([str(tmp_path / "set")])
    printed = capsys.readouterr().out
    assert "prompts alone: `mmalign sample` makes answers" in printed
    assert "0 of 1 samples usable, 0 rows; 1: fewer than two responses" in printed


def test_a_row_that_cannot_be_made_says_why_and_the_next_is_shown(rich, tiny_llava, capsys):
    main([str(rich), "--checkpoint", tiny_llava])
    printed = capsys.readouterr().out
    assert "000000.tar/broken, picture 0: the picture cannot be decoded" in printed
    assert "000000.tar/turns\n" in printed


def test_a_shard_that_is_gone_is_said_and_the_counts_are_there(shards, capsys):
    next(shards.glob("*.tar")).unlink()
    main([str(shards), "--limit", "0"])
    printed = capsys.readouterr().out
    assert "1 of 2 samples usable" in printed
    assert "2 of 2 samples cannot be read" in printed


def test_nobodys_text_reaches_the_terminal_as_a_command(hostile, tiny_llava, capsys):
    main([str(hostile), "--checkpoint", tiny_llava, "--validate", "false"])
    printed = capsys.readouterr().out
    assert "\x1b[31m" not in printed
    assert "\u202e" not in printed
    assert "<U+001B>[31m" in printed


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["world", "--problems", "p.jsonl"], "Give both, or neither"),
        (["world", "--html_samples", "0"], "leave `--html` out"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        main(options)


def test_shards_that_are_not_there_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such folder of shards"):
        main([str(tmp_path / "none")])


def test_the_page_is_written_whole(rich, tiny_llava, tmp_path, capsys):
    page = tmp_path / "new" / "page.html"
    main([str(rich), "--limit", "0", "--checkpoint", tiny_llava, "--html", str(page), "--html_samples", "3"])
    assert f"{page}: 3 of 4 samples, " in capsys.readouterr().out
    assert page.read_text().startswith("<!doctype html>")
    assert [path.name for path in page.parent.iterdir()] == ["page.html"]


@needs_shared
def test_a_real_photograph_is_read_and_shown(tmp_path, tiny_llava, capsys):
    photos = [path.read_bytes() for path in sorted((SHARED / "photos").glob("*.jpg"))]
    with ShardWriter(tmp_path / "set") as writer:
        for number, photo in enumerate(photos):
            question = (Message("user", (ImageSlot(), Text("What is unusual?"))),)
            answers = {"responses": (Response(text="This."), Response(text="That.")), "preference": Preference(0, 1)}
            writer.write(Sample(key=f"{number}", messages=question, images=(photo,), **answers))
    page = tmp_path / "page.html"
    main([str(tmp_path / "set"), "--checkpoint", tiny_llava, "--validate", "true", "--html", str(page)])
    assert "2 samples read: 0 errors in 0 samples, 0 warnings." in capsys.readouterr().out
    assert page.read_text().count("data:image/webp;base64,") == len(photos) == 2


def test_a_limit_below_zero_is_refused():
    """As a slice it would leave out the last rows."""
    with pytest.raises(ValueError, match="`--limit` must be 0 or more"):
        main(["world", "--limit", "-1"])
