"""The page's text: everything escaped, everything there, its size bounded."""

import re
from collections import Counter
from html.parser import HTMLParser

import pytest

from mmalign.data.lineage import lineage_of
from mmalign.data.sample import Sample
from mmalign.data.shards import ShardWriter
from mmalign.data.views import Unpaired
from mmalign.messages import Message, Text
from mmalign.tools.inspection.page import PICTURE_CHARACTERS, Page, card_maker, render, sha256_source
from mmalign.tools.inspection.pairs import pair_statistics
from mmalign.tools.inspection.statistics import statistics_of


@pytest.fixture(scope="module")
def cards_of(reader_of, validator):
    """`cards_of(folder)`: the page's record and its first cards."""

    def make(folder, view=None, most=10):
        reader = reader_of(folder, view)
        manifest = reader.shard_set.manifest
        pairs = pair_statistics(manifest, reader.view)
        page = Page("a set", reader.shard_set, lineage_of(manifest), statistics_of(manifest), pairs, None)
        maker = card_maker(page, range(len(manifest)), reader, validator)
        return page, [maker.card(number) for number in range(min(most, len(manifest)))]

    return make


@pytest.fixture(scope="module")
def hostile_html(cards_of, hostile):
    return render(*cards_of(hostile))


class Tags(HTMLParser):
    """All that a browser would take for an element."""

    def __init__(self, html):
        super().__init__()
        self.names, self.attributes = Counter(), []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.names[tag] += 1
        self.attributes += attrs


def test_no_text_becomes_markup(hostile_html, cards_of, rich):
    tags, tame = Tags(hostile_html), Tags(render(*cards_of(rich)))
    assert tags.names["script"] == tags.names["style"] == tags.names["link"] == 1
    assert set(tags.names) <= set(tame.names) | {"mark"}
    assert {name for name, _ in tags.attributes} <= {name for name, _ in tame.attributes} | {"title"}
    addresses = {value[:11] for name, value in tags.attributes if name in ("href", "src")}
    assert addresses <= {"#samples", "#sample-0", "#sample-1", "data:,", "data:image/"}
    assert "{{ 7 * 7 }}" in hostile_html  # a template's braces in data are data


def test_hidden_characters_are_labels(hostile_html):
    assert not re.search("[\u202a-\u202e\u200b\x1b]", hostile_html)
    assert 'title="RIGHT-TO-LEFT OVERRIDE">U+202E</span>' in hostile_html


def test_only_the_pages_own_style_and_script_may_run(hostile_html):
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', hostile_html)[1].replace("&#39;", "'")
    rules = dict(rule.split(" ", 1) for rule in policy.split("; "))
    style, script = (re.search(f"<{tag}>(.*?)</{tag}>", hostile_html, re.DOTALL)[1] for tag in ("style", "script"))
    assert rules == {
        "default-src": "'none'",
        "img-src": "data:",
        "style-src": sha256_source(style),
        "script-src": sha256_source(script),
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    assert not re.search(r"<[^>]* style=", hostile_html)


def test_a_card_holds_all_that_is_known_of_a_sample(cards_of, rich):
    _, (judged, turns, broken, lone) = cards_of(rich)
    assert judged.answers[0][:2] == (0, "chosen")
    assert judged.answers[1].role == "rejected"
    first = judged.answers[0].judgments
    assert [(each.judge, each.invalid) for each in first] == [
        ("gemini", ""),
        ("gpt", ""),
        ("claims", "no JSON in the reply"),
    ]
    assert [(each.name, each.percent) for each in first[0].ratings][:2] == [
        ("helpfulness", 100.0),
        ("correctness", 100.0),
    ]
    assert (judged.models, judged.judges, judged.invalid) == ({"llava", "other"}, {"gemini", "gpt", "claims"}, True)
    assert judged.gap == 6.0
    assert (turns.direct, turns.gap, len(turns.pictures), [turn.role for turn in turns.turns]) == (
        True,
        None,
        2,
        ["system", "user", "assistant", "user"],
    )
    assert broken.pictures[0].url == ""
    assert (broken.rows, broken.reason) == ([], "it cannot be made")
    assert (lone.answers, lone.reason) == ([], "fewer than two responses")


def test_differences_are_marked_in_the_pair_alone(cards_of, rich):
    _, (judged, *_) = cards_of(rich)
    marked = {answer.role: re.findall("<mark>(.*?)</mark>", answer.text) for answer in judged.answers}
    assert all(marked[role] for role in ("chosen", "rejected"))
    assert marked.get("", []) == []


def test_a_view_without_pairs_marks_nothing_and_shows_its_rows(cards_of, color_shards):
    _, cards = cards_of(color_shards, Unpaired(), most=1)
    assert {answer.role for answer in cards[0].answers} == {"chosen", "rejected"}
    assert [answer.role.name for answer in cards[0].rows[0].answers] == ["CHOSEN", "REJECTED", "MISMATCHED"]
    assert cards[0].rows[0].answers[2].text.endswith("It is green.</s>")  # the sample behind it


def test_a_sample_that_cannot_be_read_has_a_card(tmp_path, cards_of):
    with ShardWriter(tmp_path / "set") as writer:
        writer.write(Sample(key="a", messages=(Message("user", (Text("Hm?"),)),)))
    next((tmp_path / "set").glob("*.tar")).unlink()
    page, (card,) = cards_of(tmp_path / "set")
    assert (card.place.key, [problem.kind for problem in card.problems]) == ("a", ["the sample cannot be read"])
    assert "the sample cannot be read" in render(page, [card])


def test_pictures_share_a_budget(rich, cards_of, reader_of, validator):
    page, _ = cards_of(rich, most=0)
    few, many = (card_maker(page, numbers, reader_of(rich), validator) for numbers in ([0], [0] * 1000))
    assert few.budget > many.budget
    assert many.budget * 1000 <= PICTURE_CHARACTERS
