"""Numbers of a set, from its manifest."""

from collections import Counter

import numpy as np
import pytest

from mmalign.data.reader import ShardSet
from mmalign.data.sample import Preference, Response, Sample
from mmalign.data.shards import ShardWriter
from mmalign.messages import ImageSlot, Message, Text
from mmalign.tools.inspection.statistics import Histogram, histogram, statistics_of


def statistics_from(samples, folder):
    with ShardWriter(folder / "set") as writer:
        for sample in samples:
            writer.write(sample)
    return statistics_of(ShardSet(str(folder / "set")).manifest)


def ask(text, pictures=0):
    return (Message("user", (*(ImageSlot() for _ in range(pictures)), Text(text))),)


@pytest.fixture
def few(tmp_path, png):
    rated = Response(text="xxx", model="m", ratings={"helpfulness": 4, "fun": -1.5})
    again = Response(text="xxx", model="m", ratings={"fun": 2.5})
    pair = {"responses": (rated, Response(text="", model="n"), again), "preference": Preference(0, 1), "source": "s"}
    later = (*ask("A" * 10, 1), Message("assistant", (Text("B" * 10),)), *ask("C" * 10))
    one = (Response(text="nine char", model="m", ratings={"helpfulness": 1}),)
    return statistics_from(
        [
            Sample(key="a", messages=ask("A" * 10, 2), images=(png("red"), png("blue")), **pair),
            Sample(key="b", messages=later, images=(png("red"),), responses=one),
            Sample(key="c", messages=ask("A" * 20)),
        ],
        tmp_path,
    )


def test_samples_pictures_and_answers_are_counted(few):
    assert (few.num_samples, few.num_shards, few.sources) == (3, 1, (("", 2), ("s", 1)))
    assert (few.num_pictures, few.shared_pictures, few.sharing_samples) == (3, 1, 2)
    assert few.pictures_per_sample == Histogram(("0", "1", "2"), (1, 1, 1))
    assert few.answers_per_prompt == Histogram(("0", "1", "2", "3"), (1, 1, 0, 1))
    assert (few.num_answers, few.rated_answers, few.empty_answers, few.repeated_answers) == (4, 3, 1, 1)
    assert (few.models, few.direct_preferences) == ((("m", 3), ("n", 1)), 1)
    assert (few.prompt_lengths.median, few.answer_lengths.median) == (20, 3)


def test_helpsteers_names_have_their_whole_scale_and_come_first(few):
    helpfulness, fun = few.ratings
    assert (helpfulness.name, helpfulness.num_rated, helpfulness.mean) == ("helpfulness", 2, 2.5)
    assert helpfulness.histogram == Histogram(("0", "1", "2", "3", "4"), (0, 1, 0, 0, 1))
    assert (fun.name, fun.low, fun.high, sum(fun.histogram.counts)) == ("fun", -1.5, 2.5, 2)


def test_prompts_alone_have_no_answers(tmp_path):
    found = statistics_from([Sample(key=key, messages=ask("A")) for key in "ab"], tmp_path)
    assert (found.num_answers, found.answer_lengths, found.ratings, found.models) == (0, None, (), ())


def test_columns_say_what_a_loop_over_the_samples_says(color_shards):
    manifest = ShardSet(str(color_shards)).manifest
    entries, found = list(manifest.entries()), statistics_of(manifest)
    assert found.num_answers == sum(len(entry.answers) for entry in entries)
    assert dict(found.models) == Counter(model for entry in entries for model in entry.models)
    pictures = Counter(image for entry in entries for image in entry.images)
    assert found.shared_pictures == sum(count > 1 for count in pictures.values())
    assert found.sharing_samples == sum(any(pictures[i] > 1 for i in entry.images) for entry in entries)
    for each in found.ratings:
        values = [ratings[each.name] for entry in entries for ratings in entry.ratings]
        assert each.mean == pytest.approx(np.mean(values))


def test_many_values_share_ten_bars():
    found = histogram(list(range(100)))
    assert found.counts == (10,) * 10
    assert found.labels[0] == "0 to 10"
    assert histogram([0.5, 0.25]).counts[0] == 1
    assert histogram([]) == Histogram((), ())
