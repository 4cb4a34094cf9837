"""`mmalign import`: what can be used is used, all else is named, and the counts add up."""

import io
import json
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

from mmalign.data.importers import load_records
from mmalign.data.importers.llava import read_llava, split_placeholders
from mmalign.data.importers.nlvr import held_out
from mmalign.data.reader import ShardSet
from mmalign.data.rowset import RowSet, Source
from mmalign.data.sample import Preference
from mmalign.data.views import Gold, Pairs, Prompts
from mmalign.messages import ImageSlot, Message, Text
from mmalign.steering import LIKERT_REQUEST
from mmalign.tools.import_shards import main

SHARED = Path(__file__).parents[2].parent / "shared" / "data"
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


@pytest.fixture
def llava_file(tmp_path):
    """Seven records, four of them usable."""
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


def test_llava_conversations_become_samples(llava_file, tmp_path, capsys):
    main(["llava", str(llava_file), str(tmp_path / "out")])
    one, several_turns, two, text = read(tmp_path / "out")
    assert one.messages == (Message("user", (ImageSlot(), Text("What is this?"))),)
    assert (one.id, one.source, one.responses[0].text, one.responses[0].model) == ("one", "data", "Red.", "gold")
    assert one.images == ((tmp_path / "coco/a.png").read_bytes(),)
    assert [message.role for message in several_turns.messages] == ["user", "assistant", "user"]
    assert several_turns.messages[0].content == (Text("Hi"), ImageSlot())
    assert two.messages[0].content == (ImageSlot(), ImageSlot(), Text("Compare."))
    assert two.images[1] == (tmp_path / "coco/b.png").read_bytes()
    assert two.responses[0].text == "<image> is text here"
    assert text.images == ()
    assert len(RowSet([Source(path=str(tmp_path / "out"))], Gold())) == 4
    printed = capsys.readouterr().out
    assert "9 records: 4 imported, 5 skipped." in printed
    reasons = {line.split(":")[0].removeprefix("skipped "): line for line in printed.splitlines() if ": " in line}
    for name, words in {
        "gone": "no picture coco/gone.png in",
        "broken": "cannot be decoded",
        "slots": "0 image slots, but 1 pictures",
        "open": "must alternate from human to gpt",
        "strange": "not a LLaVA record",
    }.items():
        assert words in reasons[name]


def test_run_again_it_writes_the_same(llava_file, tmp_path):
    out = tmp_path / "out"
    main(["llava", str(llava_file), str(out)])
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    main(["llava", str(llava_file), str(out)])
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("<image>\nWhat?", (ImageSlot(), Text("What?"))),
        ("What?\n<image>", (Text("What?"), ImageSlot())),
        ("A <image> B", (Text("A "), ImageSlot(), Text(" B"))),
        ("none", (Text("none"),)),
        ("<image><image>", (ImageSlot(), ImageSlot())),
    ],
)
def test_placeholders_become_slots_where_they_stand(text, parts):
    assert split_placeholders(text) == parts


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


def test_nlvr_labels_become_preferences(nlvr_folder, tmp_path, capsys):
    main(["nlvr", str(nlvr_folder), str(tmp_path / "out"), "--heldout", "0.3"])
    train, heldout = read(tmp_path / "out/train"), read(tmp_path / "out/heldout")
    assert len(train) + len(heldout) == 80
    groups = [{sample.key.split("-")[0] for sample in part} for part in (train, heldout)]
    assert not groups[0] & groups[1], "a picture in both parts would leak"
    assert {sample.key for sample in heldout} == {
        f"{n}-{v}" for n in range(20) for v in range(4) if held_out(f"{n}", 0.3)
    }
    sample = next(sample for sample in train + heldout if sample.key == "3-0")
    (message,) = sample.messages
    assert message.content[1] == Text(
        'Is this statement about the picture true? "There are 3 boxes." Answer yes or no.'
    )
    assert [response.text for response in sample.responses] == ["Yes.", "No."]
    assert sample.preference == Preference(0, 1)
    printed = capsys.readouterr().out
    assert "skipped 99-0: no picture images/0/dev-99-0-0.png" in printed
    assert "skipped 98-0: not an NLVR record: no field or unknown label 'maybe'" in printed
    assert "82 records: 80 imported, 2 skipped." in printed


