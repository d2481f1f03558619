"""Parse, run, report: progress on stderr and in the journal, the result on stdout, errors as one sentence."""

from __future__ import annotations

import argparse
import contextlib
import errno
import json
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lampq_engine.commands import parsers
from lampq_engine.errors import InputError
from lampq_engine.files import finite
from lampq_engine.jobs import device_turn
from lampq_engine.journal import Journal
from lampq_engine.store import studies_root

BAD_INPUT, DEFECT, CANCELLED = 2, 1, 130
# What a person can mend; any other failure of the system is a defect.
MENDABLE = {
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG),
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG),
}


class Cancelled(BaseException):
    """SIGTERM or SIGINT arrived; not an Exception, so that nothing on the way up takes it for a failure."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status: 0, 2 for bad input, 130 when cancelled, 1 for a defect."""
    options = parsers.parser().parse_args(arguments)
    if options.studies:
        os.environ["LAMPQ_STUDIES"] = str(Path(options.studies).resolve())
    journal = Journal(Path(options.events) if options.events else None, quiet=options.quiet)
    with _stdout_kept() as write:
        try:
            with _cancellable(), _turn(options, journal):
                journal.emit("started", arguments=sys.argv[1:])
                result = options.run(options, journal)
        except InputError as error:
            return _refused(error, journal)
        except Cancelled:
            journal.emit("cancelled", message="Cancelled; what was finished is kept, and resuming goes on from it.")
            print("cancelled", file=sys.stderr)
            return CANCELLED
        except Exception as error:
            if isinstance(error, OSError) and error.errno in MENDABLE:
                return _refused(_mendable(error), journal)
            journal.emit(
                "failed", message=f"A defect of the engine, not of your input: {type(error).__name__}: {error}"
            )
            traceback.print_exc()
            return DEFECT
        with contextlib.suppress(BrokenPipeError):  # whoever read it has read enough
            write(json.dumps(finite(result.plain), indent=1) if options.json else result.text)
        journal.emit("finished", trial=result.trial, message=result.text.split("\n")[0][:200])
    return 0


def _refused(error: InputError, journal: Journal) -> int:
    journal.emit("failed", message=str(error))
    print(f"error: {error}", file=sys.stderr)
    return BAD_INPUT


def _mendable(error: OSError) -> InputError:
    place = error.filename or "A file"
    return InputError(
        f"{place} cannot be read or written: {error.strerror}",
        expected="a place that may be read and written, with room",
        todo="Check the path, its permissions and the free space; nothing that was there is lost",
    )


@contextmanager
def _turn(options: argparse.Namespace, journal: Journal) -> Iterator[None]:
    """One command on the device at a time; those that only read need no turn."""
    if not options.device:
        yield
        return
    waiting = "Waiting for another job"
    with device_turn(studies_root(), on_wait=lambda: journal.emit("waiting", message=waiting)) as options.pass_on:
        yield


@contextmanager
def _cancellable() -> Iterator[None]:
    def stop(*_: Any) -> None:
        raise Cancelled

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _stdout_kept() -> Iterator[Callable[[str], None]]:
    """Stdout for the result alone: HiGHS now and then prints a line of its own, which goes to stderr instead."""
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)

    def write(text: str) -> None:
        with open(kept, "w", encoding="utf-8", closefd=False) as out:
            out.write(text.rstrip() + "\n")

    try:
        yield write
    finally:
        sys.stdout.flush()
        os.dup2(kept, 1)
        os.close(kept)
