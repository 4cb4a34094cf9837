"""Small shard sets, made by the tests themselves."""

import io
import json

import pytest
from PIL import Image

from mmalign.data.collate import Collator
from mmalign.data.loader import EncodedRows, FixedLoader, Share
from mmalign.data.quarantine import Quarantine
from mmalign.data.rows import RowEncoder
from mmalign.data.rowset import RowSet, Source
from mmalign.data.sample import Response, Sample
from mmalign.data.shards import ShardWriter
from mmalign.data.views import Pairs
from mmalign.messages import ImageSlot, Message, Text
from mmalign.processor import load_processor
from mmalign.template import Template

MIXED = ((1, 1), (0, 1), (2, 1), (1, 2), (0, 3), (3, 2))
"""(images, turns): text-only, several images, several turns."""


def _picture(number=0, kind="PNG"):
    buffer = io.BytesIO()
    Image.new("RGB", (24, 16), (number % 256, 40, 200)).save(buffer, kind)
    return buffer.getvalue()


def _rated(text, total):
    ratings = {"helpfulness": min(total, 4), "correctness": min(max(total - 4, 0), 4), "coherence": max(total - 8, 0)}
    return Response(text=text, model="tiny", ratings=ratings | {"complexity": 1, "verbosity": 2})


def _make_sample(number, *, images=1, turns=1, totals=(12, 9, 11, 10)):
    first = Message("user", (*(ImageSlot() for _ in range(images)), Text(f"What is number {number}?")))
    turn = (Message("assistant", (Text("One."),)), Message("user", (Text("And?"),)))
    return Sample(
        key=f"s{number:03d}",
        messages=(first, *(turn * (turns - 1))),
        images=tuple(_picture(number + i) for i in range(images)),
        responses=tuple(_rated(f"Answer {i} to {number}.", total) for i, total in enumerate(totals)),
        source="test",
        id=f"id-{number}",
    )


def _write_set(folder, samples, *, max_samples=4):
    with ShardWriter(folder, max_samples=max_samples) as writer:
        for sample in samples:
            writer.write(sample)
    return folder


@pytest.fixture(scope="session")
def picture():
    """`picture(number, kind)`: encoded bytes of a picture whose colour tells its number."""
    return _picture


@pytest.fixture(scope="session")
def make_sample():
    """`make_sample(number, images=1, turns=1, totals=...)`: a sample with a rated response for each total."""
    return _make_sample


@pytest.fixture(scope="session")
def write_set():
    """`write_set(folder, samples, max_samples=4)`: the folder, with their shards."""
    return _write_set


@pytest.fixture(scope="session")
def mixed_set(tmp_path_factory):
    """18 samples in 5 shards: text-only, several images and several turns among one another."""
    samples = [_make_sample(n, images=MIXED[n % 6][0], turns=MIXED[n % 6][1]) for n in range(18)]
    return _write_set(tmp_path_factory.mktemp("sets") / "mixed", samples)


@pytest.fixture(scope="session")
def template(tiny_llava):
    return Template(load_processor(tiny_llava))


@pytest.fixture(scope="session")
def encoder(template):
    return RowEncoder(template, max_length=400)


@pytest.fixture(scope="session")
def collator(template):
    return Collator(pad_token_id=template.tokenizer.pad_token_id)


@pytest.fixture
def quarantined(tmp_path, encoder, collator):
    """`quarantined(folder, view=Pairs(), num_workers=0)`: weight of every row by its key, and the quarantine's list."""

    def read(folder, *, view=None, num_workers=0):
        rows = RowSet([Source(path=str(folder))], view or Pairs())
        listed = tmp_path / "run" / "quarantine.jsonl"
        loader = FixedLoader(
            EncodedRows(rows, encoder, "quarantine"),
            collator,
            Share(batch_size=2, micro_batch_size=2),
            num_workers=num_workers,
            quarantine=Quarantine(listed, frozenset({str(folder)}), rows=len(rows), share=1.0),
        )
        weights = {}
        for batch in loader:
            for key, weight in zip(batch.keys, batch.row_weights.tolist(), strict=True):
                weights.setdefault(key.split("/")[1], weight)
        return weights, [json.loads(line) for line in listed.read_text().splitlines()] if listed.exists() else []

    return read
