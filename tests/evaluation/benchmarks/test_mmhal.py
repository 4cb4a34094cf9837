"""MMHal-Bench asks, judges and averages as its script does."""

import json
from pathlib import Path

import pytest

from mmalign.evaluation.benchmarks.mmhal import MMHal, read_rating
from mmalign.evaluation.paired import Direction
from mmalign.evaluation.steps.benchmark import JudgedBenchmark
from mmalign.evaluation.steps.faults import UNREADABLE, Handling
from mmalign.evaluation.steps.scored import Scored
from mmalign.evaluation.steps.sources import records
from tests.harness.published import published

STRICT, COUNT, OFFICIAL = Handling(), Handling(on_bad="count"), Handling(compat="official")
KINDS = ("attribute", "other")


def question(number: int) -> dict[str, object]:
    return {
        "question_type": KINDS[number % 2],
        "image_src": f"https://photos.example/{number}_o.jpg",
        "image_content": ["Dog", "Cat"],
        "question": f"Question {number}?",
        "gt_answer": "Two.",
        "model_answer": "",
    }


QUESTIONS = [question(number) for number in range(4)]
ANSWERS = [{**row, "model_answer": f"Answer {{{number}}}"} for number, row in enumerate(QUESTIONS)]


@pytest.fixture
def bench(tmp_path: Path) -> MMHal:
    (tmp_path / "response_template.json").write_text(json.dumps(QUESTIONS))
    return MMHal(questions=str(tmp_path))


def reviews(*texts: str) -> list[dict[str, object]]:
    """OpenAI's responses, as the script keeps them."""
    return [{"model": "gpt-4-0314", "choices": [{"message": {"content": text}}]} for text in texts]


def scored(bench: MMHal, handling: Handling, *texts: str) -> Scored:
    return bench.score(None, [bench.read_replies(reviews(*texts))], handling)


def test_the_published_questions_are_96_of_eight_kinds_in_turn():
    """So that the script's `i % 8` and our kinds are the same."""
    bench = MMHal(questions=str(published("mmhal")))
    kinds = [row["question_type"] for row in records(published("mmhal", "mmhal-bench_answer_template.json"))]
    assert (len(bench.asks()), kinds) == (96, kinds[:8] * 12)
    texts = [f"Rating: {place % 7}" for place in range(96)]
    found = bench.score(None, [bench.read_replies(reviews(*texts))], OFFICIAL)
    assert [m.official for m in found.metrics if m.group] == [
        round(sum(place % 7 for place in range(kind, 96, 8)) / 12, 2) for kind in range(8)
    ]
    assert [m.name for m in found.metrics if m.group] == [f"average_{kind}" for kind in kinds[:8]]
    assert found.headline.official == round(sum(place % 7 for place in range(96)) / 96, 2)


def test_ratings_are_averaged_in_four_ways(bench: MMHal):
    """6, 2, 3, 0: mean 2.75; two of four hallucinate; informative 3, 2, 0, 0 of 3; kinds 6 and 3, 2 and 0."""
    found = scored(bench, STRICT, "Good. Rating: 6, very", "rating: 2", "Rating: 3", "Rating: 0")
    assert {m.name: m.official for m in found.metrics} == {
        "average": 2.75,
        "hallucination_rate": 0.5,
        "informativeness": 41.67,
        "average_attribute": 4.5,
        "average_other": 1.0,
    }
    assert found["hallucination_rate"].direction is Direction.LOWER
    assert (found.headline.name, found.judge, found.num_scored) == ("average", "gpt-4-0314", 4)
    assert [item.score for item in found.items] == [6, 2, 3, 0]


@pytest.mark.parametrize(
    ("text", "rating"),
    [("Fine. Rating: 6, very informative", 6), ("RATING: 0", 0), ("Rating 6", None), ("Rating: 7", None), ("", None),
     ("Rating: 5 or Rating: 4", None), ("Rating: 5. So: Rating: 5", 5)],
)  # fmt: skip
def test_a_text_has_exactly_one_rating(text: str, rating: int | None, bench: MMHal):
    assert read_rating(text) == (None if rating is None else (rating,))
    assert bench.is_usable(text) is (rating is not None)


def test_what_has_no_rating_is_left_out_or_is_0(bench: MMHal):
    texts = ("Rating: 6", "Rating: 1 or Rating: 2", "Rating: 3", "no")
    with pytest.raises(ValueError, match="2: judge text without a score: 1, 3"):
        scored(bench, STRICT, *texts)
    counted, official = scored(bench, COUNT, *texts), scored(bench, OFFICIAL, *texts)
    assert (counted.headline.value, counted.num_scored) == (4.5, 2)
    assert (official.headline.official, official["hallucination_rate"].official) == (2.25, 0.5)
    assert counted.failures == official.failures == {UNREADABLE: ("1", "3")}


def test_the_judge_gets_contents_question_truth_and_answer(bench: MMHal):
    """Braces in an answer are text."""
    call, *_ = bench.calls(bench.read_answers(ANSWERS))
    assert call.user.endswith(
        "### Image Contents\nDog, Cat\n\n### Question\nQuestion 0?\n\n### Standard Human-Generated Answer\nTwo.\n\n"
        "### LMM Response to Evaluate\nAnswer {0}\n"
    )
    assert call.user.startswith("Please act as an impartial and objective judge")
    assert call.user.count("- Hallucination: ") == 5
    assert (call.system, call.temperature) == ("", 0)


def test_three_layouts_say_the_same(bench: MMHal):
    """The template filled in, and lines as RLHF-V's or RLAIF-V's models write them."""
    answers = bench.read_answers(ANSWERS)
    assert [answer.text for answer in answers] == [f"Answer {{{number}}}" for number in range(4)]
    for key in ("text", "answer"):
        assert bench.read_answers([{key: f"Assistant: {answer.text}"} for answer in answers]) == answers
    merged = [{**row, "gpt4_review": f"Rating: {place}"} for place, row in enumerate(ANSWERS)]
    assert [reply.text for reply in bench.read_replies(merged)] == [f"Rating: {place}" for place in range(4)]


def test_records_are_joined_by_their_place_and_must_keep_it(bench: MMHal):
    with pytest.raises(ValueError, match="3 records for 4 questions"):
        bench.read_answers(ANSWERS[:3])
    with pytest.raises(ValueError, match=r"record 0 is about 'Question 3\?', but question 0 is 'Question 0\?'"):
        bench.read_answers(ANSWERS[::-1])
    with pytest.raises(ValueError, match="no `model_answer` in it is filled in"):
        bench.read_answers(QUESTIONS)


def test_a_question_is_asked_with_its_picture(bench: MMHal, tmp_path: Path):
    first, *_ = bench.asks()
    assert (first.id, first.turns[0].text) == ("0", "Question 0?")
    assert first.turns[0].pictures[0].path == tmp_path / "images" / "0_o.jpg"
    assert isinstance(bench, JudgedBenchmark)


def test_other_files_are_no_questions(tmp_path: Path):
    (tmp_path / "response_template.json").write_text('[{"question": "What?"}]')
    with pytest.raises(ValueError, match="does not have MMHal-Bench's questions"):
        MMHal(questions=str(tmp_path)).asks()
