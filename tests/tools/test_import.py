"""`mmalign import`: what can be used is used, all else is named, and the counts add up."""

import io
import json
import re
import zipfile
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from mmalign.data.importers.conversations import Row
from mmalign.data.importers.llava import read_llava
from mmalign.data.importers.nlvr import held_out
from mmalign.data.importers.pictures import Pictures
from mmalign.data.lineage import lineage_of
from mmalign.data.reader import ShardSet
from mmalign.data.rowset import RowSet, Source
from mmalign.data.views import Gold, Pairs, Prompts
from mmalign.messages import ImageSlot, Message, Text
from mmalign.tools.import_shards import FORMATS, SPECIAL, main

ROOT = Path(__file__).parents[2]
SHARED = ROOT.parent / "shared" / "data"
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="no real data: ../shared/data is absent")


def save_picture(path, number=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (number, 0, 0)).save(buffer, "PNG")
    path.write_bytes(buffer.getvalue())
    return buffer.getvalue()


def read(folder):
    shard_set = ShardSet(str(folder))
    return [shard_set[number] for number in range(len(shard_set))]


def turns(*texts):
    return [{"from": ("human", "gpt")[n % 2], "value": text} for n, text in enumerate(texts)]


def reasons(printed):
    """What was said of each record that was skipped."""
    lines = (
        line.removeprefix("skipped ").split(": ", 1) for line in printed.splitlines() if line.startswith("skipped ")
    )
    return dict(lines)


@pytest.fixture
def llava_file(tmp_path):
    """Nine records, four of them usable."""
    save_picture(tmp_path / "coco/a.png", 1)
    save_picture(tmp_path / "coco/b.png", 2)
    (tmp_path / "coco/broken.png").write_bytes(b"\x89PNG\r\n\x1a\nhm")
    records = [
        {"id": "one", "image": "coco/a.png", "conversations": turns("<image>\nWhat is this?", "Red.")},
        {"id": "turns", "image": "coco/a.png", "conversations": turns("Hi\n<image>", "Red.", "And now?", "Still.")},
        {
            "id": "two",
            "image": ["coco/a.png", "./elsewhere/coco/b.png"],
            "conversations": turns("<image>\n<image>\nCompare.", "<image> is text here"),
        },
        {"id": "text", "conversations": turns("Sort b a.", "a b")},
        {"id": "gone", "image": "coco/gone.png", "conversations": turns("<image>\nWhat?", "It.")},
        {"id": "broken", "image": "coco/broken.png", "conversations": turns("<image>\nWhat?", "It.")},
        {"id": "slots", "image": "coco/a.png", "conversations": turns("What?", "It.")},
        {"id": "open", "conversations": turns("What?")},
        {"id": "strange", "text": "a caption"},
    ]
    path = tmp_path / "data.json"
    path.write_text(json.dumps(records))
    return path


def test_what_can_be_used_is_used_and_all_else_is_named(llava_file, tmp_path, capsys):
    main(["llava", str(llava_file), "--out", str(tmp_path / "out")])
    one, several_turns, two, text = read(tmp_path / "out")
    assert one.messages == (Message("user", (ImageSlot(), Text("What is this?"))),)
    assert (one.id, one.source, one.responses[0].text, one.responses[0].model) == ("one", "data", "Red.", "gold")
    assert one.images == ((tmp_path / "coco/a.png").read_bytes(),)
    assert [message.role for message in several_turns.messages] == ["user", "assistant", "user"]
    assert two.images[1] == (tmp_path / "coco/b.png").read_bytes()
    assert text.images == ()
    assert len(RowSet([Source(path=str(tmp_path / "out"))], Gold())) == 4
    printed = capsys.readouterr().out
    assert "9 records: 4 imported, 5 skipped." in printed
    said = reasons(printed)
    for name, words in {
        "gone": "no picture coco/gone.png in",
        "broken": "cannot be decoded",
        "slots": "0 image slots, but 1 pictures",
        "open": "must alternate from user to assistant",
        "strange": "the turns are None",
    }.items():
        assert words in said[name]


def test_run_again_it_writes_the_same(llava_file, tmp_path):
    out = tmp_path / "out"
    main(["llava", str(llava_file), "--out", str(out)])
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    main(["llava", str(llava_file), "--out", str(out)])
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def test_the_lineage_says_what_was_read_and_how(llava_file, tmp_path):
    main(["llava", str(llava_file), "--out", str(tmp_path / "out"), "--source", "coco", "--text_only", "true"])
    (step,) = lineage_of(ShardSet(str(tmp_path / "out")).manifest)
    assert (step.command, step.made_from) == ("import llava", str(llava_file))
    assert step.settings["source"] == "coco"
    assert step.settings["text_only"] is True
    assert step.counts["records"] == 9


