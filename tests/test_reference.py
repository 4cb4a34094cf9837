"""The reference pass: what is read in training is what the frozen model says, computed once."""

import copy
import shutil
import threading
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch

from mmalign import reference
from mmalign.backbone import BackboneSettings, Llava
from mmalign.batch import Role
from mmalign.data import missing, unscored
from mmalign.data.collate import Collator
from mmalign.data.reader import ShardSet
from mmalign.data.rows import RowEncoder
from mmalign.data.rowset import RowSet, Source
from mmalign.data.sample import Preference, Response, Sample
from mmalign.data.shards import ShardWriter
from mmalign.data.store import ReferenceStore, ScoreFile, StoreError
from mmalign.data.variants import RandomCrop
from mmalign.data.views import ImagePairs, Pairs, Unpaired
from mmalign.fingerprints import store_keys
from mmalign.logps import token_logps
from mmalign.messages import ImageSlot, Message, Text
from mmalign.processor import load_processor
from mmalign.reference import Ranks, References, frozen
from mmalign.template import Template


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """Nothing of these tests reaches the user's cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def template(tiny_llava):
    return Template(load_processor(tiny_llava), "llava_hf")


@pytest.fixture(scope="module")
def settings(tiny_llava):
    return BackboneSettings(checkpoint=tiny_llava, template="llava_hf", dtype="float32", lora_rank=4, lora_dropout=0.3)


def trained(settings, seed=0):
    """A model in training mode whose adapters do something: with them, every log-probability is another."""
    torch.manual_seed(seed)
    llava = Llava(settings)
    for name, parameter in llava.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(std=0.3)
    return llava


@pytest.fixture(scope="module")
def llava(settings):
    return trained(settings)


@pytest.fixture(scope="module")
def samples(png):
    """12 samples of one, no or two pictures; four answers each: two repeat one another, one is empty."""
    made = []
    for number in range(12):
        colors = (("red",), (), ("blue", "green"))[number % 3]
        question = Message("user", (*(ImageSlot() for _ in colors), Text(f"Which colour, {number}?")))
        texts = (
            f"It is {number}.",
            "A rather long answer, " * (number % 4 + 1),
            " ",
            "A rather long answer, " * (number % 4 + 1),
        )
        ratings = [{"helpfulness": 4 - i, "correctness": 4 - i, "coherence": 4} for i in range(4)]
        made.append(
            Sample(
                key=f"s{number:02d}",
                messages=(question,),
                images=tuple(png(color) for color in colors),
                responses=tuple(Response(text=t, ratings=r) for t, r in zip(texts, ratings, strict=True)),
            )
        )
    return made


def write(folder, samples):
    with ShardWriter(folder, max_samples=5) as writer:
        for sample in samples:
            writer.write(sample)
    return folder


@pytest.fixture
def shards(tmp_path, samples):
    """Three shards of 5, 5 and 2 samples."""
    return write(tmp_path / "set", samples)


class Pass:
    """Completes stores of a folder, and counts what the model is asked."""

    def __init__(self, llava, settings, template, *, max_length=400, **options):
        self.llava, self.settings, self.template, self.max_length = llava, settings, template, max_length
        encoder = RowEncoder(template, max_length=max_length, overlong="truncate")
        collator = Collator(pad_token_id=template.tokenizer.pad_token_id)
        usual = {"micro_batch_size": 2, "progress": False}
        self.computing = References(encoder=encoder, collator=collator, **(usual | options))
        self.forwards, self.keys, self.answers, self.stop_after = 0, [], 0, None

    @contextmanager
    def model(self, adapter=""):
        with frozen(self.llava, adapter, partial(token_logps, self.llava)) as score:

            def counting(batch):
                if self.forwards == self.stop_after:
                    raise KeyboardInterrupt
                self.forwards, self.answers = self.forwards + 1, self.answers + batch.num_responses
                self.keys += batch.keys
                return score(batch)

            yield counting

    def __call__(self, folder, adapter="", **options):
        """The store, by the folder of its shards; all counts begin anew."""
        self.forwards, self.keys, self.answers = 0, [], 0
        keys = store_keys(self.settings, [adapter], self.template, precision="32-true", max_length=self.max_length)
        variant = options.get("variant")
        key = replace(keys[adapter], variant="" if variant is None else repr(variant))
        return self.computing.store(ShardSet(str(folder)), key, partial(self.model, adapter), **options)


@pytest.fixture
def messages(monkeypatch):
    """All that rank 0 was told so far."""
    said = []
    for module in (reference, missing):
        monkeypatch.setattr(module, "rank_zero_info", said.append)
    return lambda: "\n".join(said)


@pytest.fixture
def computing(llava, settings, template):
    return Pass(llava, settings, template)


def bytes_of(store):
    return {path.name: path.read_bytes() for path in sorted(store.folder.glob("*.arrow"))}


def values_of(store):
    """Token log-probabilities by sample and answer."""
    files = [ScoreFile(path) for path in sorted(store.folder.glob("*.arrow"))]
    scores = [file[number] for file in files for number in range(len(file))]
    return {(s.key, a): v for s in scores for a, v in zip(s.answers, s.logps, strict=True)}


def rows_of(folder, view, store, others=None):
    rows = RowSet([Source(path=str(folder))], view)
    rows.attach([{"": [store]} | (others or {})])
    return rows


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


def test_killed_and_run_again_it_goes_on_behind_the_last_block(computing, shards, monkeypatch):
    """Blocks of 2 samples, one forward each: 7 in all; the kill comes in the fifth. The same bytes come out."""
    monkeypatch.setattr(missing, "BLOCK", 2)
    whole = bytes_of(computing(shards))
    assert computing.forwards == 7
    shutil.rmtree(shards / "reference")
    computing.stop_after = 4
    with pytest.raises(KeyboardInterrupt):
        computing(shards)
    assert not list((shards / "reference").glob("*/*.arrow"))
    computing.stop_after = None
    store = computing(shards)
    assert computing.forwards == 3
    assert bytes_of(store) == whole
    assert not (store.folder / "parts").exists()


def test_a_block_that_was_damaged_meanwhile_is_told_and_made_anew(computing, shards, monkeypatch, messages):
    monkeypatch.setattr(missing, "BLOCK", 2)
    computing.stop_after = 4
    with pytest.raises(KeyboardInterrupt):
        computing(shards)
    part = next(iter(sorted((shards / "reference").glob("*/parts/*.arrow"))))
    part.write_bytes(part.read_bytes()[:100])
    computing.stop_after = None
    computing(shards)
    assert "Computed anew" in messages()
    assert computing.forwards == 4


def together(world_size, work):
    """Call `work(ranks)` on as many threads, which wait for one another as ranks do."""
    meeting, board, failures = threading.Barrier(world_size, timeout=60), {}, []

    def broadcast(rank, value):
        if rank == 0:
            board["value"] = value
        meeting.wait()
        found = copy.deepcopy(board["value"])
        meeting.wait()
        return found

    def run(rank):
        try:
            barrier = lambda: meeting.wait() and None  # noqa: E731
            work(Ranks(rank=rank, world_size=world_size, barrier=barrier, broadcast=partial(broadcast, rank)))
        except BaseException as error:
            meeting.abort()
            failures.append(error)

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(world_size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


@pytest.mark.parametrize("world_size", [2, 3])
def test_ranks_split_the_work_and_make_the_same_bytes(computing, settings, template, shards, monkeypatch, world_size):
    """Also of one shard alone: blocks are dealt, not shards."""
    monkeypatch.setattr(missing, "BLOCK", 2)
    alone = bytes_of(computing(shards))
    shutil.rmtree(shards / "reference")
    passes = {rank: Pass(trained(settings), settings, template) for rank in range(world_size)}

    def work(ranks):
        each = passes[ranks.rank]
        each.computing = replace(each.computing, ranks=ranks)
        each(shards)

    together(world_size, work)
    assert bytes_of(computing(shards)) == alone
    assert computing.forwards == 0
    assert sum(each.forwards for each in passes.values()) == 7
    assert all(each.forwards >= 7 // world_size for each in passes.values())


def test_worker_processes_make_the_same_bytes(computing, llava, settings, template, shards):
    here = bytes_of(computing(shards))
    shutil.rmtree(shards / "reference")
    assert bytes_of(Pass(llava, settings, template, num_workers=2)(shards)) == here


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


def test_a_damaged_file_is_told_and_made_anew(computing, shards, messages):
    """One bit: its two rows of five samples are computed again, the other shards' are kept."""
    store = computing(shards)
    whole = bytes_of(store)
    path = store.folder / "000000.tar.arrow"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    assert bytes_of(computing(shards)) == whole
    assert set(computing.keys) == {f"000000.tar/s{n:02d}" for n in range(5)}
    assert "Computed anew: " in messages()
    assert "000000.tar.arrow" in messages()


