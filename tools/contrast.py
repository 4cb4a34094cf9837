"""`mmalign contrast`: rejected answers that need no label, made from a chosen one without the picture.

    mmalign contrast bdhs        --shards shards/judged --out shards/bdhs            sentences rewritten, picture masked
    mmalign contrast povid       --shards shards/judged --out shards/povid           read behind a noised picture
    mmalign contrast dropout_ntp --shards shards/judged --out shards/dropout_ntp     second half without the picture

The new answer stands behind the responses that a sample has, with how it was made, and the two are its `preference`:
any method that takes pairs trains on them as they are. The shards that were read keep their own. Samples without a
picture, or without a chosen answer, are left out, named and counted. Run again, it goes on where it was: answers are
kept in `OUT.partial` as they come.

Tests   tests/tools/test_contrast.py
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jsonargparse
import torch

from mmalign.contrast.bdhs import BDHS, rewrite
from mmalign.contrast.chosen import Positive, find_positive
from mmalign.contrast.dropout_ntp import DropoutNTP, finish_blind
from mmalign.contrast.noise import Noise, answer_noise
from mmalign.contrast.similarity import OWN, load_similarity, similarity_identity
from mmalign.data.reader import ShardSet
from mmalign.data.records import RecordFile
from mmalign.data.sample import Preference, Response, Sample
from mmalign.data.views import Unusable
from mmalign.processor import EMBEDDED
from mmalign.sampling.policy import Policy, load_policy
from mmalign.template import TemplateName

from .making import CONSOLE, Making, finish, making
from .progress import progress_bars

JOURNAL = "rejected.jsonl"
NAMED = 20
"""Samples that are left out for one reason, named one by one; beyond that they are counted."""

Maker = Callable[[Policy, Iterable[Positive]], Iterator[tuple[Positive, Response]]]


@dataclass(frozen=True, kw_only=True)
class Options:
    """What all ways of making rejected answers have in common."""

    shards: str
    """Samples with chosen answers: a folder, an address, or `world` / `world-heldout`, which ship with mmalign."""
    out: Path
    """A new folder for the shards with the pairs. Run again with the same folder to go on."""
    checkpoint: str = EMBEDDED
    """The model that writes: `embedded`, a folder, or a hub name. Best the one that is to be aligned."""
    adapter: Path | None = None
    """An adapter on it, as `mmalign export` writes it."""
    chosen: str = "auto"
    """The chosen answer: `preference` (a direct choice), `best` (the best rated), the name of a model such as `gold`,
    or `auto`, the first that there is of preference, best, gold and teacher."""
    batch_size: int = 16
    """Samples, or their sentences, that run together."""
    template: TemplateName | None = None
    """Chat format; left out, the one of the training, or the checkpoint's."""
    pad_images: bool | None = None
    """Pad pictures to a square; left out, as the model was trained."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of the base's weights. In bfloat16 other batch sizes may give other answers."""
    overwrite: bool = False
    """Replace what `out` holds of other settings, instead of refusing."""


@dataclass(frozen=True, kw_only=True)
class Bdhs(BDHS, Options):
    """BDHS: the chosen answer rewritten sentence by sentence, while most of the picture is masked (2407.02477)."""

    similarity: str = OWN
    """What tells how alike two answers are: `policy` (its own hidden states, averaged), or a folder or hub name for
    sentence-transformers; the paper takes sentence-transformers/all-mpnet-base-v2. Their scales differ."""


@dataclass(frozen=True, kw_only=True)
class Povid(Noise, Options):
    """POVID: what the model would say behind a noised picture, word by word of the chosen answer (2402.11411)."""


@dataclass(frozen=True, kw_only=True)
class DropoutNtp(DropoutNTP, Options):
    """Dropout-NTP: the second half of the chosen answer written without the picture (MPO, 2411.10442)."""


Ways = Bdhs | Povid | DropoutNtp


class Made(NamedTuple):
    """What came of one sample, as it is kept until the shards are written."""

    id: str
    """Its key."""
    text: str = ""
    model: str = ""
    sampling: Mapping[str, Any] = {}
    left_out: str = ""
    """Why there is no answer."""


def contrast(options: Ways) -> None:
    """Make one rejected answer for every sample that has a picture and a chosen answer.

    Args:
        options: Which way, and how.

    Raises:
        FileNotFoundError: No shards, checkpoint or adapter.
        ValueError: Settings that cannot be, or `out` holds something else; or no sample can be used.
    """
    policy = _policy(options)
    method, settings, make = _method(options)
    settings = settings | {"chosen": options.chosen, "model": policy.name} | policy.identity
    command = f"contrast {method}"
    with making(options.shards, options.out, command=command, settings=settings, overwrite=options.overwrite) as work:
        if work is None:
            return
        file = work.records(JOURNAL, Made)
        _make_all(work.source, file, policy, make, options)
        _finish(work, file.records, options)


