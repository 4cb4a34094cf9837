"""VLFeedback: four answers with three aspects each, of which some do not apply."""

import pytest

from mmalign.data.importers.vlfeedback import read_vlfeedback


def rated(*ratings):
    aspects = ("Helpfulness", "Visual Faithfulness", "Ethical Considerations")
    return {
        name: {"Rating": rating, "Rationale": f"So {rating}."} for name, rating in zip(aspects, ratings, strict=True)
    }


def completion(model, *ratings):
    return {"model": model, "response": f"By {model}.", "annotations": rated(*ratings)}


@pytest.fixture
def record():
    completions = [completion("qwen", "5", "4", "N/A"), completion("llava", "2", "1", "3")]
    return {"id": "x-1", "prompt": "What is this?", "img_path": "a.png", "completions": completions}


def test_aspects_become_ratings_under_names_of_their_own(convert_all, record):
    (sample,) = convert_all(read_vlfeedback, record)
    qwen, llava = sample.responses
    assert qwen.ratings == {"vlfeedback_helpfulness": 5, "vlfeedback_visual_faithfulness": 4}
    assert llava.ratings == {
        "vlfeedback_helpfulness": 2,
        "vlfeedback_visual_faithfulness": 1,
        "vlfeedback_ethical_considerations": 3,
    }
    assert (qwen.model, qwen.judge, qwen.place, llava.place) == ("qwen", "gpt-4v", 0, 1)
    assert qwen.rationale.startswith("Helpfulness: So 5.\nVisual Faithfulness: So 4.")


def test_an_object_of_lists_holds_the_same(convert_all, record):
    columns = {name: [each[name] for each in record["completions"]] for name in record["completions"][0]}
    assert convert_all(read_vlfeedback, record | {"completions": columns}) == convert_all(read_vlfeedback, record)


@pytest.mark.parametrize("ratings", [("6", "4", "5"), ("", "4", "5"), ("N/A", "N/A", "N/A")])
def test_an_answer_without_usable_ratings_has_an_invalid_judgment(convert_all, record, ratings):
    (sample,) = convert_all(read_vlfeedback, record | {"completions": [completion("qwen", *ratings)]})
    (judgment,) = sample.responses[0].all_judgments()
    assert judgment.invalid
    assert not sample.responses[0].ratings


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"prompt": None}, "no `prompt`"),
        ({"completions": []}, "`completions` is []"),
        ({"completions": "hm"}, "`completions` is 'hm'"),
        ({"completions": [{"model": "x"}]}, "no `response`"),
        ({"completions": [{"response": "x", "annotations": {"Helpfulness": 3}}]}, "not ratings by aspect"),
        ({"completions": {"model": ["a"], "response": []}}, "are not lists of one length"),
        ({"completions": {"model": ["a"], "response": [], "annotations": [{}]}}, "are not lists of one length"),
        ({"img_path": "../../etc/passwd"}, "no picture"),
        ({"img_path": None}, "neither a name nor bytes"),
    ],
)
def test_what_is_wrong_with_a_record_is_said(reason_of, record, changes, words):
    assert words in reason_of(read_vlfeedback, record | changes)
