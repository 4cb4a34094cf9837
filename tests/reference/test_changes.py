"""The reference pass computes once: later only what has changed, or nothing."""

import shutil
from dataclasses import replace

import pytest
from scoring import Pass, rows_of, trained, values_of, write

from mmalign.data.reader import ShardSet
from mmalign.data.rowset import RowSet, Source
from mmalign.data.sample import Preference, Response
from mmalign.data.store import ReferenceStore, StoreError
from mmalign.data.views import Pairs, Unpaired
from mmalign.fingerprints import store_keys
from mmalign.messages import Message, Text
from mmalign.processor import load_processor
from mmalign.template import Template


def test_a_second_pass_and_other_pairs_do_no_forward(computing, shards):
    rows = rows_of(shards, Pairs(), computing(shards))
    assert computing.forwards == 7  # blocks of 5, 5 and 2 samples, two at a time
    store = computing(shards)
    assert computing.forwards == 0
    again = rows_of(shards, Pairs(rejected="worst", margin=1.0, seed=7), store)
    texts = [{a.text: a.reference_logps[0].tolist() for a in each[0][0].answers} for each in (rows, again)]
    assert all(texts[0].get(text, values) == values for text, values in texts[1].items())


def test_new_ratings_and_preferences_cost_no_forward(computing, shards, samples):
    before = values_of(computing(shards))
    judged = [replace(s, responses=s.responses[::-1], preference=Preference(2, 3), source="judged") for s in samples]
    store = computing(write(shards, judged))
    assert computing.forwards == 0
    after = values_of(store)
    assert before.keys() == after.keys()
    assert all((before[name] == after[name]).all() for name in before)
    rows_of(shards, Pairs(), store)[0]


def changed_answer(sample):
    return replace(sample, responses=(Response(text="Another."), *sample.responses[1:]))


def changed_prompt(sample):
    return replace(sample, messages=(Message("user", (*sample.messages[0].content, Text("!"))),))


def changed_picture(sample):
    return replace(sample, images=(sample.images[0] + b"\0",))


@pytest.mark.parametrize(
    ("change", "scored"),
    [(changed_answer, 1), (changed_prompt, 2), (changed_picture, 2)],
    ids=["answer", "text", "bit"],
)
def test_only_what_changed_is_computed(computing, shards, samples, change, scored):
    """An answer by itself; behind a changed prompt both answers. It then equals a store made from nothing."""
    before = computing(shards)
    write(shards, [change(samples[0]), *samples[1:]])
    with pytest.raises(StoreError, match="made from other bytes"):
        rows_of(shards, Pairs(), ReferenceStore.of(before.folder, ShardSet(str(shards)).manifest))[0]
    found = values_of(computing(shards))
    assert (set(computing.keys), computing.answers) == ({"000000.tar/s00"}, scored)
    shutil.rmtree(before.folder)
    expected = values_of(computing(shards))
    assert found.keys() == expected.keys()
    assert all(found[name] == pytest.approx(expected[name], abs=1e-5) for name in expected)


def test_another_adapter_template_limit_or_precision_is_another_store(
    computing, llava, settings, tiny_llava, shards, tmp_path
):
    llava.save(tmp_path / "adapter")
    trained(settings, seed=1).save(tmp_path / "other")
    plain = computing(shards)
    folders = {plain.folder}
    for name in ("adapter", "other"):
        folders.add(computing(shards, str(tmp_path / name)).folder)
        assert computing.forwards == 7
    sentence = Template(load_processor(tiny_llava), "vicuna_v1")
    cropped = Template(load_processor(tiny_llava, pad_images=False), "llava_hf")
    for other in (
        Pass(llava, settings, sentence),
        Pass(llava, settings, cropped),
        Pass(llava, settings, computing.template, max_length=399),
        Pass(llava, replace(settings, dtype="bfloat16"), computing.template),
    ):
        folders.add(other(shards).folder)
        assert other.forwards == 7
    assert len(folders) == 7
    assert computing(shards).folder == plain.folder
    assert computing.forwards == 0


def test_changed_weights_of_a_base_are_another_key(settings, template, tiny_llava, tmp_path):
    folder = shutil.copytree(tiny_llava, tmp_path / "base")
    at = replace(settings, checkpoint=str(folder))
    first = store_keys(at, [""], template, precision="32-true", max_length=400)[""]
    assert first == store_keys(settings, [""], template, precision="32-true", max_length=400)[""]
    weights = folder / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    second = store_keys(at, [""], template, precision="32-true", max_length=400)[""]
    assert first.base != second.base
    assert replace(second, base=first.base) == first


def test_mismatched_answers_come_on_top_and_cost_themselves_alone(computing, shards):
    """DPO's store serves KTO but for the mismatched answers; KTO's then serves DPO."""
    computing(shards)
    others = RowSet([Source(path=str(shards))], Unpaired(good_min=11.0, bad_max=10.0)).mismatched[0]
    store = computing(shards, others=others)
    assert computing.answers == 12
    assert len(values_of(store)) == 36
    computing(shards)
    assert computing.forwards == 0


def test_a_mismatched_answer_that_changed_in_the_next_shard_is_computed(computing, shards, samples):
    """The last sample of the first shard has that of the first sample of the second."""
    view = Unpaired(good_min=11.0, bad_max=10.0)
    computing(shards, others=RowSet([Source(path=str(shards))], view).mismatched[0])
    write(shards, [*samples[:5], changed_answer(samples[5]), *samples[6:]])
    rows = RowSet([Source(path=str(shards))], view)
    store = computing(shards, others=rows.mismatched[0])
    assert sorted(computing.keys) == ["000000.tar/s04", "000001.tar/s05"]
    rows.attach([{"": [store]}])
    assert all(rows[number] for number in range(len(rows)))