def test_text_only_is_said_and_leaves_no_pictures(llava_file, tmp_path, capsys):
    main(["llava", str(llava_file), "--out", str(tmp_path / "out"), "--text_only", "true"])
    assert not any(sample.images for sample in read(tmp_path / "out"))
    printed = capsys.readouterr().out
    assert "9 records: 6 imported, 3 skipped." in printed
    assert "Imported as text only: no sample has its picture." in printed
    with pytest.raises(ValueError, match="--text_only leaves all pictures out, but --images names some"):
        main(["llava", str(llava_file), "--out", str(tmp_path), "--text_only", "true", "--images", str(tmp_path)])


def test_pictures_come_out_of_an_archive(llava_file, tmp_path):
    with zipfile.ZipFile(tmp_path / "coco.zip", "w") as archive:
        archive.write(tmp_path / "coco/a.png", "coco/a.png")
        archive.write(tmp_path / "coco/b.png", "b.png")
    main(["llava", str(llava_file), "--out", str(tmp_path / "out"), "--images", str(tmp_path / "coco.zip")])
    assert [len(sample.images) for sample in read(tmp_path / "out")] == [1, 1, 2, 0]


def test_pictures_come_as_bytes_in_parquet(tmp_path, png):
    pictures = [png("red"), png("blue")]
    pairs = [{"prompt": f"Q{n}", "chosen": "A.", "rejected": "B."} for n in range(2)]
    rows = [pair | {"images": [{"bytes": pictures[n], "path": None}]} for n, pair in enumerate(pairs)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "train.parquet")
    main(["preferences", str(tmp_path), "--out", str(tmp_path / "out")])
    assert [sample.images for sample in read(tmp_path / "out")] == [(picture,) for picture in pictures]
    assert len(RowSet([Source(path=str(tmp_path / "out"))], Pairs())) == 2


@pytest.mark.parametrize("name", ["../../secret.png", "/secret.png", "{tmp_path}/secret.png", "link/secret.png"])
def test_no_record_reads_what_lies_outside_the_folder(tmp_path, capsys, name):
    """By whatever name. (A name is looked for by its end, too, as published paths are of other machines.)"""
    save_picture(tmp_path / "secret.png", 7)
    inside = tmp_path / "data/images"
    save_picture(inside / "a.png")
    (inside / "link").symlink_to(tmp_path)
    name = name.format(tmp_path=tmp_path)
    records = [{"image_path": name, "question": "What?"}, {"image_path": "a.png", "question": "What?"}]
    (tmp_path / "data/q.json").write_text(json.dumps(records))
    main(["questions", str(tmp_path / "data/q.json"), "--out", str(tmp_path / "out"), "--images", str(inside)])
    assert len(read(tmp_path / "out")) == 1
    assert re.search("no picture|leads out of", reasons(capsys.readouterr().out)[name])


@pytest.fixture
def nlvr_folder(tmp_path):
    """Sentences about 20 pictures, four each, and one whose picture is missing."""
    folder = tmp_path / "nlvr"
    lines = []
    for number in range(20):
        for variant in range(4):
            identifier = f"{number}-{variant}"
            save_picture(folder / f"images/{number % 3}/dev-{identifier}-0.png", number)
            label = "true" if (number + variant) % 2 else "false"
            record = {"sentence": f"There are {number} boxes.", "label": label, "identifier": identifier}
            lines.append(json.dumps(record | {"directory": str(number % 3)}))
    lines.append(json.dumps({"sentence": "Gone.", "label": "true", "identifier": "99-0", "directory": "0"}))
    lines.append(json.dumps({"sentence": "Hm.", "label": "maybe", "identifier": "98-0", "directory": "0"}))
    (folder / "dev.json").write_text("\n".join(lines) + "\n")
    return folder


