"""What is wrong is named, with its sample; what is right is left alone."""

from dataclasses import replace

import pytest

from mmalign.data.reader import ShardSet
from mmalign.data.rowset import Source
from mmalign.data.sample import Judgment, Preference, Response, Sample
from mmalign.data.shards import ShardWriter
from mmalign.messages import ImageSlot, Message, Text
from mmalign.steering import LIKERT_REQUEST
from mmalign.tools.inspection.validation import Findings, Validator, check_all, picture_problem

SOUND = Sample(
    key="sound",
    messages=(Message("user", (Text("What is 2 < 3 in <b>HTML</b>?"),)),),
    responses=(Response(text="True."), Response(text="Four")),
    preference=Preference(0, 1),
)
SUFFIX = f"{LIKERT_REQUEST}Helpfulness:4,Correctness:4,Coherence:4,Complexity:4,Verbosity:4"


def prompted(text):
    return replace(SOUND, messages=(Message("user", (Text(text),)),))


def answered(*texts, **others):
    return replace(SOUND, responses=tuple(Response(text=text, **others) for text in texts), preference=None)


def found(validator, sample):
    return {(problem.level, problem.kind) for problem in validator.problems(sample)}


def test_a_sound_sample_has_no_problem(validator):
    assert validator.problems(SOUND) == []


@pytest.mark.parametrize(
    ("sample", "level", "kind"),
    [
        (prompted("<image>\nWhat is this?"), "error", "a placeholder is left in the prompt"),
        (prompted("What is this?</s>"), "error", "a placeholder is left in the prompt"),
        (prompted("<|image_1|> Hm?"), "error", "a placeholder is left in the prompt"),
        (prompted(f"Hm?{SUFFIX}{SUFFIX}"), "error", "the prompt asks for attributes twice"),
        (prompted(f"Hm?{SUFFIX}"), "warning", "the prompt asks for attributes already"),
        (prompted(" "), "warning", "the prompt has no text"),
        (prompted("half \ud83d"), "error", "half a character, which is no UTF-8"),
        (prompted("turned \u202e round"), "warning", "hidden characters"),
        (prompted("caf\ufffd"), "warning", "text was decoded by a wrong encoding"),
        (prompted("long " * 900), "error", "the prompt is too long"),
        (replace(SOUND, preference=Preference(1, 1)), "error", "chosen and rejected are the same text"),
        (
            replace(answered("Yes.", " "), preference=Preference(0, 1)),
            "error",
            "the chosen or the rejected answer is empty",
        ),
        (answered("Yes.", ""), "warning", "an answer is empty"),
        (answered("Yes.", "No.", "Yes."), "warning", "two answers are the same text"),
        (answered("It is <image> red."), "warning", "a placeholder is left in an answer"),
        (answered("Red. USER: And?"), "warning", "a placeholder is left in an answer"),
        (answered("word " * 60 + "and the"), "warning", "an answer seems cut"),
        (answered("Yes", sampling={"finish_reason": "length"}), "warning", "an answer seems cut"),
        (answered("word " * 800), "warning", "prompt and answer are too long"),
        (
            answered("", judgments=(Judgment(judge="gpt", invalid="a timeout"),)),
            "warning",
            "a judgment is invalid",
        ),
    ],
)
def test_every_problem_has_its_name(validator, sample, level, kind):
    assert (level, kind) in found(validator, sample)


@pytest.mark.parametrize(
    "text",
    [
        "word " * 60 + "and the end.",
        "A short answer without a full stop",
        "They are:\n" + "\n".join(f"- thing number {number} of the list" for number in range(12)),
        "这是" * 200,
        "code " * 60 + "}",
    ],
)
def test_an_answer_that_ends_is_not_called_cut(validator, text):
    assert found(validator, answered(text)) <= {("warning", "prompt and answer are too long")}


def test_a_row_that_is_too_long_is_an_error_where_training_would_stop(tiny_template):
    strict = Validator(tiny_template, max_length=900, overlong="raise")
    assert ("error", "prompt and answer are too long") in found(strict, answered("word " * 800))


def test_the_tokens_of_pictures_count(tiny_template, png):
    pictures = Sample(
        key="many",
        messages=(Message("user", (*[ImageSlot()] * 60, Text("Hm?"))),),
        images=(png("red"),) * 60,
    )
    assert found(Validator(tiny_template, max_length=900, overlong="refuse"), pictures) == {
        ("error", "the prompt is too long")
    }


def test_pictures_that_cannot_be_decoded_are_named(png):
    assert picture_problem(png("red")) == ""
    assert "truncated" in picture_problem(png("red", (200, 200))[:150])
    assert "UnidentifiedImageError" in picture_problem(b"GIF89a")


def test_all_samples_are_looked_at_and_the_unreadable_are_named(validator, tmp_path):
    with ShardWriter(tmp_path / "set") as writer:
        for number in range(100):
            writer.write(replace(SOUND, key=f"{number:03d}"))
    shard = next((tmp_path / "set").glob("*.tar"))
    data = bytearray(shard.read_bytes())
    data[data.index(b"HTML", len(data) // 2)] ^= 1
    shard.write_bytes(data)
    findings = Findings(shown=3)
    for checked in check_all(ShardSet(str(tmp_path / "set")), validator, range(100)):
        findings.add(checked)
    assert (findings.samples, findings.faulty, findings.total("error"), findings.total("warning")) == (100, 1, 1, 0)
    ((place, detail),) = findings.places["the sample cannot be read"]
    assert place.shard == shard.name
    assert place.key in detail


def test_of_many_problems_the_first_places_are_kept(validator):
    findings = Findings(shown=2)
    shard_set = ShardSet(Source(path="world").resolve())
    for checked in check_all(shard_set, validator, range(60)):
        findings.add(checked)
    kind = "two answers are the same text"
    assert findings.counts["warning", kind] > 2
    assert len(findings.places[kind]) == 2
