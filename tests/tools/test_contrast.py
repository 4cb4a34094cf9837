"""`mmalign contrast`: pairs that every method can train on, with their provenance; stopped anywhere, equal."""

import json
from dataclasses import replace

import pytest

from mmalign import cli
from mmalign.contrast import dropout_ntp
from mmalign.data.lineage import lineage_of
from mmalign.data.manifest import Manifest
from mmalign.data.reader import ShardSet
from mmalign.data.rowset import RowSet, Source
from mmalign.data.sample import Preference, Response
from mmalign.data.shards import ShardWriter
from mmalign.data.views import Pairs
from mmalign.tools import contrast
from mmalign.tools.contrast import main


def read(folder):
    shard_set = ShardSet(str(folder))
    return [shard_set[number] for number in range(len(shard_set))]


@pytest.fixture(scope="module")
def shards(color_shards, tmp_path_factory):
    """Ten samples: two without a picture, two with two; one has a preference of its own, one has no rated answer."""
    folder = tmp_path_factory.mktemp("contrast") / "in"
    with ShardWriter(folder) as writer:
        for number, sample in enumerate(read(color_shards)[:10]):
            if number == 1:
                sample = replace(sample, preference=Preference(1, 0))
            if number == 2:
                sample = replace(sample, responses=(Response(text="It is blue.", model="stranger"),))
            writer.write(sample)
    return folder


@pytest.fixture
def make(tiny_llava, shards, tmp_path):
    """`make("bdhs", "--rho=1", out="a")`: run the command on the tiny model; the folder it writes."""

    def run(method, *options, out="out", new_tokens=6):
        folder = tmp_path / out
        limit = [] if method == "povid" else [f"--max_new_tokens={new_tokens}"]
        main([method, f"--shards={shards}", f"--out={folder}", f"--checkpoint={tiny_llava}", *limit, *options])
        return folder

    return run


def test_the_new_answer_stands_behind_the_others_and_the_two_are_the_preference(make, shards, capsys):
    """All else of a sample is as it was; what cannot be used is left out, named and counted."""
    before = {sample.key: sample for sample in read(shards)}
    made = read(make("dropout_ntp"))
    assert [sample.key for sample in made] == ["0000", "0001", "0004", "0005", "0006", "0007", "0009"]
    for sample in made:
        old = before[sample.key]
        assert sample.preference == Preference(1 if sample.key == "0001" else 0, 2)
        new = sample.responses[-1]
        assert (new.sampling["method"], new.sampling["of"]) == ("dropout_ntp", sample.preference.chosen)
        assert sample == replace(old, responses=(*old.responses, new), preference=sample.preference)
    said = capsys.readouterr().out
    assert "left out, no picture: 0003, 0008\n" in said
    assert "left out, none by preference, best, gold, teacher: 0002\n" in said
    assert "10 samples, 7 rejected answers, 3 left out" in said


def test_pairs_trains_on_them(make):
    """The view takes the chosen and the new answer, whatever the ratings say."""
    folder = make("dropout_ntp")
    rows = RowSet([Source(path=str(folder))], Pairs())
    samples = read(folder)
    assert len(rows) == len(samples)
    for number, sample in enumerate(samples):
        ((row,),) = (rows[number],)
        assert [answer.text for answer in row.answers] == [sample.responses[i].text for i in sample.preference]


def test_the_lineage_says_what_the_answers_depend_on(make, shards):
    (step,) = lineage_of(Manifest.load(make("bdhs", "--rounds=2")))
    assert (step.command, step.made_from, step.hash) == ("contrast bdhs", str(shards), Manifest.load(shards).hash)
    expected = {"rho": 0.99, "rounds": 2, "similarity": "policy", "chosen": "auto", "seed": 0}
    assert expected.items() <= step.settings.items()
    assert {"checkpoint_hash", "template", "dtype"} <= step.settings.keys()
    assert "batch_size" not in step.settings
    assert step.counts["rejected answers"] == 7


