"""What nobody sees is made visible, and markup stays text."""

import re

import pytest

from mmalign.tools.inspection.seen import SUSPICIOUS, seen, seen_html


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain, tab\tand\nline", "plain, tab\tand\nline"),
        ("pay\u202eecila", "pay<U+202E>ecila"),
        ("zero\u200bwidth", "zero<U+200B>width"),
        ("\x1b[31mred\x07", "<U+001B>[31mred<U+0007>"),
        ("tag \U000e0041", "tag <U+E0041>"),
        ("half \ud800", "half <U+D800>"),
        ("家族 \U0001f468\u200d\U0001f469", "家族 \U0001f468\u200d\U0001f469"),
        ("heart \u2764\ufe0f", "heart \u2764\ufe0f"),
        ("join\u200ded", "join<U+200D>ed"),
    ],
)
def test_hidden_characters_are_named(text, shown):
    assert seen(text) == shown


def test_markup_is_escaped_and_labels_say_what_they_are():
    html = str(seen_html('<b>"\u202e'))
    assert html.startswith("&lt;b&gt;&#34;<span ")
    assert 'title="RIGHT-TO-LEFT OVERRIDE">U+202E</span>' in html
    assert re.findall("<[^>]*>", str(seen_html("\x1b"))) == [
        '<span class="unseen" title="control character">',
        "</span>",
    ]


def test_line_ends_and_marks_that_scripts_need_are_no_reason_to_worry():
    assert not SUSPICIOUS.search("Windows\r\nmi\u200cman soft\xadhyphen \u200f")
    assert SUSPICIOUS.search("a\u2066b")
