"""`mmalign <command>`: the only file that knows all layers.

`fit`, `validate` and `reference` are Lightning's CLI over the methods; every other command is a program in `tools/` or
`serve/`, imported when it is called, so that `mmalign --help` needs no torch.
"""

import errno
import importlib
import sys
import warnings
from collections.abc import Sequence

from mmalign.configs import SHIPPED, find

TRAINER_COMMANDS = {
    "fit": "train: mmalign fit --config dpo.yaml [--config scale/tiny.yaml] [--model.beta 0.2] [--ckpt_path last]",
    "validate": "compute the validation metrics of a checkpoint",
    "reference": "compute the reference log-probabilities that `fit` would, and stop; takes the options of `fit`",
}
PROGRAMS = {
    "doctor": ("mmalign.tools.doctor.command", "would it run, here? Checks machine and config; takes options of `fit`"),
    "plan": ("mmalign.tools.plan.command", "memory, disk and time of a run, and what there is; takes options of `fit`"),
    "import": ("mmalign.tools.import_shards", "other people's files -> shards"),
    "sample": ("mmalign.tools.sample", "K answers a prompt, from a model here or from a server"),
    "judge": ("mmalign.tools.judge", "rate all answers: Gemini, GPT, a server, a reward, claims, or the exact world"),
    "contrast": ("mmalign.tools.contrast", "rejected answers without labels: BDHS, POVID's noise, Dropout-NTP"),
    "agree": ("mmalign.tools.agree", "how far raters agree: people, judges, the exact world"),
    "inspect": ("mmalign.tools.inspection.command", "a shard set in numbers, its faults, its rows, a page to browse"),
    "export": ("mmalign.tools.export", "checkpoint -> PEFT adapter directory, and merged weights on request"),
    "evaluate": (
        "mmalign.tools.evaluation.command",
        "base against aligned, paired; or one step: generate, judge, score",
    ),
    "sweep": ("mmalign.tools.sweep.command", "many runs, each trained and evaluated; one table and one plot"),
    "report": ("mmalign.tools.report", "report.html of a run and its evaluation"),
    "serve": ("mmalign.serve.server", "OpenAI-compatible HTTP server for base and adapters"),
    "load": ("mmalign.tools.load", "load a server with requests: tokens a second, time to the first, errors"),
    "demo": ("mmalign.tools.demo", "the whole loop on the embedded model, in minutes"),
}
OTHERS_DEPRECATIONS = (
    "`is_gradient_checkpointing` is deprecated",  # peft 0.21 on transformers 5.23
    r"`isinstance\(treespec, LeafSpec\)` is deprecated",  # lightning 2.6 on torch 2.13
    r"`torch\.distributed\.\w+_tensor` is deprecated",  # deepspeed 0.19 on torch 2.13
)
"""Warnings that one library means for another: nothing a user of mmalign could act on."""
DISK_TROUBLE = {
    errno.ENOSPC: "make room on that disk",
    errno.EDQUOT: "make room, your quota on that disk is used up",
    errno.EROFS: "have that disk mounted for writing, or name a folder elsewhere",
    errno.EIO: "have that disk looked at, it fails or is gone",
}
"""What to do about errors that are a disk's fault, whatever they were raised for."""


def main(args: Sequence[str] | None = None) -> object:
    """Run one command.

    Args:
        args: The command line without the program's name; None takes it from the shell.

    Raises:
        ValueError, FileNotFoundError: Bad input; `console` prints them without a traceback.
    """
    command, *rest = list(sys.argv[1:] if args is None else args) or ["--help"]
    if command in TRAINER_COMMANDS:
        from mmalign.training import run_trainer

        return run_trainer([command, *with_shipped_configs(rest)])
    if command in PROGRAMS:
        return importlib.import_module(PROGRAMS[command][0]).main(with_shipped_configs(rest))
    if command in ("-h", "--help", "help"):
        print(usage())
        return None
    if command == "--version":
        import mmalign

        print(f"mmalign {mmalign.__version__}")
        return None
    raise ValueError(f"mmalign has no command {command!r}.\n\n{usage()}")


def console() -> None:
    """Entry point of the `mmalign` program: a user's mistake is one message, not a traceback."""
    for message in OTHERS_DEPRECATIONS:
        warnings.filterwarnings("ignore", message=message)
    try:
        main()
    except (ValueError, FileNotFoundError, FloatingPointError) as error:
        sys.exit(f"mmalign: {error}")
    except OSError as error:
        if error.filename is None and error.errno not in DISK_TROUBLE:
            raise  # nobody's file
        remedy = DISK_TROUBLE.get(error.errno or 0, "see that it is there and may be read and written")
        where = error.filename or "a file of this command"
        sys.exit(f"mmalign: {error.strerror}: {where}. To go on, {remedy}, and run the same command again{_resumed()}.")
    except KeyboardInterrupt:
        sys.exit(f"mmalign: stopped. To go on, run the same command again{_resumed()}.")


def _resumed() -> str:
    """The option by which the command at hand goes on where it stopped."""
    return " with `--ckpt_path auto`" if sys.argv[1:2] == ["fit"] else ""


def usage() -> str:
    """The list of commands."""
    commands = TRAINER_COMMANDS | {name: about for name, (_, about) in PROGRAMS.items()}
    lines = "\n".join(f"  {name:10} {about}" for name, about in commands.items())
    return (
        "mmalign aligns multimodal language models with preferences, and shows what that gained and cost.\n\n"
        f"usage: mmalign COMMAND [options]\n\n{lines}\n\n"
        f"Shipped configs (a bare name finds them): {', '.join(shipped_configs())}\n"
        "Every command has --help; `mmalign fit --config dpo.yaml --print_config` shows a whole config."
    )


def shipped_configs() -> list[str]:
    """Names of the configs that come with mmalign, relative to `configs/`."""
    return sorted(str(path.relative_to(SHIPPED)) for path in SHIPPED.rglob("*.yaml"))


def with_shipped_configs(args: Sequence[str]) -> list[str]:
    """Replace bare names behind `--config` or `-c` that exist in `configs/` only by their path."""
    found = list(args)
    for i, arg in enumerate(found):
        if arg.startswith("--config="):
            found[i] = f"--config={find(name := arg.removeprefix('--config=')) or name}"
        elif i and found[i - 1] in ("--config", "-c"):
            found[i] = str(find(arg) or arg)
    return found


if __name__ == "__main__":
    console()
