"""Stores: what is read is what was written for exactly this prompt and answer, or an error that names it."""

import json
import multiprocessing
import os
import pickle
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest

from mmalign.data.manifest import Entry
from mmalign.data.missing import choose_folder, store_folders
from mmalign.data.reader import ShardSet
from mmalign.data.rowset import Source, mismatched_answers
from mmalign.data.store import (
    KEY_FILE,
    Origin,
    ReferenceStore,
    ScoreFile,
    Scores,
    StoreError,
    StoreKey,
    answer_hash,
    file_of,
    origins,
    prompt_hash,
    write_key,
    write_scores,
)
from mmalign.messages import Message, Text

KEY = StoreKey(
    base="sha256 1",
    adapter="",
    template="vicuna_v1 7a",
    processor="9c",
    precision="float32 weights, 32-true",
    max_length=400,
)


def scores_of(sample, number):
    """Values that tell sample, answer and token: 7.25 is token 0 of answer 2 of sample 7."""
    answers = tuple(answer_hash(response.text) for response in sample.responses)
    logps = tuple(np.float32(-number - k / 8 - np.arange(k + 1) / 64) for k in range(len(answers)))
    return Scores(sample.key, prompt_hash(sample.messages, sample.images), answers, logps)


@pytest.fixture
def shard_set(mixed_set):
    """18 samples in 5 shards."""
    return ShardSet(str(mixed_set))


@pytest.fixture
def store(shard_set, tmp_path):
    """A store of all of them."""
    manifest, first = shard_set.manifest, 0
    for record in manifest.shards:
        found = [scores_of(shard_set[n], n) for n in range(first, first + record.samples)]
        write_scores(file_of(tmp_path, record.name), found, Origin(record.sha256))
        first += record.samples
    return ReferenceStore.of(tmp_path, manifest)


def read(store, shard_set, number, **changes):
    sample = shard_set[number]
    asked = {
        "messages": sample.messages,
        "images": sample.images,
        "answers": [r.text for r in sample.responses],
        "where": f"set/{sample.key}",
    }
    return store.logps(number, **(asked | changes))


def test_every_answer_of_every_sample_comes_back(store, shard_set):
    for number in range(len(shard_set)):
        found, expected = read(store, shard_set, number), scores_of(shard_set[number], number).logps
        assert [values.tolist() for values in found] == [values.tolist() for values in expected]


def test_answers_are_found_by_text_in_any_order_and_number(store, shard_set):
    texts = [response.text for response in shard_set[7].responses]
    found = read(store, shard_set, 7, answers=[texts[3], texts[0], texts[3]])
    assert [values[0] for values in found] == [-7.375, -7.0, -7.375]


def test_values_are_the_readers_own(store, shard_set):
    """A batch may be changed in place; the mapped file may not."""
    read(store, shard_set, 3)[0][:] = 5.0
    assert read(store, shard_set, 3)[0][0] == -3.0


def test_another_prompt_is_refused_by_name(store, shard_set):
    with pytest.raises(StoreError, match=r"set/s004: .*000001\.tar\.arrow were computed for another prompt.*reference"):
        read(store, shard_set, 4, messages=(Message("user", (Text("Something else?"),)),))


def test_one_other_bit_of_a_picture_is_refused(store, shard_set):
    image = shard_set[0].images[0]
    changed = image[:-1] + bytes([image[-1] ^ 1])
    with pytest.raises(StoreError, match="another prompt"):
        read(store, shard_set, 0, images=(changed,))


def test_an_unknown_answer_is_refused_by_name(store, shard_set):
    with pytest.raises(StoreError, match=r"set/s005: no reference log-probabilities of the answer 'Quite new\.'"):
        read(store, shard_set, 5, answers=["Quite new."])


def test_two_pictures_in_another_order_are_another_prompt():
    assert prompt_hash((), (b"a", b"b")) != prompt_hash((), (b"b", b"a")) != prompt_hash((), (b"ba",))


def test_a_prompt_without_room_has_answers_without_tokens(shard_set, tmp_path):
    """The encoder then refuses the row by itself; anything longer it would take for stale."""
    sample = shard_set[0]
    nothing = Scores(sample.key, prompt_hash(sample.messages, sample.images), (), ())
    record = shard_set.manifest.shards[0]
    rest = [scores_of(shard_set[n], n) for n in range(1, record.samples)]
    write_scores(file_of(tmp_path, record.name), [nothing, *rest], Origin(record.sha256))
    store = ReferenceStore.of(tmp_path, shard_set.manifest)
    assert [len(values) for values in read(store, shard_set, 0)] == [0, 0, 0, 0]


def test_a_file_of_other_bytes_of_the_shard_is_refused(store, shard_set):
    name = shard_set.manifest.shards[0].name
    write_scores(file_of(store.folder, name), [scores_of(shard_set[n], n) for n in range(4)], Origin("0" * 64))
    with pytest.raises(StoreError, match=r"made from other bytes of the shard 000000\.tar.*mmalign reference"):
        read(store, shard_set, 0)


