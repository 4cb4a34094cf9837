r"""`mmalign sample`: K answers to every prompt of a shard set.

    mmalign sample --shards shards/prompts --out shards/sampled                            the embedded model
    mmalign sample --shards shards/prompts --out shards/sampled --checkpoint llava-hf/llava-1.5-13b-hf \
        --adapter runs/dpo/adapter --dtype bfloat16 --batch_size 32
    torchrun --nproc_per_node 4 -m mmalign.cli sample --shards ...                         a GPU each, one result
    mmalign sample --shards ... --out ... --server http://localhost:8000/v1 --model llava  vLLM, or `mmalign serve`

Every answer has a seed of its own, made of the sample's id and the answer's number, so the same command gives the same
answers, on however many ranks and wherever it was stopped on the way. They stand behind the responses that a sample
has already. Run again, it goes on where it was: answers are kept in `OUT.partial` as they come.

Tests   tests/tools/test_sample.py
"""

import asyncio
import json
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import jsonargparse
import torch

from mmalign.api.endpoint import Endpoint, Prices
from mmalign.data.reader import ShardSet
from mmalign.data.records import IDENTITY_FILE, RecordFile
from mmalign.data.rowset import Source
from mmalign.data.sample import Sample
from mmalign.sampling.answers import Answerer, Drawing, Sampled, answer_all, answer_id, make_batches
from mmalign.sampling.journals import journal_name, read_journals
from mmalign.sampling.policy import load_policy
from mmalign.sampling.ranks import Ranks, joined
from mmalign.sampling.server import ServerAnswers
from mmalign.template import TemplateName
from mmalign.world.prompts import SOURCE

from .answering import check_answering_options
from .inspection.seen import seen
from .making import CONSOLE, KEPT, Making, finish, making, partial_of
from .progress import progress_bars

GO, MADE, FAILED = range(3)
"""What the first rank tells the others before they begin."""
PROVENANCE = ("checkpoint_hash", "adapter_hash", "attributes")
"""What every answer says of its model, beside how it was drawn; the lineage of the shards says the rest."""


