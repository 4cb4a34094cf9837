"""`mmalign inspect`: counts first, then rows with the trained tokens told apart."""

import io

import pytest
from PIL import Image

from mmalign.data.sample import Preference, Response, Sample
from mmalign.data.shards import ShardWriter
from mmalign.messages import ImageSlot, Message, Text
from mmalign.tools.inspect_rows import main


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
    main(["--shards", str(shards), "--checkpoint", tiny_llava, "--verify", "true"])
    printed = capsys.readouterr().out
    assert "1 shards" in printed
    assert "1 of 2 samples usable, 1 rows; 1: fewer than two responses" in printed
    assert "Every shard hashes to what the manifest says." in printed
    assert "000000.tar/pair" in printed
    assert "USER: [image x16]\nWhat is this? ASSISTANT:" in printed
    assert "trained tokens: A red square.</s>" in printed
    assert "rejected, " in printed


def test_another_view_and_a_cut_are_shown(shards, tiny_llava, capsys):
    main(["--shards", str(shards), "--checkpoint", tiny_llava, "--view", "Prompts"])
    printed = capsys.readouterr().out
    assert "2 of 2 samples usable" in printed
    assert "trained tokens" not in printed
    main(["--shards", str(shards), "--checkpoint", tiny_llava, "--max_length", "10"])
    assert "a stand-in takes its place: 000000.tar/pair: " in capsys.readouterr().out
    main(["--shards", str(shards), "--limit", "0"])
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
    main(["--limit", "2", "--view", *options])
    printed = capsys.readouterr().out
    assert [each for each in words if each not in printed] == []


def test_a_row_without_a_picture_to_change_counts_nothing(tmp_path, tiny_llava, capsys):
    answers = (Response(text="Yes."), Response(text="No."))
    with ShardWriter(tmp_path / "set") as writer:
        question = (Message("user", (Text("Hm?"),)),)
        writer.write(Sample(key="text", messages=question, responses=answers, preference=Preference(0, 1)))
    options = ["--shards", str(tmp_path / "set"), "--checkpoint", tiny_llava]
    main([*options, "--view", "ImagePairs", "--view.variant", "DiffusionNoise"])
    assert "counts nothing, there is no picture to change" in capsys.readouterr().out
