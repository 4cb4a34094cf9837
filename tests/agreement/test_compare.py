"""What is compared, golden by hand; and noise planted in the embedded world, which must be found."""

from dataclasses import replace
from random import Random

import numpy as np
import pytest

from mmalign.agreement.compare import CHOICE, LENGTH, Section, compare
from mmalign.agreement.raters import collect
from mmalign.data.sample import Judgment, Preference, Response, Sample
from mmalign.data.views import QUALITY
from mmalign.judges.exact import ExactWorldJudge
from mmalign.messages import parse_messages
from mmalign.steering import ATTRIBUTES
from mmalign.world.tasks import task, tasks
from mmalign.world.teacher import teacher_answer

FEW = 20


def finding(found, section, *raters, aspect=None):
    """The one finding of a section about these raters."""
    (one,) = [
        each
        for each in found
        if each.section == section and each.raters == raters and (aspect is None or each.aspects[-1] == aspect)
    ]
    return one


def value(found, section, name, *raters, aspect=None):
    return finding(found, section, *raters, aspect=aspect).values[name].value


@pytest.fixture
def judged(answer, sample):
    """Three samples of two answers: gpt is right twice and ties once; gem fails with an answer of the last."""

    def quality(score):
        return {"helpfulness": score, "correctness": score, "coherence": 4}

    rows = [((4, 2), (3, 1), ("long answer", "short")), ((1, 3), (2, 4), ("a", "bb")), ((2, 2), ("?", 1), ("c", "dd"))]
    samples = []
    for gpt, gem, texts in rows:
        answers = [
            answer(text, places={"gpt": i}, gpt=quality(a), gem=b if b == "?" else quality(b))
            for i, (a, b, text) in enumerate(zip(gpt, gem, texts, strict=True))
        ]
        samples.append(sample(*answers, chosen=(0, 1)))
    return compare(collect(samples), resamples=FEW)


def test_choices_golden(judged):
    """gpt against the preference: right, wrong, tie. gem has no say in the third pair, which is counted as invalid."""
    both = finding(judged, Section.CHOICES, "preference", "gpt")
    assert both.counts == {"pairs": 3, "decided": 2, "ties": 1, "invalid": 0}
    assert both.values["accuracy"].value == 0.5
    assert both.values["ties_half"].value == 0.5
    judges = finding(judged, Section.CHOICES, "gem", "gpt")
    assert judges.counts == {"pairs": 2, "decided": 2, "ties": 0, "invalid": 1}
    assert judges.values["accuracy"].value == judges.values["kappa"].value == 1


def test_aspects_golden(judged):
    """The preference, always the first answer, against differences 2, -2, 0: correlation 0; coherence never differs."""
    assert value(judged, Section.ASPECTS, "correlation", "preference", "gpt", aspect="helpfulness") == 0
    flat = finding(judged, Section.ASPECTS, "preference", "gpt", aspect="coherence")
    assert flat.counts["ties"] == 3
    assert np.isnan(flat.values["accuracy"].value)
    assert np.isnan(flat.values["correlation"].value)


def test_ratings_golden(judged):
    """Five answers that both rated: (3, 4), (1, 2), (2, 1), (4, 3), (1, 2): none equal; the sixth is invalid."""
    both = finding(judged, Section.RATINGS, "gem", "gpt", aspect="helpfulness")
    assert both.counts == {"answers": 5, "invalid": 1}
    assert both.values["exact"].value == 0
    oracle = np.corrcoef([3, 1, 2, 4, 1], [4, 2, 1, 3, 2])[0, 1]
    assert both.values["pearson"].value == pytest.approx(oracle)


def test_length_and_position_golden(judged):
    """gpt decides two pairs, chooses the longer answer in both, and the one shown first in one; gem has no places."""
    length = finding(judged, Section.LENGTH, "gpt", aspect=CHOICE)
    assert length.counts == {"pairs": 3, "decided": 2, "invalid": 0}
    assert length.values["longer_wins"].value == 1
    assert value(judged, Section.LENGTH, "longer_wins", "preference", aspect=CHOICE) == pytest.approx(1 / 3)
    position = finding(judged, Section.POSITION, "gpt", aspect=CHOICE)
    assert position.values["first_wins"].value == 0.5
    means = finding(judged, Section.POSITION, "gpt", aspect="helpfulness").values
    assert [means[f"place_{place}"].value for place in (0, 1)] == pytest.approx([7 / 3, 7 / 3])
    assert not [each for each in judged if each.section == Section.POSITION and "gem" in each.raters]


def test_the_heatmap_has_every_column_against_every_other(judged):
    """The preference, three ratings of two judges, and length."""
    cells = [each for each in judged if each.section == Section.CORRELATION]
    columns = {pair for each in cells for pair in zip(each.raters, each.aspects, strict=True)}
    assert len(columns) == 1 + 2 * 3 + 1
    assert len(cells) == 8 * 7 / 2
    assert {("preference", CHOICE), (LENGTH, CHOICE), ("gem", "coherence")} <= columns


def test_a_rater_against_a_copy_of_itself_is_one(answer, sample):
    """Choices, ratings and the correlation of differences."""
    rng = np.random.default_rng(0)
    scores = rng.integers(0, 5, (50, 3)).tolist()
    samples = [
        sample(*(answer(a={"helpfulness": each}, b={"helpfulness": each}) for each in three)) for three in scores
    ]
    found = compare(collect(samples), resamples=FEW)
    for section in (Section.CHOICES, Section.RATINGS, Section.CORRELATION):
        for name, each in finding(found, section, "a", "b").values.items():
            assert each == pytest.approx((1, 1, 1)), name


