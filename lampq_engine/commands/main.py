"""Parse, run, report: progress on stderr and in the journal, the result on stdout, errors as one sentence."""

from __future__ import annotations

import argparse
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
            journal.emit("failed", message=str(error))
            print(f"error: {error}", file=sys.stderr)
            return BAD_INPUT
        except Cancelled:
            journal.emit("cancelled", message="Cancelled; what was finished is kept, and resuming goes on from it.")
            print("cancelled", file=sys.stderr)
            return CANCELLED
        except Exception as error:
            journal.emit(
                "failed", message=f"A defect of the engine, not of your input: {type(error).__name__}: {error}"
            )
            traceback.print_exc()
            return DEFECT
        write(json.dumps(finite(result.plain), indent=1) if options.json else result.text)
        journal.emit("finished", trial=result.trial, message=result.text.split("\n")[0][:200])
    return 0


@contextmanager
def _turn(options: argparse.Namespace, journal: Journal) -> Iterator[None]:
    """One command on the device at a time; those that only read need no turn."""
    if not options.device:
        yield
        return
    with device_turn(studies_root(), on_wait=lambda: journal.emit("waiting", message="Waiting for another job")):
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
        os.write(kept, (text.rstrip() + "\n").encode())

    try:
        yield write
    finally:
        sys.stdout.flush()
        os.dup2(kept, 1)
        os.close(kept)
