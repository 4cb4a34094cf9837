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
    assert "refused: longer than max_length" in capsys.readouterr().out
    main(["--shards", str(shards), "--limit", "0"])
    assert "000000.tar/" not in capsys.readouterr().out