def test_nlvr_makes_two_sets_that_share_no_picture(nlvr_folder, tmp_path, capsys):
    main(["nlvr", str(nlvr_folder), "--out", str(tmp_path / "out"), "--heldout", "0.3"])
    train, heldout = read(tmp_path / "out/train"), read(tmp_path / "out/heldout")
    assert len(train) + len(heldout) == 80
    groups = [{sample.key.split("-")[0] for sample in part} for part in (train, heldout)]
    assert not groups[0] & groups[1], "a picture in both parts would leak"
    assert {sample.key for sample in heldout} == {
        f"{n}-{v}" for n in range(20) for v in range(4) if held_out(f"{n}", 0.3)
    }
    printed = capsys.readouterr().out
    assert "no picture images/0/dev-99-0-0.png" in reasons(printed)["99-0"]
    assert "its label is 'maybe'" in reasons(printed)["98-0"]
    assert "82 records: 80 imported, 2 skipped." in printed
    with pytest.raises(ValueError, match=r"--heldout is a fraction in \[0, 1\), got 1"):
        main(["nlvr", str(nlvr_folder), "--out", str(tmp_path / "out"), "--heldout", "1"])


def test_questions_become_prompts(tmp_path, capsys):
    save_picture(tmp_path / "imgs/a.png")
    records = [
        {"image_path": "./of/theirs/imgs/a.png", "question": "Describe it."},
        {"image_path": "../imgs/a.png", "question": "Again."},
        {"image_path": "./imgs/gone.png", "question": "Describe it."},
        {"question": "What is 2 + 2?"},
        {"image_path": "imgs/a.png"},
    ]
    (tmp_path / "q.jsonl").write_text("\n".join(map(json.dumps, records)) + "\n{broken\n")
    main(["questions", str(tmp_path / "q.jsonl"), "--out", str(tmp_path / "out"), "--source", "mine"])
    samples = read(tmp_path / "out")
    assert [(len(sample.images), sample.source) for sample in samples] == [(1, "mine"), (1, "mine"), (0, "mine")]
    assert len(RowSet([Source(path=str(tmp_path / "out"))], Prompts())) == 3
    printed = capsys.readouterr().out
    assert "no picture ./imgs/gone.png" in reasons(printed)["./imgs/gone.png"]
    assert "no JSON" in reasons(printed)["line 6"]
    assert "6 records: 3 imported, 3 skipped." in printed


def test_prompts_of_the_world_are_those_of_its_shards(tmp_path):
    main(["world", "--out", str(tmp_path / "out"), "--num", "3"])
    shipped = {sample.key: sample for sample in read(ROOT / "shards/world")[:40]}
    for prompt in read(tmp_path / "out"):
        sample = shipped[prompt.key]
        assert (prompt.messages, prompt.images, prompt.id) == (sample.messages, sample.images, sample.id)
        assert prompt.responses == ()


def test_nothing_usable_is_an_error_and_leaves_nothing(tmp_path):
    (tmp_path / "q.jsonl").write_text('{"image_path": "gone.png", "question": "Hm?"}\n')
    with pytest.raises(ValueError, match=r"q\.jsonl: none of 1 records could be imported"):
        main(["questions", str(tmp_path / "q.jsonl"), "--out", str(tmp_path / "out")])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["q.jsonl"]


@pytest.mark.parametrize("name", ["llava", "human_pairs"])
@pytest.mark.parametrize("content", ["", "[]", "{]"], ids=["empty", "no record", "broken"])
def test_an_empty_or_a_broken_file_is_an_error_and_leaves_nothing(tmp_path, name, content):
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(ValueError, match=r"a\.json( holds no record| is n).*"):
        main([name, str(tmp_path / "a.json"), "--out", str(tmp_path / "out"), "--text_only", "true"])
    assert not (tmp_path / "out").exists()


MADE_OF_TEXTS = {"lrv", "questions", "rlaif_v", "preferences"}
"""Formats in which a record of texts is a question, or a pair of texts."""


@pytest.mark.parametrize("name", sorted(FORMATS))
def test_no_format_stumbles_over_records_of_another_kind(tmp_path, name):
    """Whatever stands in the fields, a record is refused by name, and the import goes on to the next."""
    fields = ("id", "image", "images", "conversations", "messages", "prompt", "chosen", "rejected", "question", "text")
    fields += ("completions", "img_path", "image_id", "image_path", "image_file", "output_1", "preference", "x_answer")
    values = (None, 3, "text", [], ["text"], {}, {"from": 1}, [{"role": "user"}], [[]], [None], True, -1e300)
    records = [dict.fromkeys(fields, value) for value in values]
    content = {str(number): record for number, record in enumerate(records)} if FORMATS[name].keyed else records
    (tmp_path / "a.json").write_text(json.dumps(content))
    arguments = [name, str(tmp_path / "a.json"), "--out", str(tmp_path / "out"), "--text_only", "true"]
    if name in MADE_OF_TEXTS:
        main(arguments)
    else:
        with pytest.raises(ValueError, match=f"none of {len(values)} records could be imported"):
            main(arguments)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"gone\.json: no such file"):
        main(["llava", str(tmp_path / "gone.json"), "--out", str(tmp_path / "out")])


