"""The embedded world as a benchmark: the tasks and the numbers of `mmalign evaluate --suite world`."""

import io

import pytest
from PIL import Image

from mmalign.evaluation.answers import Answer as BothAnswers
from mmalign.evaluation.benchmarks.world import ANSWER_TOKENS, World
from mmalign.evaluation.paired import compare
from mmalign.evaluation.steps.benchmark import Benchmark
from mmalign.evaluation.steps.comparing import compare_scored
from mmalign.evaluation.steps.faults import Handling
from mmalign.evaluation.steps.generating import conversation, generate
from mmalign.evaluation.steps.generating_local import PolicyAnswerer
from mmalign.evaluation.steps.records import Answer
from mmalign.evaluation.world import held_out_ids, measures
from mmalign.generate import Prompt, Sampling
from mmalign.generate import generate as generate_texts
from mmalign.messages import parse_messages
from mmalign.sampling.policy import load_policy
from mmalign.world.tasks import task

SMALL = World(describe=6, yes_no=6, text=5, other=10)
COUNT = Handling(on_bad="count")


def gold(bench=SMALL, model="gold"):
    return [Answer(ask.id, [task(ask.id).gold], model) for ask in bench.asks()]


def test_it_is_a_benchmark_and_its_protocol_names_the_tasks():
    assert isinstance(SMALL, Benchmark)
    assert SMALL.protocol == "world/heldout-6-6-5-10"
    assert len(held_out_ids(World().sizes)) == 900


def test_the_model_gets_the_tasks_as_they_are():
    """Second turns have their first one, answered, before them, and the pictures stand there."""
    for ask in SMALL.asks():
        asked, talk = task(ask.id), conversation(ask, [], 0)
        assert talk.messages == parse_messages(asked.messages)
        pictures = [Image.open(io.BytesIO(picture.read())) for picture in talk.pictures]
        assert [each.tobytes() for each in pictures] == [each.tobytes() for each in asked.images]
        assert (ask.temperature, ask.max_new_tokens, len(ask.turns)) == (0, ANSWER_TOKENS, 1)
    assert {len(ask.history) for ask in SMALL.asks()} == {0, 1}


def test_gold_answers_are_perfect():
    found = SMALL.score(gold(), [], Handling())
    assert (found.headline.name, found.headline.value) == ("quality", 12)
    assert (found.num_questions, found.num_scored, found.model) == (27, 27, "gold")
    assert [item.score for item in found.items] == [12] * 27
    assert found.items[0].expected == found.items[0].answer


def test_its_comparisons_are_those_of_the_suite():
    """Every second answer of the base is another task's; value, interval and verdict are the same to the last bit."""
    right = gold()
    wrong = [Answer(each.id, right[i - i % 2].turns, "base") for i, each in enumerate(right)]
    both = [BothAnswers(a.id, task(a.id).kind, "", b.text, a.text) for a, b in zip(right, wrong, strict=True)]
    expected = {each.name: compare(each, resamples=100) for each in measures(both)}
    found = compare_scored(SMALL.score(wrong, [], Handling()), SMALL.score(right, [], Handling()), resamples=100)
    assert [each.name for each in found] == list(expected)
    for each in found:
        paired = expected[each.name]
        assert str((each.base, each.aligned, each.difference)) == str((paired.base, paired.aligned, paired.difference))
        assert each.verdict == paired.verdict


def test_what_cannot_be_scored_is_an_error_or_counted():
    answers = gold()[1:]
    answers[3] = answers[3]._replace(turns=[], failure="the server refused")
    answers += [answers[5], Answer("world/heldout/describe/999999", ["A red circle."])]
    with pytest.raises(ValueError, match="not everything can be scored") as caught:
        SMALL.score(answers, [], Handling())
    assert "1: no answer: world/heldout/describe/000000" in str(caught.value)
    found = SMALL.score(answers, [], COUNT)
    assert found.num_scored == 24
    assert sorted(len(ids) for ids in found.failures.values()) == [1, 1, 1, 1]
    assert found["quality"].num_samples == 24
    with pytest.raises(ValueError, match="nothing to measure"):
        SMALL.score([], [], COUNT)


def test_sorts_that_are_not_asked_have_no_metric():
    names = {metric.name for metric in World(describe=0, other=0, text=5, yes_no=0).score(
        gold(World(describe=0, other=0, text=5, yes_no=0)), [], Handling()).metrics}  # fmt: skip
    assert "text_accuracy" in names
    assert not names & {"chair_i", "yes_ratio", "other_accuracy", "words"}


@pytest.mark.parametrize("sizes", [{"describe": -1}, {"describe": 0, "yes_no": 0, "text": 0, "other": 0}])
def test_sizes_that_ask_nothing_are_refused(sizes):
    with pytest.raises(ValueError, match="0 or more tasks of each sort"):
        World(**sizes)


def test_judgments_and_no_answers_are_refused():
    with pytest.raises(ValueError, match="give `--answers`, and no `--judgments`"):
        SMALL.score(None, [], Handling())
    assert SMALL.read_answers([{"id": "a", "text": "b"}]) == [Answer("a", ["b"])]


@pytest.mark.slow
def test_the_embedded_model_answers_the_same_at_any_batch_size(tmp_path):
    """And as `mmalign evaluate --suite world` has it answer."""
    bench, policy = World(describe=4, yes_no=3, text=5, other=5), load_policy("embedded")
    found = [generate(bench, PolicyAnswerer(policy, batch_size=size), tmp_path / str(size)) for size in (1, 7, 50)]
    assert found[0] == found[1] == found[2]
    asked = [task(each.id) for each in found[0]]
    prompts = [Prompt(parse_messages(each.messages), tuple(each.images)) for each in asked]
    sampling = Sampling(max_new_tokens=ANSWER_TOKENS)
    texts = generate_texts(policy.model, policy.template, prompts, sampling, batch_size=50)
    assert [each.text for each in found[0]] == texts
    assert {reason for each in found[0] for reason in each.finish_reasons} == {"stop"}
