"""The exact world as a judge, plain and with planted noise."""

from dataclasses import replace

import pytest

from mmalign.data.reader import ShardSet
from mmalign.data.rowset import Source
from mmalign.data.sample import Response, Sample
from mmalign.judges.exact import ExactWorldJudge
from mmalign.judges.judge import Judge
from mmalign.messages import Message, Text, parse_messages
from mmalign.steering import ATTRIBUTES
from mmalign.world.judge import WorldJudge
from mmalign.world.tasks import task


def asked(task_id: str, *answers: str) -> Sample:
    messages = parse_messages(task(task_id).messages)
    return Sample(key="k", id=task_id, messages=messages, responses=tuple(Response(text=text) for text in answers))


@pytest.fixture(scope="module")
def shipped():
    """The first samples of the shards that ship, with the exact ratings they were built with."""
    found = ShardSet(Source(path="world-heldout").resolve())
    return [found[number] for number in range(20)]


def test_without_noise_it_gives_the_ratings_that_the_shipped_shards_have(shipped):
    """Found by the sample's id alone; the teacher's answers, which nobody rated there, are rated too."""
    for sample in shipped:
        for response, judgment in zip(sample.responses, ExactWorldJudge().judgments(sample), strict=True):
            assert judgment.judge == WorldJudge.name
            assert judgment.place is None  # it sees one answer at a time
            assert set(judgment.ratings) == set(ATTRIBUTES)
            if response.ratings:
                assert (judgment.ratings, judgment.rationale) == (response.ratings, response.rationale)


def test_rate_reports_every_sample_with_one_judgment_a_response(shipped):
    """In order, with what `judgments` says."""
    judge: Judge = ExactWorldJudge(noise=0.5)
    assert isinstance(judge, Judge)
    reported = []
    judge.rate(iter(shipped), lambda *both: reported.append(both))
    assert reported == [(sample, judge.judgments(sample)) for sample in shipped]


@pytest.mark.parametrize("noise", [0.0, 0.3])
def test_a_sample_of_other_origin_is_invalid_never_zero(noise):
    """An id of elsewhere, or a prompt that is not the id's: no ratings, and the reason."""
    right = asked("world/heldout/is_there/000042", "Yes.", "No.")
    foreign = replace(right, id="coco/7")
    reworded = replace(right, messages=(Message("user", (Text("What is this?"),)),))
    for sample, reason in ((foreign, "'coco/7' is none of its ids"), (reworded, "its prompt is not that of world/")):
        judgments = ExactWorldJudge(noise=noise).judgments(sample)
        assert len(judgments) == 2
        for judgment in judgments:
            assert judgment.invalid.startswith("not of the embedded world: ")
            assert reason in judgment.invalid
            assert not judgment.ratings


def test_noise_depends_on_seed_sample_answer_and_aspect_alone():
    """Judged again, or beside others, an answer keeps its ratings; another seed, or place, errs elsewhere."""
    ids = [f"world/heldout/is_there/{number:06d}" for number in range(30)]
    samples = [asked(task_id, *["Yes."] * 6) for task_id in ids]
    judge = ExactWorldJudge(noise=0.5)
    first = [judge.judgments(sample) for sample in samples]
    assert [ExactWorldJudge(noise=0.5).judgments(sample) for sample in reversed(samples)] == first[::-1]
    assert judge.judgments(replace(samples[3], responses=samples[3].responses[:2])) == first[3][:2]
    assert [ExactWorldJudge(noise=0.5, seed=1).judgments(sample) for sample in samples] != first
    assert len({tuple(judgment.ratings.values()) for judgment in first[0]}) > 1  # the same text six times
    assert len({tuple(each[0].ratings.values()) for each in first}) > 5


def test_noise_stays_on_the_scale_and_says_what_it_drew():
    """Whole numbers from 0 to 4, all five of them; the reason names the aspects that are not the exact judge's."""
    sample = asked("world/heldout/describe/000003", *["I can see a large red circle."] * 400)
    (exact, *_) = ExactWorldJudge().judgments(sample)
    noisy = ExactWorldJudge(noise=1.0).judgments(sample)
    for aspect in ATTRIBUTES:
        assert {judgment.ratings[aspect] for judgment in noisy} == {0, 1, 2, 3, 4}
    for judgment in ExactWorldJudge(noise=0.3).judgments(sample):
        drawn = judgment.rationale.removeprefix(exact.rationale).removeprefix(" Noise, drawn anew: ").rstrip(".")
        assert all(judgment.ratings[name] == exact.ratings[name] for name in ATTRIBUTES if name not in drawn)


def test_the_name_says_the_noise():
    """So that nobody takes planted errors for the exact judge, or one seed for another."""
    names = [ExactWorldJudge(**each).name for each in ({}, {"noise": 0.3}, {"noise": 0.3, "seed": 7})]
    assert names == ["mmalign-world-exact", "world-noise-0.3", "world-noise-0.3-seed-7"]
    assert ExactWorldJudge(noise=0.3, seed=7).settings() == {"judge": names[2], "noise": 0.3, "seed": 7}


@pytest.mark.parametrize("noise", [-0.1, 1.1])
def test_noise_that_is_no_chance_is_refused(noise):
    """With what to do."""
    with pytest.raises(ValueError, match=r"in \[0, 1\], got .* For none use 0"):
        ExactWorldJudge(noise=noise)
