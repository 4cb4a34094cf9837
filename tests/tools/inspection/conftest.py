"""Shard sets to look at: everything a page can show, and everything that people could put into one."""

import pytest

from mmalign.data.lineage import Step
from mmalign.data.reader import ShardSet
from mmalign.data.rows import RowEncoder
from mmalign.data.sample import Judgment, Preference, Response, Sample
from mmalign.data.shards import ShardWriter
from mmalign.data.views import Pairs
from mmalign.messages import ImageSlot, Message, Text
from mmalign.processor import load_processor
from mmalign.template import Template
from mmalign.tools.inspection.rows import RowReader
from mmalign.tools.inspection.validation import Validator

HOSTILE = (
    "<script>window.hit = 1; alert(1)</script></script><script>window.hit = 2</script>"
    "</style><style>* { display: none !important }</style>"
    '<img src="https://example.com/x.png" onerror="window.hit = 3"><svg onload="window.hit = 4"></svg>'
    '<a href="javascript:window.hit = 5">here</a>" autofocus onfocus="window.hit = 6" x="'
    "{{ 7 * 7 }} \u202egnp.exe\u202c zero\u200bwidth \x1b[31m"
)


def ask(text, pictures=1):
    return (Message("user", (*(ImageSlot() for _ in range(pictures)), Text(text))),)


def rated(text, score, model="llava", **others):
    ratings = {"helpfulness": score, "correctness": score, "coherence": 4, "complexity": 1, "verbosity": 2}
    return Response(text=text, model=model, ratings=ratings, **others)


@pytest.fixture(scope="session")
def rich(tmp_path_factory, png):
    """Judged answers, a direct preference, several turns, a broken picture, a prompt alone."""
    folder = tmp_path_factory.mktemp("rich") / "set"
    first = rated(
        "A red square on a white wall.",
        4,
        rationale="Names what is there.",
        judge="gemini",
        place=2,
        sampling={"seed": 3},
        judgments=(
            Judgment(judge="gpt", ratings={"helpfulness": 3}, rationale="Fine."),
            Judgment(judge="claims", invalid="no JSON in the reply"),
        ),
    )
    second = rated("A blue square on a white wall.", 1, rationale="It is red.", judge="gemini", place=0)
    talk = (Message("system", (Text("Be kind."),)), *ask("Compare.", 2), Message("assistant", (Text("They differ."),)))
    with ShardWriter(folder) as writer:
        pair = (first, second, rated("Red.", 3, "other", judge="gemini"))
        judged = Sample(key="judged", messages=ask("What is this?"), images=(png("red"),), responses=pair, source="a")
        writer.write(judged)
        chosen = {"responses": (Response(text="Both."), Response(text="None of them.")), "preference": Preference(1, 0)}
        pictures = (png("red"), png("blue", (300, 200)))
        messages = (*talk, *ask("How?", 0))
        writer.write(Sample(key="turns", messages=messages, images=pictures, source="people", **chosen))
        broken = png("red", (200, 200))[:200]
        writer.write(Sample(key="broken", messages=ask("Hm?"), images=(broken,), source="people", **chosen))
        writer.write(Sample(key="lone", messages=ask("Why?", 0)))
        writer.lineage = (Step("import llava", "a.json", "9f2c", {}, {"samples": 4}), Step("judge", "shards/a", "77ab"))
    return folder


@pytest.fixture(scope="session")
def hostile(tmp_path_factory, png):
    """One sample, markup in all that is text."""
    folder = tmp_path_factory.mktemp("hostile") / "set"
    judge = {"rationale": HOSTILE, "judge": HOSTILE}
    answers = (
        rated(f"good {HOSTILE}", 4, HOSTILE, **judge, sampling={HOSTILE: HOSTILE}),
        rated(f"bad {HOSTILE}", 0, HOSTILE, **judge, judgments=(Judgment(judge="gpt", invalid=HOSTILE),)),
        Response(text=HOSTILE, ratings={HOSTILE: 1.0, "b": 2.0}),
    )
    with ShardWriter(folder) as writer:
        sample = Sample(key="x", messages=ask(HOSTILE), images=(png("red"),), responses=answers[:2], source=HOSTILE)
        writer.write(sample)
        own = {"responses": answers[2:], "source": "b"}
        writer.write(Sample(key="y", messages=ask(HOSTILE, 0), **own))
        writer.lineage = (Step(HOSTILE, HOSTILE, "9f2c", {}, {HOSTILE: 1}),)
    return folder


@pytest.fixture(scope="session")
def tiny_template(tiny_llava):
    return Template(load_processor(tiny_llava))


@pytest.fixture(scope="session")
def reader_of(tiny_template):
    """`reader_of(folder, view)`: makes rows for the tiny LLaVA."""

    def make(folder, view=None):
        return RowReader(
            ShardSet(str(folder)), view or Pairs(), tiny_template, RowEncoder(tiny_template, max_length=900)
        )

    return make


@pytest.fixture(scope="session")
def validator(tiny_template):
    return Validator(tiny_template, max_length=900, overlong="refuse")
