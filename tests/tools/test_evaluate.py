"""`mmalign evaluate` and `mmalign report` through the real command line, on a random LLaVA with a random adapter."""

import json
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model

from mmalign.backbone import LANGUAGE_LINEARS, BackboneSettings, Llava, load_llava
from mmalign.batch import Role
from mmalign.cli import main
from mmalign.data.collate import Collator
from mmalign.data.rows import Answer, Row, RowEncoder
from mmalign.data.sample import Preference, Response, Sample
from mmalign.data.shards import ShardWriter
from mmalign.evaluation import models
from mmalign.evaluation.models import BaseAndAligned
from mmalign.evaluation.scores import read_scores
from mmalign.logps import response_logps
from mmalign.messages import ImageSlot, Message, Text
from mmalign.processor import load_processor
from mmalign.template import Template

pytestmark = pytest.mark.slow

SIZES = (
    "--sizes.describe=3",
    "--sizes.yes_no=6",
    "--sizes.text=9",
    "--sizes.other=2",
    "--batch_size=6",
    "--resamples=100",
)


def save_adapter(checkpoint, folder, seed):
    torch.manual_seed(seed)
    lora = LoraConfig(r=2, lora_alpha=4, target_modules=LANGUAGE_LINEARS, init_lora_weights=False)
    get_peft_model(load_llava(checkpoint, dtype=torch.float32), lora).save_pretrained(folder)
    (folder / "lineage.json").write_text(json.dumps({"base": checkpoint, "template": "llava_hf", "seed": 7}))
    return str(folder)


@pytest.fixture(scope="module")
def adapter(tiny_llava, tmp_path_factory):
    return save_adapter(tiny_llava, tmp_path_factory.mktemp("adapter"), seed=3)


@pytest.fixture(autouse=True)
def short_answers(monkeypatch):
    """A random model never ends its answers."""
    monkeypatch.setattr("mmalign.tools.evaluation.before_after.ANSWER_TOKENS", 8)


def evaluate(checkpoint, adapter, out, *more):
    return main(["evaluate", "--checkpoint", checkpoint, "--adapter", adapter, "--out", str(out), *more])


def count_questions(monkeypatch, until=None):
    """Who was asked how many questions, in order; before the question number `until` the user gives up."""
    asked = []
    answer = BaseAndAligned.answer

    def counted(self, who, prompts, *args, **settings):
        if len(asked) == until:
            raise KeyboardInterrupt
        asked.append((who, len(prompts)))
        return answer(self, who, prompts, *args, **settings)

    monkeypatch.setattr(BaseAndAligned, "answer", counted)
    return asked


def answers_in(folder):
    return [json.loads(line) for line in (folder / "answers.jsonl").read_text().splitlines()]


def test_world_suite_writes_answers_scores_and_a_report(tiny_llava, adapter, tmp_path):
    evaluate(tiny_llava, adapter, tmp_path, *SIZES)
    answers = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text().splitlines()]
    assert len(answers) == 20
    assert any(answer["base"] != answer["aligned"] for answer in answers)
    scores = read_scores(tmp_path)
    assert {"chair_i", "object_recall", "yes_no_f1", "quality", "text_accuracy", "words"} <= {
        each.name for each in scores.comparisons
    }
    assert scores.lineage["training: seed"] == "7"
    assert scores.lineage["template"] == "llava_hf"
    assert scores.lineage["adapter_hash"].startswith("sha256 ")
    main(["report", "--evaluation", str(tmp_path)])
    assert "<h1>" in (tmp_path / "report.html").read_text()


