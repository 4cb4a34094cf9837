"""Lists of objects that a judge finds in an answer, and the words for COCO's objects in them.

    found = listed('["two red cars", "group of people"]')
    nouns(found, vocabulary)                                -> ["car", "people"]

Tests   tests/evaluation/benchmarks/test_object_lists.py
"""

import ast
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from mmalign.evaluation.benchmarks.nouns import Vocabulary, tokens

TEMPLATE = "prompt_template"
"""Name of the prompt in the script."""
WORDS = "words"
PHRASES = "extract_objs"
LINKS = frozenset({"of", "with", "in", "on", "at", "by", "from", "for", "near", "and", "or", "to", *",;:.()"})
"""What stands between the parts of a phrase."""


class Found(NamedTuple):
    """What a judge found in an answer."""

    phrases: tuple[str, ...]
    are_words: bool = False
    """Whether a parser has already taken the words out of the phrases."""


NOTHING = Found(())


def listed(text: str) -> Found | None:
    """The list that a judge's text is, or that its last line is where the text has one; None where there is none.

    Args:
        text: Of the judge, or what `stored` makes of a review.
    """
    for part in (text, text.strip().rpartition("\n")[2] if '["' in text else ""):
        try:
            value = json.loads(part)
        except ValueError:
            continue
        if isinstance(value, dict) and value.keys() == {WORDS}:
            return Found(tuple(value[WORDS]), are_words=True)
        return Found(tuple(value)) if isinstance(value, list) and all(isinstance(each, str) for each in value) else None
    return None


def stored(row: Mapping[str, Any]) -> str:
    """What a published row says was found, as a text for `listed`.

    Args:
        row: Of a review, whose `words` come from a parser, or one with `extract_objs`, the judge's own list.
    """
    return json.dumps(row[PHRASES] if PHRASES in row else {WORDS: row[WORDS]})


def nouns(found: Found, vocabulary: Vocabulary) -> list[str]:
    """The different words for objects, in their order.

    A double word of the list is all that its phrase names; otherwise the last word of each part is named.

    Args:
        found: In one answer.
        vocabulary: Of the objects.
    """
    words: list[str] = []
    for phrase in found.phrases:
        words += [phrase] if found.are_words else _named_in(phrase, vocabulary)
    if "toilet" in words:  # the seat of a toilet is no chair
        words = [word for word in words if word != "seat"]
    return [word for word in dict.fromkeys(words) if word in vocabulary.objects]


def read_prompt(place: str) -> str:
    """The prompt that has a judge list objects; with `{question}` and `{answer}`.

    Args:
        place: The script of RLAIF-V that has it (read as text), or a text file.

    Raises:
        FileNotFoundError, ValueError: No such file, or none with a prompt.
    """
    path = Path(place)
    if not path.is_file():
        raise FileNotFoundError(
            f"No {path}. The judge's prompt is in eval/eval_gpt_obj_halbench.py of RLHF-V/RLAIF-V, which may not be "
            "shipped here: give your copy as `--extraction_prompt`."
        )
    text = path.read_text(encoding="utf-8")
    prompt = _assigned(text, str(path)) if path.suffix == ".py" else text
    if "{question}" not in prompt or "{answer}" not in prompt:
        raise ValueError(f"{path} holds no prompt with {{question}} and {{answer}}. Give RLAIF-V's script, or a text.")
    return prompt


def _named_in(phrase: str, vocabulary: Vocabulary) -> list[str]:
    words = [vocabulary.singular(token) for token in tokens(phrase.lower())]
    doubles = [word for word, is_double in vocabulary.joined(words) if is_double]
    if doubles:
        return doubles
    behind = [*words[1:], ","]
    return [word for word, next_one in zip(words, behind, strict=False) if next_one in LINKS and word not in LINKS]


def _assigned(script: str, place: str) -> str:
    try:
        statements = ast.parse(script).body
    except SyntaxError as error:
        raise ValueError(f"{place} is no Python script: {error}.") from error
    texts = {
        target.id: each.value.value
        for each in statements
        if isinstance(each, ast.Assign) and isinstance(each.value, ast.Constant) and isinstance(each.value.value, str)
        for target in each.targets
        if isinstance(target, ast.Name)
    }
    return texts.get(TEMPLATE, "")
