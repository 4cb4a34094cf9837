import pytest

from mmalign.evaluation.pope import parse_yes_no
from mmalign.world.judge import WorldJudge, is_right
from mmalign.world.measures import describe_counts
from mmalign.world.scene import SPLITS
from mmalign.world.tasks import KINDS, MIXES, task, tasks
from mmalign.world.text_tasks import TEXT_KINDS


@pytest.mark.parametrize("kind", KINDS)
def test_gold_answers_are_perfect(kind):
    """The judge finds nothing to object to in a gold answer, and the measures find no hallucination."""
    for each in map(task, tasks("heldout", kind, 100)):
        rated = WorldJudge().rate(each, each.gold)
        assert rated.scores() | {"complexity": 0, "verbosity": 0} == {
            "helpfulness": 4, "correctness": 4, "coherence": 4, "complexity": 0, "verbosity": 0,
        }, (each.id, rated)  # fmt: skip
        if each.form == "describe":
            counts = describe_counts(each, each.gold)
            assert counts.num_false == 0
            assert counts.num_covered == counts.num_things == counts.num_claimed
        else:
            assert is_right(each, each.gold)


@pytest.mark.parametrize("kind", KINDS)
def test_a_task_is_known_from_its_id(kind):
    """The same id gives the same prompt, pictures included; the next id another one."""
    first, second = tasks("preference", kind, 2)
    assert task(first) == task(first) != task(second)
    assert [image.tobytes() for image in task(first).images] == [image.tobytes() for image in task(first).images]
    slots = [part for message in task(first).messages for part in message["content"] if part["type"] == "image"]
    assert len(slots) == len(task(first).images) == {"two_images": 2, "no_picture": 0}.get(kind, kind not in TEXT_KINDS)
    assert task(first).messages[-1]["role"] == "user"


def test_yes_no_questions_are_balanced_as_in_pope():
    """Half of each category is answered by yes, and POPE's official parser reads every gold answer rightly."""
    asked = [task(each) for each in tasks("heldout", "is_there", 120)]
    for category in ("random", "popular", "adversarial"):
        values = [each.value for each in asked if each.category == category]
        assert (values.count("yes"), values.count("no")) == (20, 20)
    assert all(parse_yes_no(each.gold) == each.value for each in asked)


def test_a_mix_keeps_its_shares_from_the_start():
    """The preference mix is two thirds descriptions, in any stretch of it."""
    kinds = [each.split("/")[2] for each in tasks("preference", "preference", 200)]
    assert kinds.count("describe") == 130
    assert 60 <= kinds[:100].count("describe") <= 70
    assert set(kinds) == set(MIXES["preference"])
    assert all(sum(shares.values()) == 100 for shares in MIXES.values())


def test_text_only_wordings_belong_to_one_split():
    """No instruction is trained on and tested."""
    texts = {
        split: {task(each).question.text for kind in TEXT_KINDS for each in tasks(split, kind, 150)} for split in SPLITS
    }
    assert not texts["train"] & texts["heldout"]
    assert not texts["train"] & texts["preference"]


@pytest.mark.parametrize(
    "wrong", ["", "world/heldout/describe", "world/test/describe/1", "world/heldout/paint/1", "a/b/c/d"]
)
def test_an_unknown_id_is_refused(wrong):
    """The message says what ids look like."""
    with pytest.raises(ValueError, match="world/heldout/describe/000042"):
        task(wrong)


def test_an_unknown_mix_is_refused():
    """The message names the kinds and mixes."""
    with pytest.raises(ValueError, match="preference"):
        tasks("heldout", "everything", 3)