def sample(
    shards: str,
    out: Path,
    checkpoint: str = "embedded",
    adapter: Path | None = None,
    model: str | None = None,
    num: int = 4,
    temperature: float = 0.7,
    top_p: float = 1.0,
    max_new_tokens: int = 256,
    seed: int = 0,
    batch_size: int = 16,
    template: TemplateName | None = None,
    pad_images: bool | None = None,
    dtype: Literal["float32", "bfloat16"] = "float32",
    attributes: dict[str, int] | None = None,
    server: str | None = None,
    max_side: int | None = None,
    key_env: str = "",
    key_file: Path | None = None,
    concurrency: int = 16,
    requests_per_minute: float | None = None,
    timeout_s: float = 120.0,
    tries: int = 6,
    max_cost: float | None = None,
    prices: Prices | None = None,
    overwrite: bool = False,
) -> None:
    """Sample K answers to every prompt of a shard set.

    Args:
        shards: The prompts: a folder, an address, or `world` / `world-heldout`, which ship with mmalign. Responses
            that are there stay, the new ones stand behind them.
        out: A new folder for the shards with the answers. Run again with the same folder to go on.
        checkpoint: The model that answers: `embedded`, a folder, or a hub name.
        adapter: An aligned model's PEFT directory, as `mmalign export` writes it.
        model: Name that the answers carry; left out, that of the checkpoint, and of the adapter's run. With `server`:
            the model's name there.
        num: Answers a prompt. The paper: 4.
        temperature: 0 takes the likeliest token, for one answer a prompt. The paper: 0.7.
        top_p: Keep the smallest set of tokens with this much probability.
        max_new_tokens: An answer longer than this is cut, and says so.
        seed: Another one gives other answers.
        batch_size: Answers that run together; they are kept after each batch.
        template: Chat format; left out, the one of the training, or the checkpoint's.
        pad_images: Pad pictures to a square; left out, as the model was trained.
        dtype: Of the base's weights. bfloat16 is what large models run in; there, other batch sizes may give other
            answers.
        attributes: What to ask a model of SteerLM for, such as `{verbosity: 0}`, instead of what its export says; those
            left out stay.
        server: Ask a server instead of a model here: the base address of an OpenAI-compatible one, such as
            http://localhost:8000/v1 of vLLM or `mmalign serve`. Its replies are kept in `OUT.partial`.
        max_side: Of a server: longest side of a picture in pixels; a larger one is made smaller. Left out, all are
            sent as they are.
        key_env: Of a server: environment variable that holds the API key; left out, OPENAI_API_KEY for OpenAI, none
            elsewhere.
        key_file: Of a server: a file that holds the API key, instead of the variable.
        concurrency: Of a server: answers asked for at the same time.
        requests_per_minute: Of a server: at most, retries included.
        timeout_s: Of a server: seconds that one answer may take.
        tries: Of a server: for one answer, where it is busy, fails or hangs.
        max_cost: Of a server: what all answers may cost; needs `prices`.
        prices: Of a server: of a million tokens.
        overwrite: Replace what `out` holds of other settings, instead of refusing.

    Raises:
        FileNotFoundError: No shards, checkpoint or adapter.
        ValueError: Settings that cannot be, or `out` holds something else.
    """
    check_answering_options(sample, locals())
    if batch_size < 1:
        raise ValueError(f"`--batch_size` must be 1 or more, got {batch_size}.")
    drawing = Drawing(
        model=model or "",
        num=num,
        temperature=temperature,
        top_p=top_p,
        max_new_tokens=max_new_tokens,
        seed=seed,
    )
    if server is not None:
        endpoint = Endpoint(
            model=model or "",
            url=server,
            key_env=key_env,
            key_file=key_file,
            concurrency=concurrency,
            requests_per_minute=requests_per_minute,
            timeout_s=timeout_s,
            tries=tries,
            max_cost=max_cost,
            prices=prices,
        )
        _ask_server(shards, out, endpoint, drawing, max_side, overwrite=overwrite)
        return
    with joined() as ranks:
        policy = load_policy(
            checkpoint,
            adapter,
            template=template,
            pad_images=pad_images,
            dtype=getattr(torch, dtype),
            attributes=attributes,
        )
        answerer = Answerer(policy, replace(drawing, model=model or policy.name))
        if ranks.is_first:
            _lead(shards, out, answerer, ranks, batch_size, overwrite=overwrite)
        else:
            _follow(shards, out, answerer, ranks, batch_size)


def _lead(shards: str, out: Path, answerer: Answerer, ranks: Ranks, batch_size: int, *, overwrite: bool) -> None:
    """Be the first rank, or the only one: answer a share of the prompts, and write what all have answered."""
    policy, drawing = answerer.policy, answerer.drawing
    settings = vars(drawing) | policy.identity
    has_told = False
    try:
        with making(shards, out, command="sample", settings=settings, overwrite=overwrite) as work:
            if work is not None:
                file = work.records(journal_name(ranks.rank), Sampled)
            ranks.from_first(MADE if work is None else GO)
            has_told = True
            if work is not None:
                _answer(work.source, file, answerer, ranks, batch_size)
                ranks.wait()
                provenance = {name: policy.identity[name] for name in PROVENANCE if name in policy.identity}
                _finish(work, drawing, read_journals(work.partial), provenance)
    finally:
        if not has_told:
            ranks.from_first(FAILED)


def _follow(shards: str, out: Path, answerer: Answerer, ranks: Ranks, batch_size: int) -> None:
    """Answer a share of the prompts, for the first rank to write."""
    told = ranks.from_first()
    if told == FAILED:
        sys.exit("mmalign: the first rank has stopped; its message says why.")
    if told == MADE:
        return
    partial = partial_of(out)
    identity = json.loads((partial / IDENTITY_FILE).read_text(encoding="utf-8"))
    file = RecordFile(partial / journal_name(ranks.rank), Sampled, identity)
    _answer(ShardSet(Source(path=shards).resolve()), file, answerer, ranks, batch_size)
    ranks.wait()


