"""Text-only instructions whose answers can be checked: what alignment may cost is measured on them.

Tests   tests/world/test_tasks.py
"""

from collections.abc import Callable
from random import Random
from typing import Literal, get_args

from mmalign.world.language import NUMBER_WORDS
from mmalign.world.questions import Question

TextKind = Literal["sort", "reverse", "copy", "add", "constraint"]
TEXT_KINDS: tuple[TextKind, ...] = get_args(TextKind)

WORDS = (
    "apple", "bird", "boat", "book", "bread", "cake", "cat", "chair", "cloud", "cow", "dog", "door",
    "fish", "frog", "goat", "hat", "horse", "key", "lamp", "leaf", "milk", "mouse", "nest", "pear",
    "rain", "road", "ship", "shoe", "sun", "tree", "wolf", "zebra",
)  # fmt: skip
MAX_ADDEND = 12


def text_question(rng: Random, kind: TextKind) -> Question:
    """One instruction of a kind."""
    instruction, answer = _MAKERS[kind](rng)
    return Question(instruction, answer, "text", answer)


def _sort(rng: Random) -> tuple[str, str]:
    if rng.random() < 0.5:
        numbers = rng.sample(range(1, 10), rng.randint(3, 5))
        question = rng.choice(("Sort these numbers from small to large: {}", "Put these numbers in order: {}"))
        return question.format(_joined(numbers)), _joined(sorted(numbers))
    words = rng.sample(WORDS, rng.randint(2, 4))
    question = rng.choice(("Sort these words by the alphabet: {}", "Put these words in alphabetical order: {}"))
    return question.format(_joined(words)), _joined(sorted(words))


def _reverse(rng: Random) -> tuple[str, str]:
    items = _items(rng)
    question = rng.choice(("Reverse this list: {}", "Write these items in reverse order: {}", "Say this backwards: {}"))
    return question.format(_joined(items)), _joined(items[::-1])


def _copy(rng: Random) -> tuple[str, str]:
    items = _items(rng)
    formats: tuple[tuple[str, str], ...] = (
        ("Copy this list with dashes between the items: {}", " - ".join(items)),
        ("Copy this list in square brackets: {}", f"[{_joined(items)}]"),
        ("Write one item per line: {}", "\n".join(items)),
        ("Repeat this list: {}", _joined(items)),
    )
    question, answer = rng.choice(formats)
    return question.format(_joined(items)), answer


def _add(rng: Random) -> tuple[str, str]:
    first, second = rng.randint(0, MAX_ADDEND), rng.randint(0, MAX_ADDEND)
    question = rng.choice(("What is {} + {}?", "Add {} and {}.", "How much is {} plus {}?"))
    return question.format(first, second), str(first + second)


def _constraint(rng: Random) -> tuple[str, str]:
    words = rng.sample(WORDS, rng.randint(3, 5))
    times = rng.randint(2, 4)
    which, index = rng.choice((("first", 0), ("second", 1), ("last", -1)))
    options = (
        (f"Say the word {words[0]} {NUMBER_WORDS[times]} times.", " ".join(words[:1] * times)),
        (f"Answer with the {which} word only: {_joined(words)}", words[index]),
        (f"Write only the word {words[0]} and nothing else.", words[0]),
        (f"Repeat this list without the word {words[1]}: {_joined(words)}", _joined([words[0], *words[2:]])),
    )
    return rng.choice(options)


def _items(rng: Random) -> list[str]:
    pool = WORDS if rng.random() < 0.7 else tuple(map(str, range(1, 10)))
    return rng.sample(pool, rng.randint(2, 5))


def _joined(items: list[str] | list[int]) -> str:
    return ", ".join(map(str, items))


_MAKERS: dict[TextKind, Callable[[Random], tuple[str, str]]] = {
    "sort": _sort,
    "reverse": _reverse,
    "copy": _copy,
    "add": _add,
    "constraint": _constraint,
}