def world_samples(num_tasks, num_copies):
    """Tasks of the world with right, foreign, cut and wrong answers, each several times; no model is asked."""
    samples = []
    for task_id in tasks("preference", "preference", num_tasks):
        each = task(task_id)
        gold, words = each.gold, each.gold.split()
        texts = [gold, teacher_answer(each), " ".join(words[: len(words) // 2]), "", "I can see a red circle."]
        texts.append(gold.replace("red", "blue").replace("circle", "square"))
        responses = tuple(Response(text=text) for text in texts * num_copies)
        messages = parse_messages(each.messages)
        samples.append(Sample(key=task_id.replace("/", "-"), messages=messages, responses=responses, id=each.id))
    return samples


@pytest.mark.slow
def test_planted_noise_is_found_in_the_ratings():
    """Exact agreement and kappa of each aspect follow from the noise alone; 0.02 is above 3 standard errors.

    24,000 answers: the standard error of the agreement is at most 0.5 / 155 = 0.0032, that of kappa below twice this.
    """
    noise, num_texts, samples = 0.3, 6, []
    exact, noisy = ExactWorldJudge(), ExactWorldJudge(noise=noise)
    for asked in world_samples(100, 40):
        said = zip(asked.responses, exact.judgments(asked), noisy.judgments(asked), strict=True)
        answers = [response.judged(first).judged(second) for response, first, second in said]
        parts = (answers[start : start + num_texts] for start in range(0, len(answers), num_texts))
        samples += [replace(asked, responses=tuple(part)) for part in parts]
    collected = collect(samples)
    found = compare(collected, resamples=2)
    for aspect in ATTRIBUTES:
        _, counts = np.unique(collected.raters[exact.name].values[aspect], return_counts=True)
        squares = float(((counts / counts.sum()) ** 2).sum())
        kappa = (1 - noise) * (1 - squares) / ((1 - noise) * (1 - squares) + noise * 4 / 5)
        both = finding(found, Section.RATINGS, exact.name, noisy.name, aspect=aspect)
        assert both.counts["answers"] == 24_000
        assert both.values["exact"].value == pytest.approx(1 - noise + noise / 5, abs=0.02)
        assert both.values["kappa"].value == pytest.approx(kappa, abs=0.02)


def test_planted_flips_are_found_in_the_choices():
    """A rater that turns round each choice of the exact judge by chance p: accuracy 1 - p, kappa 1 - 2 p.

    15,000 pairs: the standard error of the accuracy is 0.4 / 122 = 0.0033, that of kappa twice this, 0.0065.
    """
    flipped, exact, rng, samples = 0.2, ExactWorldJudge(), Random(0), []
    for asked in world_samples(100, 1):
        answers = [each.judged(said) for each, said in zip(asked.responses, exact.judgments(asked), strict=True)]
        quality = [sum(each.ratings[name] for name in QUALITY) for each in answers]
        best = int(np.argmax(quality))
        worst = answers[int(np.argmin(quality))]
        right, wrong = (
            replace(asked, responses=(answers[best], worst), preference=Preference(turned, 1 - turned))
            for turned in (0, 1)
        )
        samples += [wrong if rng.random() < flipped else right for _ in range(150)]
    found = compare(collect(samples, ["preference", exact.name]), resamples=2)
    both = finding(found, Section.CHOICES, "preference", exact.name)
    assert both.counts["decided"] == both.counts["pairs"] == 15_000
    assert both.values["accuracy"].value == pytest.approx(1 - flipped, abs=0.02)
    assert both.values["kappa"].value == pytest.approx(1 - 2 * flipped, abs=0.02)


def test_planted_biases_are_found(answer, sample):
    """A rater that only likes length, and one that only likes what it is shown first: 100 %, intervals included."""
    rng, samples = Random(0), []
    for _ in range(60):
        texts = ["x" * rng.randrange(1, 99) for _ in range(4)]
        places = rng.sample(range(4), 4)
        samples.append(
            sample(
                *(
                    answer(text, places={"first": at, "long": at}, first={"q": float(at == 0)}, long={"q": len(text)})
                    for text, at in zip(texts, places, strict=True)
                )
            )
        )
    found = compare(collect(samples), resamples=200)
    assert finding(found, Section.LENGTH, "long", aspect="q").values["longer_wins"] == (1, 1, 1)
    assert finding(found, Section.POSITION, "first", aspect="q").values["first_wins"] == (1, 1, 1)
    unbiased = finding(found, Section.POSITION, "long", aspect="q").values["first_wins"]
    assert unbiased.low < 0.5 < unbiased.high
    assert value(found, Section.LENGTH, "pearson", "long", aspect="q") == pytest.approx(1)


def test_judgments_alone_make_no_sample_invalid():
    """A judge that failed everywhere has no finding of its own but its count."""
    failed = Judgment(judge="gpt", invalid="no reply")
    responses = tuple(Response(text=text).judged(failed) for text in ("a", "b"))
    asked = world_samples(1, 1)[0]
    found = compare(collect([replace(asked, responses=responses)], ["world", "gpt"]), resamples=FEW)
    assert not [each for each in found if each.section == Section.CHOICES]
    cells = [each for each in found if each.section == Section.CORRELATION]
    assert {each.counts["invalid"] for each in cells} == {0}
