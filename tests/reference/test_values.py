"""The reference pass: what is read in training is what the frozen model says."""

import shutil
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

import pytest
import torch
from scoring import Pass, rows_of, values_of, write

from mmalign.batch import Role
from mmalign.data import unscored
from mmalign.data.rows import RowEncoder
from mmalign.data.rowset import RowSet, Source
from mmalign.data.store import StoreError
from mmalign.data.variants import RandomCrop
from mmalign.data.views import ImagePairs, Pairs, Unpaired
from mmalign.logps import token_logps
from mmalign.reference import frozen


@pytest.mark.parametrize("view", [Pairs(), Unpaired(good_min=11.0, bad_max=10.0)], ids=["pairs", "unpaired"])
def test_stored_equals_live(computing, template, shards, llava, view):
    """To 1e-6 a token, whatever else stands in the row and the batch: pictures, texts, mismatched answers."""
    rows = RowSet([Source(path=str(shards))], view)
    rows.attach([{"": [computing(shards, others=rows.mismatched[0])]}])
    encoder = RowEncoder(template, max_length=400)
    batch = computing.computing.collator([encoder(row) for n in range(len(rows)) for row in rows[n]])
    with frozen(llava, "", partial(token_logps, llava)) as score:
        live = score(batch)
    assert batch.reference_logps.shape == (1, len(batch.targets))
    assert (Role.MISMATCHED in batch.roles.tolist()) == (Role.MISMATCHED in view.roles)
    torch.testing.assert_close(batch.reference_logps[0], live, atol=1e-6, rtol=1e-6)
    with torch.no_grad():
        assert (token_logps(llava, batch) - live).abs().max() > 0.1  # the policy says something else


def test_each_text_is_scored_once_behind_one_prompt_and_empty_ones_never(computing, shards, samples):
    store = computing(shards)
    assert sorted(computing.keys) == sorted(f"{n // 5:06d}.tar/{s.key}" for n, s in enumerate(samples))
    assert computing.answers == len(values_of(store)) == 24


def test_an_adapter_is_the_reference_that_it_is_by_itself(computing, llava, shards, tmp_path):
    """Base + adapter, whatever the policy has become meanwhile."""
    llava.save(tmp_path / "adapter")
    batch, scores = None, computing(shards, str(tmp_path / "adapter"))
    rows = RowSet([Source(path=str(shards))], Pairs())
    rows.attach([{"": [computing(shards), scores]}])
    encoder = RowEncoder(computing.template, max_length=400)
    batch = computing.computing.collator([encoder(row) for n in range(len(rows)) for row in rows[n]])
    llava.eval()
    with torch.no_grad():
        policy = token_logps(llava, batch)
    llava.train()
    torch.testing.assert_close(batch.reference_logps[1], policy, atol=1e-6, rtol=1e-6)
    assert (batch.reference_logps[0] - policy).abs().max() > 0.1


def test_a_changed_picture_has_a_store_of_its_own(computing, template, shards, llava):
    """mDPO's further row: the chosen answer behind a crop, to 1e-6 what the model says of it."""
    view = ImagePairs(variant=RandomCrop(max_area=0.2))
    rows = RowSet([Source(path=str(shards))], view)
    names = {"" if variant is None else repr(variant): variant for variant in rows.variants}
    rows.attach([{name: [computing(shards, variant=variant)] for name, variant in names.items()}])
    encoder = RowEncoder(template, max_length=400)
    batch = computing.computing.collator([row for n in range(len(rows)) for row in encoder.group(rows[n])])
    assert Role.OTHER_IMAGE in batch.roles.tolist()
    with frozen(llava, "", partial(token_logps, llava)) as score:
        torch.testing.assert_close(batch.reference_logps[0], score(batch), atol=1e-6, rtol=1e-6)


def test_cut_answers_have_the_values_of_their_tokens_and_prompts_without_room_none(
    llava, settings, template, shards, samples
):
    """Cut at the limit of the store: 6 tokens behind one picture; where two are, the encoder refuses the row."""
    whole = values_of(Pass(llava, settings, template)(shards))
    prompt = max(len(template.encode_prompt(sample.messages)) for sample in samples if len(sample.images) == 1)
    computing = Pass(llava, settings, template, max_length=prompt + 6)
    rows = rows_of(shards, Pairs(), computing(shards))
    cut = values_of(computing(shards))
    assert len(cut) == len(whole) * 2 / 3
    assert all(whole[name][: len(values)] == pytest.approx(values, abs=1e-5) for name, values in cut.items())
    assert min(len(values) for values in cut.values()) == 6
    encoder = RowEncoder(template, max_length=computing.max_length, overlong="truncate")
    encoded = [encoder(row) for n in range(len(rows)) for row in rows[n]]
    assert sum(bool(row.refusal) for row in encoded) == 4
    assert any(answer.truncated for row in encoded for answer in row.answers)


def test_more_answers_than_a_row_should_hold_get_more_rows(computing, shards, monkeypatch):
    usual = values_of(computing(shards))
    shutil.rmtree(shards / "reference")
    monkeypatch.setattr(unscored, "ROW_TOKENS", 1)
    found = values_of(computing(shards))
    assert len(computing.keys) == computing.answers == 24
    assert all(found[name] == pytest.approx(usual[name], abs=1e-5) for name in usual)


def test_random_state_modes_and_weights_are_what_they_were(computing, llava, shards, tmp_path):
    """So that a run trains the same whether the store was there or not."""
    llava.save(tmp_path / "adapter")
    llava.base.model.vision_tower.eval()
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    before = {name: p.detach().clone() for name, p in llava.named_parameters()}
    modes, trainable = [m.training for m in llava.modules()], llava.trainable_names()
    for adapter in ("", str(tmp_path / "adapter")):
        computing(shards, adapter)
        assert computing.forwards
    assert torch.equal(torch.rand(3), expected)
    assert [m.training for m in llava.modules()] == modes
    assert llava.trainable_names() == trainable
    assert before.keys() == dict(llava.named_parameters()).keys()
    assert all(torch.equal(before[name], p) for name, p in llava.named_parameters())
    llava.train()


def test_a_sample_that_cannot_be_scored_stops_those_only_that_use_it(computing, shards, samples, caplog):
    """A broken picture: named, its place left empty, refused by the encoder; mended, it alone is computed."""
    broken = replace(samples[3], images=(samples[3].images[0][:60],))
    store = computing(write(shards, [*samples[:3], broken, *samples[4:]]))
    assert "Not scored: 000000.tar/s03, picture 0: the picture cannot be decoded" in caplog.text
    assert len(values_of(store)) == 22
    rows = rows_of(shards, Pairs(), store)
    encoder = RowEncoder(computing.template, max_length=400)
    assert all(encoder(rows[number][0]) for number in (2, 4))
    with pytest.raises(ValueError, match=r"s03, picture 0: the picture cannot be decoded"):
        encoder(rows[3][0])
    computing(write(shards, samples))
    assert computing.keys == ["000000.tar/s03"]


@pytest.mark.parametrize("bad", [float("nan"), float("-inf")])
def test_a_value_that_is_no_number_is_an_error_that_names_the_sample(computing, shards, bad):
    @contextmanager
    def broken(adapter=""):
        yield lambda batch: torch.where(batch.response_index == 1, bad, -1.0)

    computing.model = broken
    with pytest.raises(StoreError, match=r"000000\.tar/s\d\d: a reference log-probability .* not a finite number"):
        computing(shards)
    assert not list((shards / "reference").glob("*/*.arrow"))