def test_stopped_evaluation_goes_on_and_equals_a_whole_one(tiny_llava, adapter, tmp_path, monkeypatch):
    """Killed after the second chunk; the second start asks only what is missing."""
    evaluate(tiny_llava, adapter, tmp_path / "whole", *SIZES)
    asked = count_questions(monkeypatch, until=4)
    with pytest.raises(KeyboardInterrupt):
        evaluate(tiny_llava, adapter, tmp_path / "cut", *SIZES)
    asked.clear()
    evaluate(tiny_llava, adapter, tmp_path / "cut", *SIZES)
    assert asked == [("base", 6), ("aligned", 6), ("base", 2), ("aligned", 2)]
    for name in ("answers.jsonl", "scores.json"):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_base_answers_without_the_adapter(tiny_llava, adapter, tmp_path):
    """Two adapters, one base: its answers do not change."""
    other = save_adapter(tiny_llava, tmp_path / "other", seed=4)
    for name, each in (("one", adapter), ("two", other)):
        evaluate(tiny_llava, each, tmp_path / name, *SIZES)
    one, two = (
        [json.loads(line) for line in (tmp_path / name / "answers.jsonl").read_text().splitlines()]
        for name in ("one", "two")
    )
    assert [answer["base"] for answer in one] == [answer["base"] for answer in two]
    assert [answer["aligned"] for answer in one] != [answer["aligned"] for answer in two]
    with pytest.raises(ValueError, match=r"adapter_hash differ.*--overwrite"):
        evaluate(tiny_llava, other, tmp_path / "one", *SIZES)


def test_adapters_share_the_answers_of_their_base(tiny_llava, adapter, tmp_path, monkeypatch):
    """The second evaluation asks the base nothing, and finds what it finds alone."""
    other = save_adapter(tiny_llava, tmp_path / "other", seed=4)
    shared = f"--base_answers={tmp_path / 'base'}"
    evaluate(tiny_llava, adapter, tmp_path / "one", shared, *SIZES)
    asked = count_questions(monkeypatch)
    evaluate(tiny_llava, other, tmp_path / "two", shared, *SIZES)
    assert {who for who, _ in asked} == {"aligned"}
    evaluate(tiny_llava, other, tmp_path / "alone", *SIZES)
    assert answers_in(tmp_path / "two") == answers_in(tmp_path / "alone")
    assert read_scores(tmp_path / "two") == read_scores(tmp_path / "alone")


def test_shared_answers_that_are_missing_are_added(tiny_llava, adapter, tmp_path, monkeypatch):
    """More tasks, and a base that was stopped halfway: 6 of 20 answers are there."""
    shared = f"--base_answers={tmp_path / 'base'}"
    asked = count_questions(monkeypatch, until=1)
    with pytest.raises(KeyboardInterrupt):
        evaluate(tiny_llava, adapter, tmp_path / "cut", shared, *SIZES)
    monkeypatch.undo()
    monkeypatch.setattr("mmalign.tools.evaluation.before_after.ANSWER_TOKENS", 8)
    asked = count_questions(monkeypatch)
    evaluate(tiny_llava, adapter, tmp_path / "cut", shared, *SIZES)
    assert sum(number for who, number in asked if who == "base") == 14
    assert len((tmp_path / "base" / "base_answers.jsonl").read_text().splitlines()) == 20


def test_answers_of_another_base_are_not_shared(tiny_llava, adapter, tmp_path):
    shared = f"--base_answers={tmp_path / 'base'}"
    evaluate(tiny_llava, adapter, tmp_path / "one", shared, *SIZES)
    with pytest.raises(ValueError, match=r"base holds the results of other settings: template differ"):
        evaluate(tiny_llava, adapter, tmp_path / "two", shared, "--template=vicuna_v1", *SIZES)


@pytest.fixture
def steered(tiny_llava, tmp_path):
    folder = Path(save_adapter(tiny_llava, tmp_path / "steered", seed=3))
    wanted = {"helpfulness": 4, "correctness": 4, "coherence": 4, "complexity": 2, "verbosity": 2}
    lineage = {"template": "llava_hf", "steer": {"form": "likert", "attributes": wanted}}
    (folder / "lineage.json").write_text(json.dumps(lineage))
    return folder