def test_a_file_that_is_gone_is_told(store, shard_set):
    file_of(store.folder, "000000.tar").unlink()
    with pytest.raises(StoreError, match=r"000000\.tar\.arrow: .* is gone"):
        read(store, shard_set, 0)


@pytest.mark.parametrize("kept", [0, 5, 300, -1])
def test_a_cut_file_is_told(store, kept):
    path = file_of(store.folder, "000000.tar")
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(StoreError, match="not a whole file of a reference store"):
        ScoreFile(path)


def test_one_wrong_bit_anywhere_in_the_values_is_found(store):
    path = file_of(store.folder, "000000.tar")
    data = bytearray(path.read_bytes())
    at = data.index(np.float32(-1.125).tobytes())  # sample 1, answer 1, token 0
    ScoreFile(path).verify()
    data[at] ^= 1
    path.write_bytes(data)
    with pytest.raises(StoreError, match=r"000000\.tar\.arrow: damaged"):
        ScoreFile(path).verify()


def test_every_part_of_a_key_makes_another_store():
    changed = [replace(KEY, **{f.name: 7 if f.name == "max_length" else "other"}) for f in fields(KEY)]
    assert len({key.digest for key in (KEY, *changed)}) == 1 + len(fields(KEY))


def total(store, number):
    """Of all values of a sample; the shards hold four each."""
    return float(sum(values.sum() for values in store._file(number // 4)[number % 4].logps))


def test_many_processes_read_one_store(store):
    """As loader workers do, from files that were mapped before and after they began."""
    expected = [total(store, 0)]
    with multiprocessing.get_context("fork").Pool(4) as pool:
        found = pool.starmap(total, [(store, number) for number in range(18)] * 4)
    expected += [total(store, number) for number in range(1, 18)]
    assert found == expected * 4


def test_a_store_travels_without_its_files(store):
    """To spawned workers, which map them again."""
    assert total(store, 5) == total(pickle.loads(pickle.dumps(store)), 5)
    assert not pickle.loads(pickle.dumps(store))._files


def test_a_store_lies_beside_its_shards_with_its_key(shard_set, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folders = store_folders(shard_set.manifest, KEY)
    assert folders[0] == shard_set.manifest.folder / "reference" / KEY.digest
    folder = choose_folder([tmp_path / "a" / "b"])
    write_key(folder, KEY)
    assert json.loads((folder / KEY_FILE).read_text())["max_length"] == 400


def test_shipped_and_remote_sets_have_their_stores_in_the_cache(shard_set, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    world = ShardSet(Source(path="world-heldout").resolve()).manifest
    shard_set.manifest.location = "https://host/set"
    for manifest in (world, shard_set.manifest):
        cached = tmp_path / "cache/mmalign/reference" / manifest.hash[:32] / KEY.digest
        assert store_folders(manifest, KEY) == (cached,)


def test_a_folder_that_cannot_be_written_is_passed_over(tmp_path, monkeypatch):
    """A read-only one, by its flags (root may write anyway); and one whose parent is no folder."""
    (tmp_path / "file").touch()
    locked, fine = tmp_path / "locked", tmp_path / "fine"
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != locked and access(path, mode))
    assert choose_folder([tmp_path / "file" / "store", locked, fine]) == fine
    with pytest.raises(StoreError, match=r"none of .*locked can be written to.*XDG_CACHE_HOME"):
        choose_folder([tmp_path / "file" / "store", locked])


def test_a_file_serves_those_who_want_no_more_than_it_has():
    assert Origin("a", "x").serves(Origin("a"))
    assert Origin("a", "x").serves(Origin("a", "x"))
    assert not Origin("a").serves(Origin("a", "x"))
    assert not Origin("a", "y").serves(Origin("a", "x"))
    assert not Origin("b", "x").serves(Origin("a", "x"))


def test_other_prompts_answers_belong_to_the_origin_of_their_shard_alone(shard_set):
    others = [(n + 1) % 18 for n in range(18)]
    before = origins(shard_set.manifest, [(n, 0) for n in others])
    after = origins(shard_set.manifest, [(n, 0) for n in others[:-1]] + [(0, 1)])
    assert [a == b for a, b in zip(before, after, strict=True)] == [True, True, True, True, False]
    assert origins(shard_set.manifest, None) == [Origin(shard.sha256) for shard in shard_set.manifest.shards]


def test_a_mismatched_answer_is_the_next_that_is_neither_empty_nor_ones_own():
    """a: own x, next b repeats x and is then empty, so c's; d wraps around to a; answers x y z."""
    entries = [
        Entry(key="a", answers=("x",), lengths=(1,)),
        Entry(key="b", answers=("x", "e"), lengths=(1, 0)),
        Entry(key="c", answers=("y", "z"), lengths=(1, 1)),
        Entry(key="d", answers=("y",), lengths=(1,)),
    ]
    assert mismatched_answers(entries) == [(2, 0), (2, 0), (0, 0), (0, 0)]
    assert mismatched_answers(entries[:2]) == [None, None]