def _policy(options: Options) -> Policy:
    """The model that writes; its weights load when they are needed."""
    if options.batch_size < 1:
        raise ValueError(f"`--batch_size` must be 1 or more, got {options.batch_size}.")
    return load_policy(
        options.checkpoint,
        options.adapter,
        template=options.template,
        pad_images=options.pad_images,
        dtype=getattr(torch, options.dtype),
    )


def _method(options: Ways) -> tuple[str, dict[str, Any], Maker]:
    """Its name, its settings, and what makes the answers."""
    size = options.batch_size
    match options:
        case Bdhs():
            settings = _settings(options, BDHS) | similarity_identity(options.similarity)

            def rewritten(policy: Policy, positives: Iterable[Positive]) -> Iterator[tuple[Positive, Response]]:
                similarity = load_similarity(options.similarity, policy)
                return rewrite(policy, positives, options, similarity, batch_size=size)

            return "bdhs", settings, rewritten
        case Povid():
            settings = _settings(options, Noise)
            return "povid", settings, lambda policy, found: answer_noise(policy, found, options, batch_size=size)
        case DropoutNtp():
            settings = _settings(options, DropoutNTP)
            return "dropout_ntp", settings, lambda policy, found: finish_blind(policy, found, options, batch_size=size)


def _settings(options: object, kind: type) -> dict[str, Any]:
    """Those of the method alone."""
    return {name: getattr(options, name) for name in kind.__dataclass_fields__}  # type: ignore[attr-defined]


def _make_all(source: ShardSet, file: RecordFile[Made], policy: Policy, make: Maker, options: Ways) -> None:
    """Make what is not made yet; each answer is on disk as soon as it is there."""
    forced = isinstance(options, Povid) and options.answer == "forced"
    todo = [number for number in range(len(source)) if source.manifest.key(number) not in file.records]
    with progress_bars() as bars:
        bar = bars.add_task("rejected answers", total=len(source), completed=len(source) - len(todo))

        def keep(made: Made) -> None:
            file.append([made])
            bars.advance(bar)

        def positives() -> Iterator[Positive]:
            for sample in (source[number] for number in todo):
                found = find_positive(
                    policy, sample, options.chosen, new_tokens=0 if forced else options.max_new_tokens
                )
                if isinstance(found, Unusable):
                    keep(Made(sample.key, left_out=found.reason))
                else:
                    yield found

        for positive, response in make(policy, positives()):
            keep(Made(positive.sample.key, response.text, response.model, response.sampling))


def _finish(work: Making, found: Mapping[str, Made], options: Options) -> None:
    """Write the shards, and name what was left out.

    Raises:
        ValueError: All was left out.
    """
    reasons = dict[str, list[str]]()
    for number in range(len(work.source)):
        made = found[work.source.manifest.key(number)]
        if made.left_out:
            reasons.setdefault(made.left_out, []).append(made.id)
    for reason, keys in reasons.items():
        more = f" and {len(keys) - NAMED} more" if len(keys) > NAMED else ""
        CONSOLE.print(f"left out, {reason}: {', '.join(keys[:NAMED])}{more}")
    num_left_out = sum(map(len, reasons.values()))
    if num_left_out == len(work.source):
        raise ValueError(
            f"None of the {num_left_out} samples of {options.shards} has both a picture and a chosen answer by "
            f"`--chosen {options.chosen}`, see above. Nothing is written."
        )
    counts = Counter({"samples": num_left_out, "rejected answers": 0, "left out": num_left_out, SAME: 0, EMPTY: 0})
    scale = " --config scale/tiny.yaml" if options.checkpoint == EMBEDDED else ""
    following = f"mmalign fit --config dpo.yaml{scale} --data.shards={options.out}"
    finish(work, _contrasted(work.source, found, counts), counts, following=following)


SAME = "of them equal to the chosen answer"
EMPTY = "of them empty"


def _contrasted(source: ShardSet, found: Mapping[str, Made], counts: Counter[str]) -> Iterator[Sample]:
    """Every sample with its rejected answer; counts them."""
    for sample in (source[number] for number in range(len(source)) if not found[source.manifest.key(number)].left_out):
        made = found[sample.key]
        pair = Preference(made.sampling["of"], len(sample.responses))
        counts.update({"samples": 1, "rejected answers": 1})
        counts[SAME] += made.text == sample.responses[pair.chosen].text
        counts[EMPTY] += not made.text.strip()
        response = Response(text=made.text, model=made.model, sampling=made.sampling)
        yield replace(sample, responses=(*sample.responses, response), preference=pair)


def main(args: Sequence[str] | None = None) -> None:
    """Entry point of `mmalign contrast`."""
    jsonargparse.set_parsing_settings(docstring_parse_attribute_docstrings=True)
    options = jsonargparse.auto_cli(
        {"bdhs": Bdhs, "povid": Povid, "dropout_ntp": DropoutNtp},
        args=None if args is None else list(args),
        as_positional=False,
        prog="mmalign contrast",
    )
    contrast(options)
