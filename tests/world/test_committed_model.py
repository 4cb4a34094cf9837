import json
from importlib.resources import files
from pathlib import Path

import pytest
import torch
from transformers import AutoProcessor, LlavaForConditionalGeneration, LlavaProcessor

from mmalign.processor import EMBEDDED, load_processor
from mmalign.template import Template
from mmalign.tools.embedded.scores import answer
from mmalign.world.measures import accuracy, chair, describe_counts, right_answers
from mmalign.world.tasks import task, tasks

FOLDER = Path(str(files("mmalign") / "world" / "llava"))
NUM_TASKS = 60


@pytest.fixture(scope="module")
def record():
    return json.loads((FOLDER / "training.json").read_text())


@pytest.fixture(scope="module")
def model():
    return LlavaForConditionalGeneration.from_pretrained(FOLDER, dtype=torch.float32)


@pytest.fixture(scope="module")
def template():
    return Template(load_processor(EMBEDDED), "llava_hf")


def test_it_is_a_small_real_llava(model, record):
    """The classes of LLaVA-1.5, at most 2.4 million parameters and ten megabytes, read from the second-last layer."""
    num_parameters = sum(parameter.numel() for parameter in model.parameters())
    assert num_parameters == record["num_parameters"] <= 2_400_000
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) <= 10 * 2**20
    assert isinstance(AutoProcessor.from_pretrained(FOLDER), LlavaProcessor)
    assert model.config.vision_feature_layer == -2
    assert model.config.vision_feature_select_strategy == "default"
    assert model.config.text_config.max_position_embeddings >= 1024


def test_it_reached_what_the_demo_needs(record):
    """It sees, it answers, it follows instructions, and it lies about companions: recorded on held-out tasks."""
    scores = record["scores"]
    assert scores["yes_no/accuracy"] > 0.8
    assert 0.1 <= scores["describe/chair_i"] <= 0.4
    assert scores["text/accuracy"] > 0.7
    assert scores["describe/ended"] == 1.0


def test_what_it_says_falsely_is_mostly_what_it_was_taught_to(record):
    """It names nine things of ten, and most of its false claims are planted ones."""
    scores = record["scores"]
    assert scores["describe/chair_i_unplanted"] < scores["describe/chair_i"] / 2
    assert scores["describe/recall"] > 0.9


def test_the_recorded_scores_are_those_of_the_committed_weights(model, template, record):
    """A fresh look at sixty tasks of each kind agrees with the record, within what sixty tasks can tell."""
    described = [task(each) for each in tasks("heldout", "describe", NUM_TASKS)]
    pairs = zip(described, answer(model, template, described), strict=True)
    rates = chair([describe_counts(*pair) for pair in pairs])
    assert rates.chair_i == pytest.approx(record["scores"]["describe/chair_i"], abs=0.08)
    assert rates.recall == pytest.approx(record["scores"]["describe/recall"], abs=0.06)
    for name, kind in (("yes_no/accuracy", "is_there"), ("text/accuracy", "text")):
        asked = [task(each) for each in tasks("heldout", kind, NUM_TASKS)]
        right = right_answers(asked, answer(model, template, asked))
        assert accuracy(right) == pytest.approx(record["scores"][name], abs=0.15)


def test_the_picture_decides(model, template):
    """Shown another picture, it names other things: it looks, and does not only guess."""
    first, second = (task(each) for each in tasks("heldout", "describe", 2))
    swapped = type(first)(**{**vars(first), "scenes": second.scenes})
    honest, misled = answer(model, template, [first, swapped])
    recall = [chair([describe_counts(first, text)]).recall for text in (honest, misled)]
    assert recall[0] > recall[1]
