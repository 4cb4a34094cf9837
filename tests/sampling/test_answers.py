"""K answers a prompt: the same whatever runs beside them; what cannot be asked is named, and the rest answered."""

import pytest
import torch

from mmalign.data.reader import ShardSet
from mmalign.data.records import RecordFile
from mmalign.data.sample import Response, Sample
from mmalign.data.shards import ShardWriter
from mmalign.messages import ImageSlot, Message, Text
from mmalign.sampling import answers
from mmalign.sampling.answers import Answerer, Asked, Drawing, Sampled, answer_all, answer_id, make_batches
from mmalign.sampling.policy import load_policy
from mmalign.sampling.seeds import answer_seed

SIX = {"model": "test", "num": 2, "max_new_tokens": 6}


@pytest.fixture(scope="module")
def policy(tiny_llava):
    return load_policy(tiny_llava)


@pytest.fixture(scope="module")
def source(color_shards):
    """40 prompts with none, one and two pictures."""
    return ShardSet(str(color_shards))


def answered(policy, source, batch_size, *, num=6, **settings):
    drawing = Drawing(**SIX | settings)
    batches = make_batches(source.manifest, drawing.num, batch_size, 16)
    answerer = Answerer(policy, drawing)
    wanted = [[asked for asked in batch if asked.sample < num] for batch in batches]
    return {each.id: each for batch in wanted if batch for each in answerer.answer(source, batch)}


def shard_of(folder, *samples):
    with ShardWriter(folder) as writer:
        for sample in samples:
            writer.write(sample)
    return ShardSet(str(folder))


def prompt(key, text="What?", images=(), **more):
    messages = (Message("user", (*(ImageSlot() for _ in images), Text(text))),)
    return Sample(key=key, messages=messages, images=images, id=key, **more)


@pytest.mark.parametrize("temperature", [0.7, 1.3])
def test_batch_size_changes_no_answer(policy, source, temperature):
    found = [answered(policy, source, size, temperature=temperature) for size in (1, 3, 16)]
    assert found[0] == found[1] == found[2]
    assert len(found[0]) == 12
    assert len({each.text for each in found[0].values()}) > 6


def test_every_answer_is_in_one_batch_and_long_prompts_come_first(source):
    """And only the manifest and the batch size decide it."""
    batches = list(make_batches(source.manifest, 2, 7, image_tokens=16))
    assert batches == list(make_batches(ShardSet(source.manifest.location).manifest, 2, 7, image_tokens=16))
    assert sorted(asked for batch in batches for asked in batch) == [Asked(i, k) for i in range(40) for k in range(2)]
    assert [len(batch) for batch in batches] == [7] * 11 + [3]
    pictures = [len(source[asked.sample].images) for batch in batches for asked in batch]
    assert pictures == sorted(pictures, reverse=True)


def test_long_prompts_come_first_within_a_window_only(source, monkeypatch):
    """So that shards are read in order, more or less."""
    monkeypatch.setattr(answers, "WINDOW", 10)
    order = [asked.sample for (asked,) in make_batches(source.manifest, 1, 1, image_tokens=16)]
    assert [sorted(order[i : i + 10]) for i in range(0, 40, 10)] == [list(range(i, i + 10)) for i in range(0, 40, 10)]
    assert order != list(range(40))


def test_seeds_and_numbers_give_other_answers(policy, source):
    one = answered(policy, source, 8, num=3, temperature=1.0)
    other = answered(policy, source, 8, num=3, temperature=1.0, seed=1)
    assert all(one[name].text != other[name].text for name in one)
    key = source.manifest.key(0)
    assert one[f"{key}/0"].text != one[f"{key}/1"].text


def test_an_answer_says_whether_it_was_cut(policy, source, monkeypatch):
    """Cut at six tokens; ended where the model ends it, here after two."""
    drawing = Drawing(**SIX)
    found = Answerer(policy, drawing).answer(source, [Asked(0, 0)])
    assert [(each.finish_reason, each.tokens) for each in found] == [("length", 6)]
    monkeypatch.setattr(answers, "generate_ids", lambda *args, **kwargs: [[40, 41]])
    found = Answerer(policy, drawing).answer(source, [Asked(0, 0)])
    assert [(each.finish_reason, each.tokens) for each in found] == [("stop", 2)]


