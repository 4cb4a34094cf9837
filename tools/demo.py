"""`mmalign demo`: the embedded model before and after DPO, in minutes on two cores.

    train -> export -> evaluate -> report -> serve, and ask

Every step is a command that a user would type; it is shown before it runs. Stopped and run again, the demo goes on
where it was: training from its last checkpoint, evaluation from its last answers.
"""

import os
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import jsonargparse
from rich.console import Console
from rich.rule import Rule
from rich.text import Text

from mmalign.evaluation.answers import Answer, read_answers
from mmalign.evaluation.findings import findings
from mmalign.evaluation.gallery import case_of
from mmalign.evaluation.scores import read_scores
from mmalign.evaluation.table import MAIN, scores_table

from .demo_serve import ask, served

BASE, TEMPLATE, ADAPTER_NAME = "embedded", "llava_hf", "dpo"
ONE_THREAD = {"OMP_NUM_THREADS": "1"}
"""The embedded model's tensors are too small to share: a second thread mostly waits, on a busy machine for long."""


class DemoError(ValueError):
    """A step failed; the message says which and where to look."""


def demo(out: Path = Path("runs/demo")) -> None:
    """Align the embedded model with DPO, measure what it gained and cost, and ask the served model a question.

    Args:
        out: Where the run, its adapter, the evaluation and the report go. Run again, the demo goes on there.

    Raises:
        DemoError: A step failed.
    """
    console = Console(highlight=False)
    began = time.perf_counter()
    adapter, evaluation = out / "adapter", out / "evaluation"
    steps = [
        (
            "DPO on the model's own answers, as the exact judge rated them",
            "fit --config dpo.yaml --config scale/tiny.yaml --model.beta 0.5 --ckpt_path auto "
            f"--trainer.default_root_dir {_q(out)}",
        ),
        ("The trained adapter, as PEFT's own format", f"export --run {_q(out)} --out {_q(adapter)}"),
        (
            "Before against after, on held-out pictures",
            f"evaluate --checkpoint {BASE} --adapter {_q(adapter)} --out {_q(evaluation)} --overwrite true",
        ),
        (
            "A page to look at",
            f"report --evaluation {_q(evaluation)} --run {_q(out)} --out {_q(out)}",
        ),
    ]
    for number, (title, command) in enumerate(steps, start=1):
        _run_step(console, f"{number}/{len(steps) + 1}  {title}", command)
    _ask_step(console, f"{len(steps) + 1}/{len(steps) + 1}  The served model, before and after", adapter, evaluation)
    _conclude(console, out, evaluation, seconds=time.perf_counter() - began)


def _run_step(console: Console, title: str, command: str) -> None:
    """Run one mmalign command in a process of its own."""
    console.print(Rule(title, align="left"))
    console.print(f"[bold]$ mmalign {command}[/bold]", soft_wrap=True)
    began = time.perf_counter()
    argv = [sys.executable, "-m", "mmalign.cli", *shlex.split(command)]
    code = subprocess.run(argv, check=False, env=os.environ | ONE_THREAD).returncode
    if code:
        raise DemoError(
            f"`mmalign {command}` ended with exit status {code}; its reason stands above. Mend that and run "
            "`mmalign demo` again: what is done is kept."
        )
    console.print(f"[dim]took {time.perf_counter() - began:.0f} s[/dim]\n")


def _ask_step(console: Console, title: str, adapter: Path, evaluation: Path) -> None:
    """Start the server, ask both models one question about one picture by OpenAI's client, stop the server."""
    console.print(Rule(title, align="left"))
    chosen = choose_question(read_answers(evaluation))
    log = adapter.parent / "serve.log"
    began = time.perf_counter()
    with served(BASE, TEMPLATE, {ADAPTER_NAME: adapter}, log=log) as server:
        console.print(f"[bold]$ {server.command}[/bold]", soft_wrap=True)
        console.print(f"Held-out picture [bold]{chosen.id}[/bold], by the official openai client:")
        console.print(Text(f"\n  question  {chosen.prompt}"), soft_wrap=True)
        for model in ("base", ADAPTER_NAME):
            answer = " ".join(ask(server, model, chosen.id).split())
            console.print(Text(f"  {model:8}  {answer}"), soft_wrap=True)  # Text: an answer's brackets are no markup
    console.print(f"[dim]took {time.perf_counter() - began:.0f} s; the server is stopped, its log is {log}[/dim]\n")


def choose_question(answers: Sequence[Answer]) -> Answer:
    """The first held-out description with a false object that alignment mended; the first of all if there is none."""
    described = sorted((answer for answer in answers if answer.kind == "describe"), key=lambda answer: answer.id)
    if not described:
        raise DemoError("The evaluation holds no description to ask about. Delete its folder and run the demo again.")
    return next((answer for answer in described if case_of(answer) == "mended"), described[0])


def _conclude(console: Console, out: Path, evaluation: Path, *, seconds: float) -> None:
    scores = read_scores(evaluation)
    words = findings(scores)
    console.print(Rule("What it says", align="left"))
    console.print(scores_table(scores, MAIN))
    console.print(f"\n[bold]{words.headline}.[/bold]\n{words.summary}\n{words.caution}\n")
    console.print(f"The report, with curves and pictures: [bold]{out / 'report.html'}[/bold]", soft_wrap=True)
    console.print(f"[dim]The whole demo took {seconds / 60:.1f} minutes.[/dim]")


def _q(path: Path) -> str:
    return shlex.quote(str(path))


def main(args: Sequence[str] | None = None) -> None:
    """Entry point of `mmalign demo`."""
    jsonargparse.auto_cli(demo, args=None if args is None else list(args), as_positional=False, prog="mmalign demo")
