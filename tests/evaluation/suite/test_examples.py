from pathlib import Path

import pytest
from PIL import Image

from mmalign.evaluation.steps.scored import Item
from mmalign.evaluation.suite.examples import OPENING, WHOLE, examples_of, sort_out, text_of, thumbnail


def items(*scores, answer="same"):
    return [Item(f"q{number}", "?", f"{answer}", score) for number, score in enumerate(scores)]


def test_largest_changes_come_first():
    base, aligned = items(0.0, 0.5, 0.5, 1.0, 1.0), items(1.0, 0.6, 0.0, 0.9, 1.0, answer="other")
    num_common, cases = sort_out(base, list(reversed(aligned)))
    assert num_common == 5
    assert {case: [pair[0].id for pair in pairs] for case, pairs in cases.items()} == {
        "gained": ["q0", "q1"],
        "lost": ["q2", "q3"],
        "tied": ["q4"],
    }


def test_what_one_of_them_was_not_scored_on_is_no_example():
    num_common, cases = sort_out(items(0.0, None, 0.5, 0.0), items(1.0, 1.0, None))
    assert num_common == 1
    assert [pair[0].id for pair in cases["gained"]] == ["q0"]


def test_equal_answers_are_no_tie_to_look_at():
    assert sort_out(items(1.0), items(1.0))[1]["tied"] == []


def test_equal_changes_are_drawn_by_id_not_by_place():
    """Neighbours often share a picture; and the order of a file is no rule."""
    base, aligned = items(*[0.0] * 40), items(*[1.0] * 40)
    order = [pair[0].id for pair in sort_out(base, aligned)[1]["gained"]]
    assert order == [pair[0].id for pair in sort_out(list(reversed(base)), aligned)[1]["gained"]]
    assert order != sorted(order, key=lambda name: int(name[1:]))


def test_long_texts_open_with_whole_words_and_end():
    assert text_of(" short ") == ("short", "", 0)
    words = " ".join(["word"] * 400)
    opening, rest, cut = text_of(words)
    assert len(opening) <= OPENING
    assert opening.endswith("word")
    assert (opening + rest, cut) == (words, 0)
    opening, rest, cut = text_of("x" * 10_000)
    assert (len(opening) + len(rest), cut) == (WHOLE, 10_000 - WHOLE)


@pytest.mark.parametrize(
    ("mode", "size"), [("RGB", (2000, 1000)), ("RGBA", (20, 30)), ("P", (400, 400)), ("L", (9, 9))]
)
def test_pictures_become_small_jpegs(tmp_path, mode, size):
    path = tmp_path / f"{mode}.png"
    Image.new(mode, size).save(path)
    shown = thumbnail(str(path))
    assert shown.url.startswith("data:image/jpeg;base64,")
    assert len(shown.url) < 8_000


def test_a_picture_that_is_gone_or_broken_is_named(tmp_path):
    (tmp_path / "torn.png").write_bytes(b"\x89PNG\r\n\x1a\n torn")
    assert thumbnail(str(tmp_path / "gone.png")).problem == "gone.png is not there any more"
    assert thumbnail(str(tmp_path / "torn.png")).problem == "torn.png cannot be read: UnidentifiedImageError"


def test_each_compared_benchmark_has_its_cases(results_of, tmp_path):
    results = results_of(names=["pope", "mm_vet"], pictures=tmp_path / "pictures", failed={"chair": "gone"})
    found = examples_of(results)
    assert [each.title for each in found] == ["MM-Vet", "POPE"]
    gained = found[0].cases[0]
    assert (gained.key, len(gained.examples)) == ("gained", 3)
    assert gained.examples[0].pictures[0].name == Path("mm_vet.png").name
    assert float(gained.examples[0].aligned.score) > float(gained.examples[0].base.score)