def test_broken_pictures_and_long_prompts_are_named_and_the_others_answered(policy, png, tmp_path):
    """The others' answers are those that they get without them."""
    good = [prompt("good", images=(png("red"),)), prompt("text")]
    bad = [prompt("cut", images=(png("blue")[:60],)), prompt("long", "word " * 3000)]
    source = shard_of(tmp_path / "all", *good, *bad)
    found = answered(policy, source, 8)
    assert "picture 0: the picture cannot be decoded" in found["cut/0"].failure
    assert "do not fit the model's context of 2048" in found["long/1"].failure
    assert {name: each for name, each in found.items() if not each.failure} == answered(
        policy, shard_of(tmp_path / "good", *good), 8
    )


def test_responses_stand_behind_those_that_are_there_with_their_provenance(policy, source):
    drawing = Drawing(**SIX)
    sample = source[0]
    found = [Sampled("0000/0", "Red.", "stop", 2), Sampled("0000/1", failure="too long")]
    made = drawing.answered(sample, found, {"checkpoint_hash": "sha256 1"})
    assert made.responses[:2] == sample.responses
    assert made.responses[2:] == (
        Response(
            text="Red.",
            model="test",
            sampling={
                "seed": answer_seed(sample.id, 0),
                "temperature": 0.7,
                "top_p": 1.0,
                "max_new_tokens": 6,
                "finish_reason": "stop",
                "checkpoint_hash": "sha256 1",
            },
        ),
    )


def test_an_answer_that_is_there_is_not_drawn_again(policy, png, tmp_path):
    """The same model and seed would give it once more; another seed, model or temperature would not."""
    sampling = {"temperature": 0.7, "seed": answer_seed("one", 1)}
    source = shard_of(tmp_path / "in", prompt("one", responses=(Response(text="A", model="test", sampling=sampling),)))
    with pytest.raises(ValueError, match=r"'one' has an answer by test with seed \d+ already.*`--seed`"):
        answered(policy, source, 4)
    for other in ({"seed": 1}, {"model": "other"}, {"temperature": 1.0}):
        assert len(answered(policy, source, 4, **other)) == 2


def test_a_batch_answered_in_part_runs_whole_and_adds_what_is_missing(policy, source, tmp_path):
    """So the same prompts run together as the first time."""
    file = RecordFile(tmp_path / "answers.jsonl", Sampled, {})
    batches = [tuple(Asked(sample, number) for sample in (0, 1) for number in (0, 1)), (Asked(2, 0),)]
    asked, progress = [], []

    def answer(source, batch):
        asked.append(batch)
        return [Sampled(answer_id(source.manifest.key(each.sample), each.number), "A") for each in batch]

    answer_all(source, batches, {"0000/0", "0000/1", "0001/1", "0002/0"}, answer, file, progress.append)
    assert asked == batches[:1]
    assert set(file.records) == {"0001/0"}
    assert progress == [4, 1]


def test_a_batch_that_is_too_large_for_the_gpu_is_told(policy, source, monkeypatch):
    def full(*args, **kwargs):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(answers, "generate_ids", full)
    with pytest.raises(ValueError, match=r"2 prompts at a time are too many .* smaller `--batch_size`"):
        Answerer(policy, Drawing(**SIX)).answer(source, [Asked(0, 0), Asked(0, 1)])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num": 0}, "`--num` must be 1 or more"),
        ({"max_new_tokens": 0}, "`--max_new_tokens` must be 1"),
        ({"temperature": 0.0}, "all 2 answers of a prompt would be equal. Set `--temperature 0.7`"),
        ({"temperature": -1.0}, "`--temperature` is 0 or at least"),
        ({"temperature": 1e-6}, "`--temperature` is 0 or at least"),
        ({"top_p": 0.0}, r"probability in \(0, 1\]"),
        ({"top_p": 1.5}, r"probability in \(0, 1\]"),
    ],
)
def test_drawings_that_make_no_sense_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Drawing(**SIX | settings)
    assert Drawing(**SIX | {"num": 1, "temperature": 0.0}).num == 1
