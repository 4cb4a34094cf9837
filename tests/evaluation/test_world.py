import math

from mmalign.evaluation.answers import Answer
from mmalign.evaluation.paired import Verdict, compare
from mmalign.evaluation.pope import pope_score
from mmalign.evaluation.world import WorldSizes, held_out_ids, measures
from mmalign.world.measures import chair, describe_counts
from mmalign.world.tasks import task


def compared(answers):
    return {measure.name: compare(measure, resamples=200) for measure in measures(answers)}


def test_sizes_are_kept_and_tasks_are_held_out():
    ids = held_out_ids(WorldSizes(describe=7, yes_no=6, text=5, other=8))
    assert len(ids) == len(set(ids)) == 26
    assert all(task_id.startswith("world/heldout/") for task_id in ids)


def test_gold_answers_are_perfect_and_equal(small_answers):
    found = compared(small_answers)
    assert found["chair_i"].base.value == 0
    for name in ("object_recall", "yes_no_accuracy", "yes_no_f1", "text_accuracy", "other_accuracy"):
        assert found[name].base.value == found[name].aligned.value == 1
    assert {each.verdict for each in found.values()} == {Verdict.UNCLEAR}


def test_description_measures_equal_chair(small_answers):
    """A claim added to every second description; the paired measures are the world's own."""
    answers = [
        answer._replace(base=f"{answer.base} There is a purple cross and a black moon.")
        for answer in small_answers[:12:2]
    ] + small_answers[1:12:2]
    expected = chair([describe_counts(task(answer.id), answer.base) for answer in answers])
    found = compared(answers)
    assert found["chair_i"].base.value == expected.chair_i > 0
    assert found["chair_s"].base.value == expected.chair_s == 0.5
    assert found["object_recall"].base.value == expected.recall
    assert math.isclose(found["chair_i_unplanted"].base.value, expected.chair_i_unplanted)
    assert found["chair_i"].difference.value == -expected.chair_i
    assert found["words"].difference.value < 0


def test_open_quality_looks_at_descriptions_alone(small_answers):
    """Everything else is answered with nothing, which the measure of all tasks notices."""
    answers = [each if each.kind == "describe" else each._replace(aligned="") for each in small_answers]
    found = compared(answers)
    assert found["open_quality"].aligned == found["open_quality"].base
    assert found["open_quality"].num_samples == 12
    assert found["quality"].aligned.value < found["quality"].base.value
    shortened = compared([each._replace(aligned="") if each.kind == "describe" else each for each in small_answers])
    assert shortened["open_quality"].verdict == Verdict.WORSE


def test_yes_no_measures_equal_pope(small_answers):
    """A base that says yes to everything, an aligned model that is wrong on two."""
    asked = [answer for answer in small_answers if answer.kind == "is_there"]
    said = ["Yes" if i in (0, 5) else "No." for i in range(len(asked))]
    answers = [answer._replace(base="Yes.", aligned=text) for answer, text in zip(asked, said, strict=True)]
    labels = [task(answer.id).value for answer in asked]
    found = compared(answers)
    for who in ("base", "aligned"):
        expected = pope_score([getattr(answer, who) for answer in answers], labels)
        for ours, theirs in (("accuracy", "accuracy"), ("precision", "precision"), ("recall", "recall"), ("f1", "f1")):
            assert math.isclose(getattr(found[f"yes_no_{ours}"], who).value, getattr(expected, theirs))
        assert getattr(found["yes_ratio"], who).value == expected.yes_ratio


def test_measures_without_their_tasks_are_left_out():
    asked = task("world/heldout/sort/000000")
    found = compared([Answer(asked.id, asked.kind, asked.question.text, asked.gold, "no idea")])
    assert "chair_i" not in found
    assert "yes_no_accuracy" not in found
    assert found["text_accuracy"].difference.value == -1