def test_what_is_there_and_what_will_be_computed_is_one_line(computing, shards, messages):
    computing(shards)
    assert "reference log-probabilities of 0 of 12 samples are in" in messages()
    assert "12 samples are read now" in messages()
    computing(shards)
    assert "all reference log-probabilities are in" in messages()


def test_shards_in_a_read_only_folder_have_their_store_in_the_cache(computing, shards, cache, monkeypatch):
    """And one that is whole beside them is read there."""
    beside = computing(shards).folder
    kept = shards / "reference"
    monkeypatch.setattr("mmalign.data.missing.os.access", lambda path, mode: cache in Path(path).parents)
    assert computing(shards).folder == beside
    (beside / "000001.tar.arrow").unlink()
    store = computing(shards)
    assert cache in store.folder.parents
    assert set(computing.keys) == {f"000001.tar/s{n:02d}" for n in range(5, 10)}  # what lies beside is kept
    assert sorted(path.name for path in kept.glob("*/*.arrow")) == ["000000.tar.arrow", "000002.tar.arrow"]


def test_shipped_shards_are_left_alone(computing, cache):
    folder = Path(Source(path="world-heldout").resolve())
    before = sorted(folder.rglob("*"))
    computing.stop_after = 1
    with pytest.raises(KeyboardInterrupt):
        computing(folder)
    assert sorted(folder.rglob("*")) == before
    assert list(cache.rglob("key.json"))


def test_a_second_run_waits_for_the_first_and_finds_all_done(settings, template, shards):
    passes = [Pass(trained(settings), settings, template) for _ in range(2)]
    threads = [threading.Thread(target=each, args=(shards,)) for each in passes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(each.forwards for each in passes) == 7