def test_questions_become_prompts(tmp_path, capsys):
    save_picture(tmp_path / "imgs/a.png")
    records = [
        {"image_path": "./of/theirs/imgs/a.png", "question": "Describe it."},
        {"image_path": "../imgs/a.png", "question": "Again."},
        {"image_path": "./imgs/gone.png", "question": "Describe it."},
        {"question": "What is 2 + 2?"},
        {"image_path": "imgs/a.png"},
    ]
    (tmp_path / "q.jsonl").write_text("\n".join(map(json.dumps, records)))
    main(["questions", str(tmp_path / "q.jsonl"), str(tmp_path / "out"), "--source", "mine"])
    samples = read(tmp_path / "out")
    assert [(len(sample.images), sample.source) for sample in samples] == [(1, "mine"), (1, "mine"), (0, "mine")]
    assert len(RowSet([Source(path=str(tmp_path / "out"))], Prompts())) == 3
    printed = capsys.readouterr().out
    assert "skipped ./imgs/gone.png: no picture ./imgs/gone.png" in printed
    assert "5 records: 3 imported, 2 skipped." in printed


def test_nothing_usable_is_an_error_and_leaves_nothing(tmp_path):
    (tmp_path / "q.jsonl").write_text('{"image_path": "gone.png", "question": "Hm?"}\n')
    with pytest.raises(ValueError, match=r"q\.jsonl: none of 1 records could be imported"):
        main(["questions", str(tmp_path / "q.jsonl"), str(tmp_path / "out")])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["q.jsonl"]


@pytest.mark.parametrize(
    ("content", "words"), [("{]", "neither a JSON list nor JSON lines"), ("[1]", "record 0 is no JSON object")]
)
def test_a_file_of_another_kind_is_named(tmp_path, content, words):
    (tmp_path / "q.jsonl").write_text(content)
    with pytest.raises(ValueError, match=rf"q\.jsonl.*{words}"):
        main(["questions", str(tmp_path / "q.jsonl"), str(tmp_path / "out")])


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"gone\.json: no such file to import"):
        main(["llava", str(tmp_path / "gone.json"), str(tmp_path / "out")])


def test_tars_of_others_get_a_manifest(llava_file, tmp_path, capsys):
    main(["llava", str(llava_file), str(tmp_path / "out")])
    (tmp_path / "out/manifest.arrow").unlink()
    main(["index", str(tmp_path / "out")])
    assert "4 samples in 1 shards" in capsys.readouterr().out
    assert len(read(tmp_path / "out")) == 4


@needs_shared
def test_real_nlvr_is_imported_whole(tmp_path, capsys):
    main(["nlvr", str(SHARED / "nlvr/dev"), str(tmp_path)])
    assert "989 records: 989 imported, 0 skipped." in capsys.readouterr().out
    rows = RowSet([Source(path=str(tmp_path / part)) for part in ("train", "heldout")], Pairs())
    assert len(rows) == 989
    assert 150 < len(rows.usable[1].rows) < 250


@needs_shared
def test_real_photos_are_imported_and_the_missing_ones_named(tmp_path, capsys):
    main(["questions", str(SHARED / "photos/describe_questions.jsonl"), str(tmp_path / "out")])
    printed = capsys.readouterr().out
    assert "30 records: 25 imported, 5 skipped." in printed
    assert sum(line.startswith("skipped ./examples/") for line in printed.splitlines()) == 5


@needs_shared
def test_published_rows_that_were_built_twice_are_refused(tmp_path):
    """All 60 of them: for their placeholders and, where these are mended, for their second suffix."""
    file = SHARED / "human_pairs/steerlm_rows_with_duplicated_suffix.json"
    records = load_records(file)
    for record in records:
        save_picture(tmp_path / record["image"])
    skipped = list(read_llava(records, tmp_path, source="steerlm"))
    assert Counter(each.reason for each in skipped) == {
        "<image> stands 3 times in the questions, but there are 1 pictures": 39,
        "<image> stands 2 times in the questions, but there are 1 pictures": 21,
    }
    for record in records:
        question = record["conversations"][0]
        question["value"] = "<image>\n" + question["value"].replace("<image>\n", "")
    mended = list(read_llava(records, tmp_path, source="steerlm"))
    assert {each.reason for each in mended} == {
        "a question asks for attributes 2 times, and one suffix contradicts the other"
    }


def test_one_suffix_is_a_question_like_any_other(tmp_path):
    """Steered data of others can be imported, for SFT on it; steering it once more is refused by the view."""
    suffix = LIKERT_REQUEST + "Helpfulness:3,Correctness:3,Coherence:4,Complexity:1,Verbosity:1"
    save_picture(tmp_path / "a.png")
    record = {"image": "a.png", "conversations": turns(f"<image>\nWhat is this?{suffix}", "Red.")}
    (sample,) = read_llava([record], tmp_path, source="steerlm")
    assert sample.messages[0].content == (ImageSlot(), Text(f"What is this?{suffix}"))
    twice = {"image": "a.png", "conversations": turns(f"<image>\nWhat is this?{suffix}{suffix}", "Red.")}
    assert "asks for attributes 2 times" in next(read_llava([twice], tmp_path, source="steerlm")).reason