def test_tars_of_others_get_a_manifest(llava_file, tmp_path, capsys):
    main(["llava", str(llava_file), "--out", str(tmp_path / "out")])
    (tmp_path / "out/manifest.arrow").unlink()
    main(["index", str(tmp_path / "out")])
    assert "4 samples in 1 shards" in capsys.readouterr().out
    assert len(read(tmp_path / "out")) == 4


def test_every_format_stands_in_the_readme_of_the_shards():
    text = (ROOT / "shards/README.md").read_text()
    assert [name for name in (*FORMATS, *SPECIAL) if f"| `{name}` |" not in text] == []


@pytest.mark.slow
@needs_shared
def test_real_nlvr_is_imported_whole(tmp_path, capsys):
    main(["nlvr", str(SHARED / "nlvr/dev"), "--out", str(tmp_path), "--likeness.duplicates", "false"])
    assert "989 records: 989 imported, 0 skipped." in capsys.readouterr().out
    rows = RowSet([Source(path=str(tmp_path / part)) for part in ("train", "heldout")], Pairs())
    assert len(rows) == 989
    assert 150 < len(rows.usable[1].rows) < 250


@pytest.mark.slow
@needs_shared
@pytest.mark.parametrize(
    ("name", "place", "images", "counts"),
    [
        ("questions", "photos/describe_questions.jsonl", None, "30 records: 25 imported, 5 skipped."),
        ("sharegpt", "formats/llamafactory/mllm_demo.json", None, "6 records: 6 imported, 0 skipped."),
        ("sharegpt", "formats/llamafactory/v1_multimodal_demo.jsonl", None, "24 records: 24 imported, 0 skipped."),
        ("mdpo", "formats/mdpo_sample.json", "text only", "2 records: 2 imported, 0 skipped."),
        ("lrv", "formats/lrv_evaluation_set.json", "text only", "1000 records: 1000 imported, 0 skipped."),
        ("scigraphqa", "scigraphqa", "text only", "128 records: 128 imported, 0 skipped."),
        ("human_pairs", "human_pairs/extracted_*.json", "text only", "201 records: 121 imported, 80 skipped."),
    ],
)
def test_real_sets_are_imported_as_far_as_they_go(tmp_path, capsys, name, place, images, counts):
    main([name, str(SHARED / place), "--out", str(tmp_path / "out"), *(["--text_only", "true"] if images else [])])
    assert counts in capsys.readouterr().out


@needs_shared
@pytest.mark.parametrize(("name", "place"), [("mdpo", "formats/mdpo_sample.json"), ("scigraphqa", "scigraphqa")])
def test_real_sets_without_their_pictures_are_refused_by_name(tmp_path, capsys, name, place):
    with pytest.raises(ValueError, match="records could be imported"):
        main([name, str(SHARED / place), "--out", str(tmp_path / "out")])
    assert "no picture" in capsys.readouterr().out


@needs_shared
def test_published_rows_that_were_built_twice_are_refused(tmp_path):
    """All 60 of them: for their placeholders and, where these are mended, for their second suffix."""
    records = json.loads((SHARED / "human_pairs/steerlm_rows_with_duplicated_suffix.json").read_text())
    for record in records:
        save_picture(tmp_path / record["image"])
    twice, thrice = (f"<image> stands {n} times in the questions, but there are 1 pictures" for n in (2, 3))
    suffix = "a question asks for attributes 2 times, and one suffix contradicts the other"
    assert import_rows(records, tmp_path) == {twice: 21, thrice: 39}
    for record in records:
        question = record["conversations"][0]
        question["value"] = "<image>\n" + question["value"].replace("<image>", "")
    assert import_rows(records, tmp_path) == {suffix: 60}


def import_rows(records, tmp_path):
    """Why LLaVA's importer refuses these records, all of them."""
    rows = (Row(str(number), record) for number, record in enumerate(records))
    return Counter(each.reason for each in read_llava(rows, Pictures(tmp_path), source="steerlm"))
