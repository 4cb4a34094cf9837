"""Datasets of Hugging Face: saved by `save_to_disk`, or published on the hub. Needs the extra `hub`.

    open_saved(Path("saved"), "train")                       -> <records>, 2000
    open_published("openbmb/RLHF-V-Dataset", "train")        -> <records>, 5733, "5b59b49cea78..."

Pictures stay encoded (`{"bytes": ..., "path": ...}`), so they can be copied. A published dataset is streamed, at the
commit that its name leads to now. Datasets that come as a script are refused: nothing of them is ever executed.

Tests   tests/data/importers/test_hub.py
"""

import importlib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

ROWS_AT_ONCE = 64
"""Rows that are in memory together, each perhaps with a picture."""


def open_saved(folder: Path, split: str) -> tuple[Iterator[object], int]:
    """Records and number of a dataset that `save_to_disk` wrote.

    Args:
        folder: With `dataset_info.json`, or with `dataset_dict.json` and a folder for each part.
        split: Which part, where there are several.

    Raises:
        ValueError: No such part, a damaged dataset, or the extra `hub` is not installed.
    """
    datasets = _library(str(folder))
    try:
        data = datasets.load_from_disk(str(folder))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{folder} is no whole dataset of `save_to_disk`: {error}. Save it anew.") from error
    if isinstance(data, datasets.DatasetDict):
        if split not in data:
            raise ValueError(f"{folder} has no part {split!r}. Choose one of {', '.join(data)} with `--split`.")
        data = data[split]
    return _encoded(data), len(data)


def open_published(name: str, split: str) -> tuple[Iterator[object], int | None, str]:
    """Records, number (None where the hub does not say) and commit of a dataset of the hub.

    Args:
        name: `owner/name`.
        split: Which part.

    Raises:
        ValueError: It cannot be had, or the extra `hub` is not installed.
    """
    datasets = _library(name)
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]  # of whichever HTTP library it uses

    try:
        commit = HfApi().dataset_info(name).sha or ""
        data = datasets.load_dataset(name, split=split, revision=commit or None, streaming=True)
    except (OSError, ValueError, RuntimeError, HTTPError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise ValueError(
            f"{name}: nothing of that name lies here, and the hub does not give it ({type(error).__name__}: {reason}). "
            "Check name, network and rights (`hf auth login`), or download its files and give their folder."
        ) from error
    parts = data.info.splits or {}
    return _encoded(data), parts[split].num_examples if split in parts else None, commit


def _encoded(data: Any) -> Iterator[object]:
    """Rows as they are stored: pictures as bytes, not decoded."""
    for table in data.with_format("arrow").iter(batch_size=ROWS_AT_ONCE):
        yield from table.to_pylist()


def _library(wanted: str) -> ModuleType:
    try:
        return importlib.import_module("datasets")  # an extra, and without types
    except ImportError as error:
        raise ValueError(
            f"{wanted} is a dataset of Hugging Face, which is read by the library `datasets`. Install it with "
            "`pip install 'mmalign[hub]'`, or give the dataset's parquet files."
        ) from error