def test_only_the_aligned_model_is_asked_for_attributes(tiny_llava, adapter, steered, tmp_path, monkeypatch):
    """One set of weights, asked in both ways: the base's prompts stay plain, the aligned model's end in the request."""
    seen = []
    generate = models.generate
    monkeypatch.setattr(
        models, "generate", lambda m, t, prompts, *a, **k: seen.append(prompts) or generate(m, t, prompts, *a, **k)
    )
    evaluate(tiny_llava, str(steered), tmp_path / "out", *SIZES)
    for base, aligned in zip(seen[::2], seen[1::2], strict=True):
        for plain, asking in zip(base, aligned, strict=True):
            request = "Helpfulness:4,Correctness:4,Coherence:4,Complexity:2,Verbosity:2"
            assert asking.messages[-1].content[-1].text.endswith(request)
            assert asking.messages[-1].content[:-1] == plain.messages[-1].content
            assert asking.images == plain.images
    expected = "likert: helpfulness 4, correctness 4, coherence 4, complexity 2, verbosity 2"
    assert read_scores(tmp_path / "out").lineage["attributes"] == expected
    evaluate(tiny_llava, adapter, tmp_path / "plain", *SIZES)
    assert "attributes" not in read_scores(tmp_path / "plain").lineage
    plain, asked = answers_in(tmp_path / "plain"), answers_in(tmp_path / "out")
    assert [each["base"] for each in plain] == [each["base"] for each in asked]
    assert [each["aligned"] for each in plain] != [each["aligned"] for each in asked]


def test_other_attributes_are_another_evaluation(tiny_llava, steered, tmp_path):
    evaluate(tiny_llava, str(steered), tmp_path / "out", *SIZES)
    with pytest.raises(ValueError, match="attributes differ"):
        evaluate(tiny_llava, str(steered), tmp_path / "out", "--attributes={verbosity: 0}", *SIZES)
    evaluate(tiny_llava, str(steered), tmp_path / "terse", "--attributes={verbosity: 0}", *SIZES)
    assert read_scores(tmp_path / "terse").lineage["attributes"].endswith("complexity 2, verbosity 0")


@pytest.mark.parametrize(("attributes", "message"), [("{verbosity: 5}", "from 0 to 4"), ("{vebosity: 1}", "no other")])
def test_attributes_that_cannot_be_asked_for_are_refused(tiny_llava, steered, tmp_path, attributes, message):
    with pytest.raises(ValueError, match=message):
        evaluate(tiny_llava, str(steered), tmp_path / "out", f"--attributes={attributes}", *SIZES)


def test_an_adapter_that_knows_no_attributes_is_not_asked_for_any(tiny_llava, adapter, tmp_path):
    with pytest.raises(ValueError, match="none of SteerLM"):
        evaluate(tiny_llava, adapter, tmp_path / "out", "--attributes={verbosity: 0}", *SIZES)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory, png):
    """Seven pairs by direct preference, pictures and texts of many lengths."""
    folder = tmp_path_factory.mktemp("shards") / "pairs"
    with ShardWriter(folder) as writer:
        for number, colour in enumerate(("red", "green", "blue", "black", "white", "pink", "gray")):
            writer.write(
                Sample(
                    key=colour,
                    messages=(Message("user", (ImageSlot(), Text("Which colour?"))),),
                    images=(png(colour),),
                    responses=(Response(text=f"It is {colour}"), Response(text="No idea " * (number + 1))),
                    preference=Preference(0, 1),
                )
            )
    return folder


def test_preference_suite_scores_every_pair_as_the_trainer_does(tiny_llava, adapter, pairs, tmp_path, png):
    evaluate(
        tiny_llava, adapter, tmp_path, "--suite=preferences", f"--shards={pairs}", "--batch_size=3", "--resamples=100"
    )
    lines = [json.loads(line) for line in (tmp_path / "pairs.jsonl").read_text().splitlines()]
    assert len(lines) == 7
    assert all(line["base_chosen"] != line["aligned_chosen"] for line in lines)
    shares = [line["aligned_chosen"] > line["aligned_rejected"] for line in lines]
    assert read_scores(tmp_path)["preference_accuracy"].aligned.value == pytest.approx(sum(shares) / 7)

    template = Template(load_processor(tiny_llava), "llava_hf")
    row = Row(
        "pair",
        (Message("user", (ImageSlot(), Text("Which colour?"))),),
        (png("red"),),
        (Answer("It is red", Role.CHOSEN), Answer("No idea ", Role.REJECTED)),
    )
    batch = Collator(pad_token_id=template.tokenizer.pad_token_id)([RowEncoder(template, max_length=500)(row)])
    llava = Llava(BackboneSettings(checkpoint=tiny_llava, dtype="float32", lora_rank=2, lora_alpha=4))  # B is zero
    with torch.no_grad():
        expected = response_logps(llava.eval(), batch).sums.tolist()
    main(["report", "--evaluation", str(tmp_path)])
    assert "held-out preference pairs" in (tmp_path / "report.html").read_text()

    red = next(line for line in lines if line["id"].endswith("red"))
    assert [red["base_chosen"], red["base_rejected"]] == pytest.approx(expected, abs=1e-4)


