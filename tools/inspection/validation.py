"""What is wrong with samples: errors stop a run or teach something false, warnings cost quality.

    Validator(template, max_length=3000).problems(sample)
    ->  [Problem("error", "a picture cannot be decoded", "picture 0, OSError: image file is truncated"), ...]

Tests   tests/tools/inspection/test_validation.py
"""

import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Literal, NamedTuple

from mmalign.data.reader import ShardSet
from mmalign.data.rows import Overlong
from mmalign.data.sample import GoneError, Place, Sample, SampleError, ShardError
from mmalign.messages import Message, Text
from mmalign.pictures import DECODER_ERRORS, MAX_PIXELS, read_header, upright_rgb
from mmalign.steering import num_requests
from mmalign.template import Template

from .seen import HALVES, SUSPICIOUS, called, code

Level = Literal["error", "warning"]

PLACEHOLDER = re.compile(
    r"<image(?:_?\d*|_placeholder)>|<im_(?:start|end|patch)>|<ImageHere>|<video>|<\|(?:image|im_|vision_|eot_)\w*\|>"
    r"|</s>|\[/?INST\]|\[IMG\]|###\s?(?:Human|Assistant):|\b(?:USER|ASSISTANT):"
)
"""What templates and other people's files put into text: here pictures are parts, and the template adds the turns."""
FINISH, CUT = "finish_reason", "length"
"""Where `mmalign sample`, as servers do, says how an answer ended, and what it says of one that was cut."""
LONG_ANSWER = 200
"""Characters; a shorter answer often ends without a full stop, a longer one in the middle of a sentence was cut."""
LIST_ITEM = re.compile(r"\s*(?:[-*#|>]|\d+[.)])\s?")
TOKENS_AROUND = 256
"""More than a template puts around a prompt."""
AT_A_TIME = 64
"""Samples that are read ahead of the one that is looked at."""


class Problem(NamedTuple):
    """One thing that is wrong with a sample."""

    level: Level
    kind: str
    detail: str


class Checked(NamedTuple):
    """A sample that was looked at."""

    place: Place
    sample: Sample | None
    """None where it cannot be read."""
    problems: list[Problem]


class Validator:
    """Looks at samples, one at a time; threads may share it."""

    def __init__(self, template: Template, *, max_length: int, overlong: Overlong) -> None:
        """Remember what a row may be.

        Args:
            template: Counts tokens.
            max_length: See `data.max_length`.
            overlong: See `data.overlong`: where it is `raise`, a row that is too long is an error.
        """
        self.template = template
        self.max_length = max_length
        self.overlong = overlong

    def checked(self, shard_set: ShardSet, number: int) -> Checked:
        """Read a sample of a shard set and look at it."""
        manifest = shard_set.manifest
        place = Place(manifest.shard_of(number).name, manifest.key(number))
        try:
            sample = shard_set[number]
        except (SampleError, ShardError, GoneError) as error:
            return Checked(place, None, [Problem("error", "the sample cannot be read", str(error))])
        return Checked(place, sample, self.problems(sample))

    def problems(self, sample: Sample) -> list[Problem]:
        """All that is wrong, as far as a program can tell."""
        halves = list(_halves(sample))
        found = [*halves, *_pictures(sample), *_prompt(sample), *_preference(sample), *_answers(sample)]
        return found if halves else [*found, *self._length(sample)]  # no tokenizer takes half a character

    def _length(self, sample: Sample) -> Iterator[Problem]:
        """Tokenizes only where the bytes, which are never fewer than the tokens, could be too many."""
        pictures = len(sample.images) * self.template.num_image_tokens
        room = self.max_length - pictures - sum(len(text.encode()) for text in _texts(sample.messages)) - TOKENS_AROUND
        answers = [response.text for response in sample.responses]
        if max((len(answer.encode()) for answer in answers), default=0) <= room:
            return
        prompt = len(self.template.encode_prompt(sample.messages))
        level: Level = "error" if self.overlong == "raise" else "warning"
        if prompt >= self.max_length:
            yield Problem("error", "the prompt is too long", f"{prompt} tokens, max_length is {self.max_length}")
            return
        for number, answer in enumerate(answers):
            tokens = prompt + len(self.template.encode_response(answer))
            if tokens > self.max_length:
                detail = (
                    f"answer {number}, {tokens} tokens with its prompt of {prompt}, max_length is {self.max_length}"
                )
                yield Problem(level, "prompt and answer are too long", detail)


class Findings:
    """What was found in all samples: counts, and the first of each kind."""

    def __init__(self, shown: int) -> None:
        """Start with none.

        Args:
            shown: Places to remember of each kind.
        """
        self.shown = shown
        self.counts = Counter[tuple[Level, str]]()
        self.places: dict[str, list[tuple[Place, str]]] = {}
        self.samples = 0
        self.faulty = 0
        """Samples with an error."""

    def add(self, checked: Checked) -> None:
        """Count one sample's problems."""
        self.samples += 1
        self.faulty += any(problem.level == "error" for problem in checked.problems)
        for problem in checked.problems:
            self.counts[problem.level, problem.kind] += 1
            places = self.places.setdefault(problem.kind, [])
            if len(places) < self.shown:
                places.append((checked.place, problem.detail))

    def total(self, level: Level) -> int:
        """Problems of a level."""
        return sum(count for (each, _), count in self.counts.items() if each == level)