def _answer(source: ShardSet, file: RecordFile[Sampled], answerer: Answerer, ranks: Ranks, batch_size: int) -> None:
    """Answer every batch that is this rank's, as far as nobody has."""
    image_tokens = answerer.policy.template.num_image_tokens
    batches = list(make_batches(source.manifest, answerer.drawing.num, batch_size, image_tokens))[
        ranks.rank :: ranks.size
    ]
    done = set(read_journals(file.path.parent))
    title = "answers" if ranks.size == 1 else f"answers of rank 0 of {ranks.size}"
    with progress_bars() as bars:
        bar = bars.add_task(title, total=sum(map(len, batches)), visible=ranks.is_first)
        answer_all(source, batches, done, answerer.answer, file, lambda number: bars.advance(bar, number))


def _ask_server(
    shards: str, out: Path, endpoint: Endpoint, drawing: Drawing, max_side: int | None, *, overwrite: bool
) -> None:
    """Have a server answer all prompts."""
    settings = vars(drawing) | endpoint.identity() | ({} if max_side is None else {"max_side": max_side})
    with making(shards, out, command="sample", settings=settings, overwrite=overwrite) as work:
        if work is None:
            return
        with progress_bars() as bars:
            bar = bars.add_task("answers", total=len(work.source) * drawing.num, note="")
            server = ServerAnswers(
                work.source,
                drawing,
                max_side=max_side,
                progress=lambda number, usage: bars.update(bar, advance=number, note=usage.note()),
            )
            found = asyncio.run(server.ask_all(endpoint, work.partial / KEPT))
        _finish(work, drawing, found, {})


def _finish(work: Making, drawing: Drawing, found: Mapping[str, Sampled], provenance: Mapping[str, str]) -> None:
    """Write the shards, and name what got no answer.

    Raises:
        ValueError: Nothing got an answer.
    """
    failures = {name.rpartition("/")[0]: each.failure for name, each in found.items() if each.failure}
    for key, failure in sorted(failures.items()):
        CONSOLE.print(f"not answered: {key}: {seen(failure)}")
    if all(each.failure for each in found.values()):
        raise ValueError(f"None of the {len(work.source)} prompts was answered, see above. Nothing is written.")
    counts = Counter({"samples": len(work.source), "answers": 0, "of them cut": 0, "answers missing": 0})
    judge = "world" if work.source.manifest.entry(0).source == SOURCE else "gemini"
    finish(
        work,
        _answered(work.source, drawing, found, provenance, counts),
        counts,
        following=f"mmalign judge --shards {work.out} --out {work.out}-judged --judge {judge}",
    )


def _answered(
    source: ShardSet,
    drawing: Drawing,
    found: Mapping[str, Sampled],
    provenance: Mapping[str, str],
    counts: Counter[str],
) -> Iterator[Sample]:
    """Every sample with its answers; counts them."""
    for number in range(len(source)):
        prompt = source[number]
        answers = [found[answer_id(prompt.key, each)] for each in range(drawing.num)]
        counts["answers missing"] += sum(bool(each.failure) for each in answers)
        counts["answers"] += sum(not each.failure for each in answers)
        counts["of them cut"] += sum(each.finish_reason == "length" for each in answers)
        yield drawing.answered(prompt, answers, provenance)


def main(args: Sequence[str] | None = None) -> None:
    """Entry point of `mmalign sample`."""
    jsonargparse.set_parsing_settings(docstring_parse_attribute_docstrings=True)
    jsonargparse.auto_cli(sample, args=None if args is None else list(args), as_positional=False, prog="mmalign sample")
