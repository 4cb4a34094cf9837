"""System calls of a save, counted; the n-th one ends the process, halfway where it writes, or fails."""

import os
from contextlib import contextmanager
from pathlib import Path

import pytest

CALLS = ("open", "write", "fsync", "close", "mkdir", "rename", "replace", "unlink", "rmdir")
DIED = 77


@contextmanager
def patched(before):
    """Inside this context `before(name, args)` runs in front of every call in `CALLS` that is made through `os`."""
    with pytest.MonkeyPatch.context() as patch:
        for name in CALLS:
            real = getattr(os, name)

            def call(*args, _name=name, _real=real, **kwargs):
                before(_name, args)
                return _real(*args, **kwargs)

            patch.setattr(os, name, call)
        yield


def calls_of(act):
    """What an action asks of the system, in order: names, and their first arguments."""
    seen = []
    with patched(lambda name, args: seen.append((name, args[0]))):
        act()
    return seen


@contextmanager
def dying_at(number):
    """Inside this context the process ends, as by SIGKILL, in front of its call `number`.

    A write that is to be the last one is done by half.
    """
    count, write = iter(range(10**6)), os.write

    def end(name, args):
        if next(count) == number:
            if name == "write":
                write(args[0], bytes(args[1])[: len(args[1]) // 2])
            os._exit(DIED)

    with patched(end):
        yield


def die_at(number, act):
    """Run an action in a child that ends in front of its call `number`; the exit code."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            with dying_at(number):
                act()
                code = 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def fail_at(number, error, act):
    """Run an action whose call `number` fails with an error; the number of the error that it ends with, or None."""
    count = iter(range(10**6))

    def fail(name, args):
        if next(count) == number:
            raise OSError(error, os.strerror(error), str(args[0]) if isinstance(args[0], str | Path) else None)

    with patched(fail):
        try:
            act()
        except OSError as raised:
            return raised.errno
    return None
