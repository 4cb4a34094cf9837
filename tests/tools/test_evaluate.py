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
    monkeypatch.setattr("mmalign.tools.evaluate.ANSWER_TOKENS", 8)


def evaluate(checkpoint, adapter, out, *more):
    return main(["evaluate", "--checkpoint", checkpoint, "--adapter", adapter, "--out", str(out), *more])


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
    asked = []
    answer = BaseAndAligned.answer

    def counted(self, prompts, *args, **settings):
        if len(asked) == 2:
            raise KeyboardInterrupt
        asked.append(len(prompts))
        return answer(self, prompts, *args, **settings)

    monkeypatch.setattr(BaseAndAligned, "answer", counted)
    with pytest.raises(KeyboardInterrupt):
        evaluate(tiny_llava, adapter, tmp_path / "cut", *SIZES)
    asked.clear()
    evaluate(tiny_llava, adapter, tmp_path / "cut", *SIZES)
    assert asked == [6, 2]
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
    models = BaseAndAligned(tiny_llava, folder, pad_images=asked)
    assert models.template.processor.image_processor.do_pad is expected


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