SLOW = [pytest.param(method, marks=pytest.mark.slow) for method in ("bdhs", "povid")]


@pytest.mark.parametrize("method", ["dropout_ntp", *SLOW])
def test_stopped_and_run_again_it_goes_on_and_batches_change_nothing(make, monkeypatch, tmp_path, method):
    """Ctrl-C behind the third answer; then only the others are made, and the shards are those of one run."""
    whole = make(method, "--batch_size=7", out="whole")
    journal = tmp_path / "out.partial" / contrast.JOURNAL
    append, count = contrast.RecordFile.append, []

    def stop_at_fourth(file, records):
        if len(count) == 3:
            raise KeyboardInterrupt
        append(file, records)
        count.extend(record for record in records if not record.left_out)

    with monkeypatch.context() as patch:
        patch.setattr(contrast.RecordFile, "append", stop_at_fourth)
        with pytest.raises(KeyboardInterrupt):
            make(method, "--batch_size=2")
    kept = [json.loads(line) for line in journal.read_text().splitlines()]
    assert sum(not each["left_out"] for each in kept) == 3
    asked, find = [], contrast.find_positive

    def find_noting(policy, sample, chosen, *, new_tokens):
        asked.append(sample.key)
        return find(policy, sample, chosen, new_tokens=new_tokens)

    monkeypatch.setattr(contrast, "find_positive", find_noting)
    again = make(method, "--batch_size=2")
    assert not {each["id"] for each in kept} & set(asked)
    assert (again / "000000.tar").read_bytes() == (whole / "000000.tar").read_bytes()
    assert not journal.parent.exists()


def test_done_twice_nothing_is_done_and_other_settings_are_refused(make, capsys, monkeypatch):
    folder = make("dropout_ntp")
    monkeypatch.setattr(dropout_ntp, "continue_answers", None)
    make("dropout_ntp")
    assert "is there already" in capsys.readouterr().out
    with pytest.raises(ValueError, match="keep differ"):
        make("dropout_ntp", "--keep=0.3")
    monkeypatch.undo()
    make("dropout_ntp", "--keep=0.3", "--overwrite=true")
    assert lineage_of(Manifest.load(folder))[-1].settings["keep"] == 0.3


def test_chosen_can_be_a_model_by_name(make):
    (sample,) = read(make("dropout_ntp", "--chosen=stranger"))
    assert (sample.key, sample.preference) == ("0002", Preference(0, 1))


def test_where_nothing_can_be_used_nothing_is_written(make, tmp_path):
    with pytest.raises(ValueError, match="--chosen nobody"):
        make("dropout_ntp", "--chosen=nobody")
    assert not (tmp_path / "out").exists()


def test_a_batch_size_of_none_is_refused(make):
    with pytest.raises(ValueError, match="--batch_size"):
        make("dropout_ntp", "--batch_size=0")


@pytest.mark.slow
def test_the_embedded_model_makes_worse_answers_by_the_exact_judge(tmp_path):
    """BDHS, as it ships, on 16 samples: most of what it makes is worse than the chosen answer, hardly any is better."""
    from mmalign.world.judge import WorldJudge
    from mmalign.world.tasks import task

    source = ShardSet(Source(path="world").resolve())
    with ShardWriter(tmp_path / "in") as writer:
        for number in range(16):
            writer.write(source[number])
    cli.main(["contrast", "bdhs", f"--shards={tmp_path / 'in'}", f"--out={tmp_path / 'out'}"])
    pairs = [
        [WorldJudge().rate(task(sample.id), sample.responses[i].text).quality for i in sample.preference]
        for sample in read(tmp_path / "out")
    ]
    assert sum(rejected < chosen for chosen, rejected in pairs) >= len(pairs) / 2
    assert sum(rejected > chosen for chosen, rejected in pairs) <= len(pairs) / 5
