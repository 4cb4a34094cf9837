"""Datasets of Hugging Face are read without decoding their pictures, at a known commit, or said to be out of reach."""

import sys

import datasets
import huggingface_hub
import pytest

from mmalign.data.importers.preferences import read_preferences
from mmalign.data.importers.sources import open_records


@pytest.fixture
def pairs(png):
    """A dataset as TRL wants it, with a list of pictures in each row."""
    features = datasets.Features(
        {
            "images": datasets.List(datasets.Image()),
            "prompt": datasets.Value("string"),
            "chosen": datasets.Value("string"),
            "rejected": datasets.Value("string"),
        }
    )
    rows = [
        {"images": [{"bytes": png("red"), "path": None}], "prompt": f"Q{n}", "chosen": "A", "rejected": "B"}
        for n in range(3)
    ]
    return datasets.Dataset.from_list(rows, features=features)


def test_a_saved_dataset_keeps_the_bytes_of_its_pictures(pairs, png, tmp_path, album):
    pairs.save_to_disk(tmp_path / "saved")
    records = open_records(str(tmp_path / "saved"))
    samples = list(read_preferences(records.rows, album, source="saved"))
    assert (records.total, [file.suffix for file in records.files]) == (3, [".arrow"])
    assert [sample.messages[0].content[1].text for sample in samples] == ["Q0", "Q1", "Q2"]
    assert all(sample.images == (png("red"),) for sample in samples)


def test_a_part_is_chosen_by_name(pairs, tmp_path):
    datasets.DatasetDict({"train": pairs, "test": pairs.select([2])}).save_to_disk(tmp_path / "saved")
    records = open_records(str(tmp_path / "saved"), split="test")
    assert [row.fields["prompt"] for row in records.rows] == ["Q2"]
    with pytest.raises(ValueError, match=r"no part 'dev'\. Choose one of train, test with `--split`"):
        open_records(str(tmp_path / "saved"), split="dev")


def test_a_damaged_dataset_is_an_error(pairs, tmp_path):
    pairs.save_to_disk(tmp_path / "saved")
    (tmp_path / "saved/state.json").write_text("{")
    with pytest.raises(ValueError, match="no whole dataset of `save_to_disk`"):
        open_records(str(tmp_path / "saved"))


class Hub:
    """Stands in for the hub's API."""

    def dataset_info(self, name):
        return huggingface_hub.DatasetInfo(
            id=name, sha="abc123", disabled=False, private=False, downloads=0, likes=0, tags=[]
        )


def test_a_published_dataset_is_streamed_at_its_commit(pairs, png, monkeypatch, album):
    asked = {}

    def load_dataset(name, **options):
        asked.update(options, name=name)
        return pairs.to_iterable_dataset()

    monkeypatch.setattr(huggingface_hub, "HfApi", Hub)
    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    records = open_records("owner/pairs", split="train")
    samples = list(read_preferences(records.rows, album, source="pairs"))
    assert asked == {"name": "owner/pairs", "split": "train", "revision": "abc123", "streaming": True}
    assert (records.revision, records.files) == ("abc123", ())
    assert [sample.images for sample in samples] == [(png("red"),)] * 3


def test_an_unreachable_hub_says_what_to_do(monkeypatch):
    nowhere = huggingface_hub.HfApi(endpoint="http://127.0.0.1:9")  # nobody listens: what its HTTP library raises
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: nowhere)
    with pytest.raises(ValueError, match=r"owner/pairs: nothing of that name lies here.*Connect.*give their"):
        open_records("owner/pairs")


def test_without_the_extra_the_error_names_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ValueError, match=r"pip install 'mmalign\[hub\]'.*or give the dataset's parquet files"):
        open_records("owner/pairs")
