"""Aspect sets: what a judge is asked to rate, on which scale, in which words. A YAML file each.

    name: grounding                       # letters, digits, - and _
    kind: together                        # all responses in one call; `pairwise`: two at a time, in both orders
    scale: [1, 5]                         # whole numbers, both ends included; not for `pairwise`
    aspects:                              # a rating's name and how to rate; not for `pairwise`
      grounded: |
        Whether everything it says can be seen.
        5 all of it ... 1 none of it
    prompt: |
      Rate {{n}} responses from {{low}} to {{high}}: {{guide}}
      {{conversation}}
      {{responses}}
      {{format}}

In the prompt `{{conversation}}` becomes the turns with their pictures, `{{responses}}` the responses, `{{format}}` how
to reply: these three must be there. `{{n}}`, `{{low}}`, `{{high}}` `{{guide}}` (aspects with their words) may be.

Tests   tests/judges/test_aspects.py
"""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import yaml

from mmalign.steering import ATTRIBUTES, SCALE

Kind = Literal["together", "pairwise"]
SHIPPED = Path(__file__).parent / "aspect_sets"
WINS = "wins"
"""The rating that a pairwise set gives."""
PLACEHOLDER = re.compile(r"\{\{(\w+)\}\}")
REQUIRED = {"conversation", "responses", "format"}
OPTIONAL = {"n", "low", "high", "guide"}
NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,60}")
WIDEST = 100
"""Numbers of a scale, at most: nobody tells more apart."""


@dataclass(frozen=True, kw_only=True)
class AspectSet:
    """What to rate, and the words to ask for it."""

    name: str
    kind: Kind
    prompt: str
    scale: tuple[int, int] = (0, 1)
    """Both ends included; unused where the kind is pairwise."""
    aspects: Mapping[str, str] = field(default_factory=dict)
    """Guide text by rating name."""

    @property
    def ratings(self) -> tuple[str, ...]:
        """Names of the ratings that a response gets."""
        return tuple(self.aspects) if self.kind == "together" else (WINS,)

    def identity(self) -> str:
        """Name and hash: another text is another judge."""
        text = repr((self.kind, self.prompt, self.scale, list(self.aspects.items())))
        return f"{self.name} {hashlib.sha256(text.encode()).hexdigest()[:16]}"


def load_aspects(name: str) -> AspectSet:
    """An aspect set.

    Args:
        name: One that ships with mmalign (`shipped_sets`), or a YAML file.

    Raises:
        FileNotFoundError: There is none of that name.
        ValueError: The file is no aspect set; what is wrong, and what to do.
    """
    path = SHIPPED / f"{name}.yaml" if name in shipped_sets() else Path(name)
    if not path.is_file():
        raise FileNotFoundError(
            f"`--aspects {name}` is neither one of {', '.join(shipped_sets())} nor a file. Its format stands in "
            f"{SHIPPED / 'helpsteer.yaml'}: copy that one and change it."
        )
    try:
        record = yaml.safe_load(path.read_text(encoding="utf-8"))
        return _parse(record)
    except (yaml.YAMLError, UnicodeDecodeError, ValueError) as error:
        raise ValueError(f"`--aspects {name}`: {error} See {SHIPPED / 'helpsteer.yaml'} for a whole one.") from error


def shipped_sets() -> tuple[str, ...]:
    """Names of the sets that come with mmalign."""
    return tuple(sorted(path.stem for path in SHIPPED.glob("*.yaml")))


def _parse(record: Any) -> AspectSet:
    if not isinstance(record, dict):
        raise ValueError("the file must hold fields `name`, `kind`, `prompt`, and so on.")
    kind, name, prompt = record.get("kind"), record.get("name"), record.get("prompt")
    fields = {"name", "kind", "prompt"} | ({"scale", "aspects"} if kind == "together" else set())
    if kind not in get_args(Kind):
        raise ValueError(f"`kind` must be one of {', '.join(get_args(Kind))}, not {kind!r}.")
    if record.keys() != fields:
        lacking, unknown = sorted(fields - record.keys()), sorted(map(str, record.keys() - fields))
        raise ValueError(f"a set of kind {kind} lacks the fields {lacking} and does not know {unknown}; mend these.")
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise ValueError(f"`name` must be letters, digits, - and _, not {name!r}.")
    if not isinstance(prompt, str):
        raise ValueError("`prompt` must be text.")
    _check_placeholders(prompt)
    if kind == "pairwise":
        return AspectSet(name=name, kind="pairwise", prompt=prompt)
    scale, aspects = _parse_scale(record["scale"]), _parse_aspects(record["aspects"])
    if scale != SCALE and (helpsteers := sorted(set(aspects) & set(ATTRIBUTES))):
        raise ValueError(f"{helpsteers} are HelpSteer's, from {SCALE[0]} to {SCALE[1]}: rename them, or use its scale.")
    return AspectSet(name=name, kind="together", prompt=prompt, scale=scale, aspects=aspects)


def _check_placeholders(prompt: str) -> None:
    found = PLACEHOLDER.findall(prompt)
    if unknown := sorted(set(found) - REQUIRED - OPTIONAL):
        raise ValueError(f"the prompt has placeholders {unknown}, but known are {sorted(REQUIRED | OPTIONAL)}.")
    if wrong := sorted(each for each in REQUIRED if found.count(each) != 1):
        raise ValueError(f"the prompt must hold {{{{{wrong[0]}}}}} once, it has it {found.count(wrong[0])} times.")


def _parse_scale(scale: Any) -> tuple[int, int]:
    match scale:
        case [int(low), int(high)] if not isinstance(low, bool) and 0 < high - low < WIDEST:
            return low, high
    raise ValueError(f"`scale` must be two whole numbers, the lower first, at most {WIDEST} apart, not {scale!r}.")


def _parse_aspects(aspects: Any) -> dict[str, str]:
    if not isinstance(aspects, dict) or not aspects:
        raise ValueError("`aspects` must name at least one rating, each with its guide.")
    for name, guide in aspects.items():
        if not isinstance(name, str) or not NAME.fullmatch(name) or name in ("response", WINS):
            raise ValueError(f"an aspect cannot be called {name!r}: letters, digits, - and _; nor response or {WINS}.")
        if not isinstance(guide, str) or not guide.strip():
            raise ValueError(f"aspect {name!r} needs a guide: a line on what it is, and what the numbers mean.")
    return dict(aspects)
