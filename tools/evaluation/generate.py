r"""`mmalign evaluate generate`: a model's answers to a benchmark, in the template and decoding of its rule.

    mmalign evaluate generate mm_vet --questions mm-vet.json --images images --adapter dpo/adapter --out runs/mm_vet
    mmalign evaluate generate pope --questions coco --images val2014 --out runs/pope \
        --server http://localhost:8000/v1 --model llava                            vLLM, `mmalign serve`, a provider

Run again, it goes on where it was stopped, and asks again what failed.

Tests   tests/tools/test_evaluate_generate.py
"""

import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rich.console import Console

from mmalign.api.endpoint import Endpoint, Prices
from mmalign.api.usage import Usage
from mmalign.evaluation.steps.benchmark import Benchmark
from mmalign.evaluation.steps.faults import NAMED
from mmalign.evaluation.steps.generating import generate
from mmalign.evaluation.steps.generating_server import EndpointAnswerer
from mmalign.evaluation.steps.records import ANSWERS_FILE, Answer

from ..answering import check_answering_options
from ..inspection.seen import seen
from ..progress import progress_bars

if TYPE_CHECKING:
    from mmalign.evaluation.steps.generating_local import PolicyAnswerer

CONSOLE = Console(soft_wrap=True, highlight=False, markup=False)
REPLIES = Path("replies") / "answers"
"""In the folder of the answers: what a server said, and was paid for."""
TemplateChoice = Literal["vicuna_v1", "llava_hf"]
"""`mmalign.template.TemplateName`, which would bring torch: who asks a server needs none."""


def generate_answers(
    bench: Benchmark,
    out: Path,
    checkpoint: str = "embedded",
    adapter: Path | None = None,
    model: str | None = None,
    batch_size: int = 16,
    seed: int = 0,
    template: TemplateChoice | None = None,
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
    on_bad: Literal["error", "count"] = "error",
    overwrite: bool = False,
) -> list[Answer]:
    """Let a model answer a benchmark.

    Args:
        bench: The benchmark; its rule says how answers are decoded.
        out: Folder of `answers.jsonl`. Run again with the same folder to go on.
        checkpoint: The model that answers: `embedded`, a folder, or a hub name.
        adapter: An aligned model's PEFT directory, as `mmalign export` writes it.
        model: Name that the answers carry; left out, that of the checkpoint, and of the adapter's run. With `server`:
            the model's name there.
        batch_size: Questions that run together; their answers are kept after each batch.
        seed: Another one gives other answers, where the rule draws them.
        template: Chat format; left out, the one of the training, or the checkpoint's.
        pad_images: Pad pictures to a square; left out, as the model was trained.
        dtype: Of the base's weights. bfloat16 is what large models run in; there, other batch sizes may give other
            answers.
        attributes: What to ask a model of SteerLM for, such as `{verbosity: 0}`, instead of what its export says; those
            left out stay.
        server: Ask a server instead of a model here: the base address of an OpenAI-compatible one, such as
            http://localhost:8000/v1 of vLLM or `mmalign serve`. Its replies are kept beside the answers.
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
        on_bad: What to do about questions whose pictures are missing or broken. `error`: say how many and which, before
            anything is answered. `count`: go without, and write down that they failed.
        overwrite: Drop what `out` holds of another model or of other questions, instead of refusing.

    Raises:
        FileNotFoundError: No questions, pictures, checkpoint or adapter.
        ValueError: Settings that cannot be, or `out` holds other answers.
    """
    options = locals()
    check_answering_options(generate_answers, options)
    with progress_bars() as bars:
        bar = bars.add_task(f"answers to {bench.title}", total=None, note="")
        answerer = (
            _model(options) if server is None else _endpoint(options, lambda usage: bars.update(bar, note=usage.note()))
        )
        answers = generate(
            bench,
            answerer,
            out,
            on_bad=on_bad,
            overwrite=overwrite,
            progress=lambda done, total: bars.update(bar, completed=done, total=total),
        )
    _say(answers, answerer.name, out)
    return answers


def _model(options: Mapping[str, Any]) -> "PolicyAnswerer":
    """A model here.

    Raises:
        FileNotFoundError, ValueError: See `load_policy`; or there are several processes.
    """
    if os.environ.get("WORLD_SIZE", "1") != "1":
        raise ValueError(
            "One process answers a benchmark: leave torchrun out. For several GPUs, serve the model on each "
            "(`mmalign serve`, vLLM) and give `--server`."
        )
    import torch

    from mmalign.evaluation.steps.generating_local import PolicyAnswerer
    from mmalign.sampling.policy import load_policy

    policy = load_policy(
        options["checkpoint"],
        options["adapter"],
        template=options["template"],
        pad_images=options["pad_images"],
        dtype=getattr(torch, options["dtype"]),
        attributes=options["attributes"],
    )
    return PolicyAnswerer(policy, batch_size=options["batch_size"], seed=options["seed"], name=options["model"] or "")


def _endpoint(options: Mapping[str, Any], used: Callable[[Usage], None]) -> EndpointAnswerer:
    """A model behind a server."""
    given = {name: options[name] for name in set(Endpoint.__dataclass_fields__) & set(options)}
    endpoint = Endpoint(**given | {"model": options["model"] or "", "url": options["server"]})
    return EndpointAnswerer(
        endpoint,
        options["out"] / REPLIES,
        seed=options["seed"],
        max_side=options["max_side"],
        used=used,
        warn=CONSOLE.print,
    )


def _say(answers: Sequence[Answer], model: str, out: Path) -> None:
    """How many there are, how many were cut, and which failed.

    Raises:
        ValueError: All did.
    """
    failed = [each for each in answers if each.failure]
    for each in failed[:NAMED]:
        CONSOLE.print(f"not answered: {each.id}: {seen(each.failure)}")
    if len(failed) > NAMED:
        CONSOLE.print(f"not answered: {len(failed) - NAMED} more; the file names all")
    if len(failed) == len(answers):
        raise ValueError(f"None of the {len(answers)} questions was answered, see above.")
    cut = Counter(reason for each in answers for reason in each.finish_reasons)["length"]
    CONSOLE.print(
        f"{out / ANSWERS_FILE}: {len(answers) - len(failed)} answers of {seen(model)}, {len(failed)} failed, {cut} cut "
        "at their limit"
    )
