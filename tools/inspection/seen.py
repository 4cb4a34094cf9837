r"""Characters that nobody sees, made visible: direction overrides, zero widths, tags, control characters.

    seen("pay\u202eecila")  ->  pay<U+202E>ecila

Data sets are other people's text. An escape sequence would reach the reader's terminal, a direction override would
show him another text than the model gets, and a tag character is an instruction that only the model reads.

Tests   tests/tools/inspection/test_seen.py
"""

import re
import unicodedata

from markupsafe import Markup, escape

CONTROLS = "\x00-\x08\x0b-\x1f\x7f-\x9f"
"""All but tab and line feed."""
TURNING = "\u202a-\u202e\u2066-\u2069"
"""Embeddings, overrides and isolates of direction: what is read differs from what is stored."""
ZERO_WIDTH = "\u200b\u2060-\u2065\u206a-\u206f\ufeff\ufff9-\ufffb\u180e"
SMUGGLING = "\U000e0000-\U000e01ef"
"""Tags, and variation selectors that no emoji uses."""
BROKEN = "\ud800-\udfff"
"""Halves of a character, which no UTF-8 file can hold."""
HARMLESS = "\xad\u061c\u200c\u200e\u200f\u2028\u2029"
"""Soft hyphens, marks that some scripts need: shown, but no reason to worry."""
JOINER = "\u200d(?![\u2190-\U0001faff])"
"""Between emoji it makes one of two; elsewhere it is shown."""

HIDDEN = re.compile(f"[{CONTROLS}{TURNING}{ZERO_WIDTH}{SMUGGLING}{BROKEN}{HARMLESS}]|{JOINER}")
SUSPICIOUS = re.compile(f"(?!\r)[{CONTROLS}{TURNING}{ZERO_WIDTH}{SMUGGLING}]")
HALVES = re.compile(f"[{BROKEN}]")


def seen(text: str) -> str:
    """The text for a terminal, hidden characters as `<U+202E>`."""
    return HIDDEN.sub(lambda match: f"<{code(match[0])}>", text)


def seen_html(text: str) -> Markup:
    """The text as HTML, escaped, hidden characters as small labels."""
    pieces, end = list[Markup](), 0
    for match in HIDDEN.finditer(text):
        label = Markup('<span class="unseen" title="{}">{}</span>').format(called(match[0]), code(match[0]))
        pieces += [escape(text[end : match.start()]), label]
        end = match.end()
    return Markup("").join([*pieces, escape(text[end:])])


def code(character: str) -> str:
    """`U+202E`."""
    return f"U+{ord(character):04X}"


def called(character: str) -> str:
    """`RIGHT-TO-LEFT OVERRIDE`; control characters have no names."""
    return unicodedata.name(character, "control character" if ord(character) < 0xA0 else "no character")
