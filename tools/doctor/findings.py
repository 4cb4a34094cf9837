"""What a check finds, and running checks so that none can stop another."""

import time
from collections.abc import Callable, Iterator, Sequence
from enum import StrEnum
from typing import NamedTuple


class Status(StrEnum):
    """How a check ended."""

    OK = "ok"
    WARNING = "warning"
    """It may run, or could not be checked here."""
    FAILED = "failed"
    """It would not run, or not do what the config says."""


class Finding(NamedTuple):
    """The outcome of one check."""

    status: Status
    found: str
    """What was seen, with its numbers."""
    remedy: str = ""
    """What to do; empty where nothing is to be done, or where `found` says it."""
    met: bool = True
    """Whether checks that need this one mean anything."""


class Check(NamedTuple):
    """One line of the report."""

    name: str
    run: Callable[[], Finding]
    needs: tuple[str, ...] = ()
    """Checks without which this one means nothing."""


class Result(NamedTuple):
    """A check's finding, as `--json` writes it."""

    name: str
    status: Status
    found: str
    remedy: str
    seconds: float


def ok(found: str) -> Finding:
    """All is well."""
    return Finding(Status.OK, found)


def warning(found: str, remedy: str) -> Finding:
    """Not well, or not known; a run may still be right."""
    return Finding(Status.WARNING, found, remedy)


def failed(found: str, remedy: str = "") -> Finding:
    """A run would fail."""
    return Finding(Status.FAILED, found, remedy, met=False)


def unknown(found: str, remedy: str) -> Finding:
    """It could not be checked here, nor can what stands on it."""
    return Finding(Status.WARNING, found, remedy, met=False)


def graded(found: str, *, faults: Sequence[str] = (), doubts: Sequence[str] = (), remedy: str = "") -> Finding:
    """The worst of what was seen.

    Args:
        found: What was seen in any case.
        faults: What would stop a run.
        doubts: What may be meant so.
        remedy: What to do about either.
    """
    text = "; ".join([*faults, *doubts, *([found] if found else [])])
    if faults:
        return failed(text, remedy)
    return warning(text, remedy) if doubts else ok(text)


def examine(checks: Sequence[Check]) -> Iterator[Result]:
    """Run checks one by one; one whose needs were not met is left out and says so."""
    causes = dict[str, str]()
    """Of each check that was not met: itself, or the one that it waits for."""
    for name, run, needs in checks:
        began = time.perf_counter()
        cause = next((causes[need] for need in needs if need in causes), "")
        finding = unknown("not checked", f"First mend what `{cause}` says.") if cause else _outcome(run)
        if not finding.met:
            causes[name] = cause or name
        seconds = round(time.perf_counter() - began, 3)
        yield Result(name, finding.status, finding.found, finding.remedy, seconds)


def _outcome(run: Callable[[], Finding]) -> Finding:
    """What a check finds; an exception is a finding, too: the others have to run whatever happens to this one."""
    try:
        return run()
    except (ValueError, FileNotFoundError) as error:  # the user's: mmalign's messages say what, where and what to do
        return failed(str(error))
    except Exception as error:
        return failed(f"{type(error).__name__}: {error}", "Nobody foresaw this: please report it, with this line.")