def check_all(shard_set: ShardSet, validator: Validator, numbers: Sequence[int]) -> Iterator[Checked]:
    """Samples in order, read and decoded on every core."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for start in range(0, len(numbers), AT_A_TIME):
            some = numbers[start : start + AT_A_TIME]
            yield from pool.map(lambda number: validator.checked(shard_set, number), some)


def picture_problem(data: bytes) -> str:
    """Why a picture cannot be decoded; empty where it can."""
    try:
        image = read_header(data)
        if image.width * image.height > MAX_PIXELS:
            return f"{image.width} x {image.height} pixels, {MAX_PIXELS:,} are the most"
        upright_rgb(image)
    except DECODER_ERRORS as error:
        return f"{type(error).__name__}: {error}"
    return ""


def _pictures(sample: Sample) -> Iterator[Problem]:
    for number, image in enumerate(sample.images):
        if problem := picture_problem(image):
            yield Problem("error", "a picture cannot be decoded", f"picture {number}, {problem}")


def _prompt(sample: Sample) -> Iterator[Problem]:
    for text in _texts(sample.messages):
        if match := PLACEHOLDER.search(text):
            yield Problem("error", "a placeholder is left in the prompt", f"{match[0]} in {_around(text, match)}")
    requests = sum(num_requests(message) for message in sample.messages)
    if requests > 1:
        yield Problem("error", "the prompt asks for attributes twice", f"{requests} suffixes of SteerLM")
    elif requests:
        yield Problem("warning", "the prompt asks for attributes already", "the view `Steer` refuses it")
    if not any(text.strip() for text in _texts(sample.messages)):
        yield Problem("warning", "the prompt has no text", f"{len(sample.images)} pictures")


def _preference(sample: Sample) -> Iterator[Problem]:
    if sample.preference is None:
        return
    chosen, rejected = (sample.responses[number].text for number in sample.preference)
    if chosen == rejected:
        yield Problem("error", "chosen and rejected are the same text", f"{chosen:.60}")
    elif not chosen.strip() or not rejected.strip():
        which = "chosen" if not chosen.strip() else "rejected"
        yield Problem("error", "the chosen or the rejected answer is empty", which)


def _answers(sample: Sample) -> Iterator[Problem]:
    first = dict[str, int]()
    for number, response in enumerate(sample.responses):
        text = response.text
        for judgment in response.all_judgments():
            if judgment.invalid:
                detail = f"answer {number}, {judgment.judge or 'unnamed judge'}: {judgment.invalid}"
                yield Problem("warning", "a judgment is invalid", detail)
        if not text.strip():
            yield Problem("warning", "an answer is empty", f"answer {number}")
            continue
        if text in first:
            yield Problem("warning", "two answers are the same text", f"answers {first[text]} and {number}")
        first.setdefault(text, number)
        if match := PLACEHOLDER.search(text):
            where = f"answer {number}, {match[0]} in {_around(text, match)}"
            yield Problem("warning", "a placeholder is left in an answer", where)
        if why := _cut(text, response.sampling.get(FINISH)):
            yield Problem("warning", "an answer seems cut", f"answer {number}, {why}")


def _halves(sample: Sample) -> Iterator[Problem]:
    """Characters that cannot be, or should not be, in anybody's text."""
    for text in (*_texts(sample.messages), *(response.text for response in sample.responses)):
        if match := HALVES.search(text):
            yield Problem("error", "half a character, which is no UTF-8", f"{code(match[0])} in {_around(text, match)}")
        elif match := SUSPICIOUS.search(text):
            detail = f"{code(match[0])} {called(match[0])} in {_around(text, match)}"
            yield Problem("warning", "hidden characters", detail)
        elif "\N{REPLACEMENT CHARACTER}" in text:
            yield Problem("warning", "text was decoded by a wrong encoding", f"{text:.60}")


def _cut(text: str, finish: object) -> str:
    """Why an answer seems cut; empty where it does not."""
    if finish == CUT:
        return "its maker stopped at the longest length"
    end = text.rstrip()
    line = end.rsplit("\n", 1)[-1]
    open_end = end[-1].islower() or end[-1] in ",-("
    if len(end) < LONG_ANSWER or not open_end or LIST_ITEM.match(line):
        return ""
    return f"{len(end)} characters, it ends in {line[-30:]!r}"


def _texts(messages: Sequence[Message]) -> Iterator[str]:
    return (part.text for message in messages for part in message.content if isinstance(part, Text))


def _around(text: str, match: re.Match[str]) -> str:
    """The words around a match, quoted."""
    return repr(text[max(0, match.start() - 20) : match.end() + 20])
