"""Data that the project did not make: crowd-written NLVR sentences, and real photos, from import to training.

Read in place, beside the checkout; skipped where it is absent. Serving real photos: tests/serve/test_photos.py.
"""

import csv
import json
from dataclasses import replace
from pathlib import Path

import pytest

from mmalign import cli
from mmalign.data.reader import ShardSet
from mmalign.data.sample import Response
from mmalign.data.shards import ShardWriter

SHARED = Path(__file__).parents[2] / "shared" / "data"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not SHARED.is_dir(), reason="the real data is not beside this checkout"),
]


def test_nlvr_from_labels_to_held_out_preference_accuracy(fit_into, tiny_llava, tmp_path):
    """Imported, turned into pairs by its labels, trained on, and scored before and after with intervals."""
    cli.main(["import", "nlvr", str(SHARED / "nlvr/dev"), "--out", str(tmp_path / "nlvr")])
    train, heldout = (tmp_path / "nlvr" / part for part in ("train", "heldout"))
    assert len(ShardSet(str(train))) + len(ShardSet(str(heldout))) == 989
    run = tmp_path / "run"
    fit_into(run, f"--data.shards={train}", f"--data.val_shards={heldout}", "--trainer.max_steps=3")
    cli.main(["export", "--run", str(run), "--out", str(run / "adapter")])
    options = ["--checkpoint", tiny_llava, "--adapter", str(run / "adapter"), "--out", str(tmp_path / "scores")]
    cli.main(["evaluate", "--suite", "preferences", "--shards", str(heldout), *options])
    scores = json.loads((tmp_path / "scores" / "scores.json").read_text())
    assert str(len(ShardSet(str(heldout)))) in json.dumps(scores)


def test_real_photos_become_training_rows(fit_into, tmp_path, capsys):
    """Every photo that is there, of whatever size and orientation, goes through import and an optimizer step."""
    questions = str(SHARED / "photos/describe_questions.jsonl")
    cli.main(["import", "questions", questions, "--out", str(tmp_path / "photos")])
    told = capsys.readouterr().out
    assert "30 records: 25 imported, 5 skipped" in told
    photos = ShardSet(str(tmp_path / "photos"))
    good, bad = (
        Response(text=text, ratings={"helpfulness": score, "correctness": score, "coherence": 4})
        for text, score in (("A photo of something real.", 4), ("Nothing.", 0))
    )
    with ShardWriter(tmp_path / "pairs") as writer:
        for index in range(len(photos)):
            writer.write(replace(photos[index], responses=(good, bad)))
    fit_into(tmp_path / "run", f"--data.shards={tmp_path / 'pairs'}", "--data.val_shards=", "--trainer.max_epochs=1")
    with (tmp_path / "run/logs/version_0/metrics.csv").open() as file:
        losses = [row["train/loss"] for row in csv.DictReader(file) if row["train/loss"]]
    assert len(losses) == 4  # 25 photos in steps of 8