def test_pairs_without_pictures_are_scored(tiny_llava, adapter, tmp_path):
    with ShardWriter(tmp_path / "shards") as writer:
        for key in ("one", "two"):
            responses = (Response(text="Yes."), Response(text="No."))
            messages = (Message("user", (Text("Is it?"),)),)
            writer.write(Sample(key=key, messages=messages, responses=responses, preference=Preference(0, 1)))
    arguments = ("--suite=preferences", f"--shards={tmp_path / 'shards'}", "--resamples=100")
    evaluate(tiny_llava, adapter, tmp_path / "out", *arguments)
    assert len((tmp_path / "out" / "pairs.jsonl").read_text().splitlines()) == 2


@pytest.mark.parametrize(("asked", "expected"), [(None, False), (True, True)])
def test_pictures_are_padded_as_in_training_unless_told(tiny_llava, tmp_path, asked, expected):
    folder = Path(save_adapter(tiny_llava, tmp_path, seed=3))
    (folder / "lineage.json").write_text(json.dumps({"pad_images": False}))
    both = BaseAndAligned(tiny_llava, folder, pad_images=asked)
    assert both.template.processor.image_processor.do_pad is expected


def test_preference_suite_goes_on(tiny_llava, adapter, pairs, tmp_path):
    arguments = ("--suite=preferences", f"--shards={pairs}", "--batch_size=2", "--resamples=100")
    evaluate(tiny_llava, adapter, tmp_path, *arguments)
    whole = (tmp_path / "pairs.jsonl").read_bytes()
    (tmp_path / "pairs.jsonl").write_bytes(whole[: len(whole) // 2])
    evaluate(tiny_llava, adapter, tmp_path, *arguments)
    first, again = (
        [json.loads(line) for line in text.splitlines()] for text in (whole, (tmp_path / "pairs.jsonl").read_bytes())
    )
    assert [line["id"] for line in again] == [line["id"] for line in first]
    for line, expected in zip(again, first, strict=True):  # other batches, other padding
        assert list(line.values())[1:] == pytest.approx(list(expected.values())[1:], abs=1e-3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--suite=preferences",), "needs `--shards DIR`"),
        (("--shards=somewhere",), "is for `--suite preferences`"),
        (("--suite=preferences", "--shards=/nowhere"), r"--shards.*nowhere"),
        (("--suite=preferences", "--shards=/nowhere", "--base_answers=b"), "`--base_answers` is for `--suite world`"),
        (("--suite=preferences", "--shards=/nowhere", "--attributes={a: 1}"), "`--attributes` is for `--suite world`"),
    ],
)
def test_options_that_do_not_fit_are_refused(tiny_llava, adapter, tmp_path, arguments, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        evaluate(tiny_llava, adapter, tmp_path, *arguments)


def test_missing_adapter_is_named(tiny_llava, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"No adapter in .*mmalign export"):
        evaluate(tiny_llava, str(tmp_path / "absent"), tmp_path)


def test_adapter_of_another_model_is_refused(tiny_llava, adapter, tmp_path):
    """Weights of another width."""
    from safetensors.torch import load_file, save_file

    broken = tmp_path / "adapter"
    broken.mkdir()
    for name in ("adapter_config.json", "lineage.json"):
        (broken / name).write_text((tmp_path.__class__(adapter) / name).read_text())
    weights = load_file(f"{adapter}/adapter_model.safetensors")
    save_file({name: torch.zeros(3, 5) for name in weights}, broken / "adapter_model.safetensors")
    with pytest.raises(ValueError, match=r"does not fit .*--checkpoint"):
        evaluate(tiny_llava, str(broken), tmp_path / "out")
