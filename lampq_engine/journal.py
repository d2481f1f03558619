"""Progress as an append-only journal: the worker adds lines, anyone reads on from the last offset."""

from __future__ import annotations

import errno
import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol


class Report(Protocol):
    """How a long step tells what it does: its stage, how much of it is done, and any values worth plotting."""

    def __call__(self, stage: str, done: int = 0, total: int = 0, **values: Any) -> None: ...


def silent(stage: str, done: int = 0, total: int = 0, **values: Any) -> None:
    """A report that goes nowhere."""


class Journal:
    """A report that appends JSON lines to a file and prints progress to stderr."""

    def __init__(self, path: Path | None, *, quiet: bool = False) -> None:
        self.path, self.quiet, self._printed = path, quiet, 0.0

    def __call__(self, stage: str, done: int = 0, total: int = 0, **values: Any) -> None:
        self.emit("progress", stage=stage, done=done, total=total, **values)
        now = time.monotonic()
        if not self.quiet and (now - self._printed > 0.5 or done >= total):
            self._printed = now
            counts = f" {done}/{total}" if total else ""
            shown = "".join(f" {k}={v:.4g}" if isinstance(v, float) else f" {k}={v}" for k, v in values.items())
            print(f"{stage}{counts}{shown}", file=sys.stderr, flush=True)

    def emit(self, event: str, **values: Any) -> None:
        """Append one event; every line is whole once its newline is there."""
        if self.path is None:
            return
        line = json.dumps({"time": time.time(), "event": event, **values}, default=float) + "\n"
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(line)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise  # a full disk only costs the page its view of the progress


def read_events(path: Path, offset: int = 0) -> tuple[list[dict[str, Any]], int]:
    """The whole lines after `offset` and the offset behind them; an unfinished last line waits for the next call."""
    try:
        with path.open("rb") as file:
            file.seek(offset)
            chunk = file.read()
    except FileNotFoundError:
        return [], offset
    whole = chunk[: chunk.rfind(b"\n") + 1]
    events = []
    for line in whole.splitlines():
        try:
            event = json.loads(line)
        except ValueError:
            continue
        if isinstance(event, dict) and "event" in event:
            events.append(event)
    return events, offset + len(whole)


def seconds_left(events: Sequence[Mapping[str, Any]], now: float | None = None) -> float | None:
    """Time left in the current stage, from its pace so far; None while there is too little to tell."""
    progress = [e for e in events if e.get("event") == "progress" and {"time", "stage", "done", "total"} <= e.keys()]
    if not progress:
        return None
    last = progress[-1]
    stage = [e for e in progress if e["stage"] == last["stage"]]
    first, done = stage[0], last["done"] - stage[0]["done"]
    if done <= 0 or not last["total"]:
        return None
    pace = (last["time"] - first["time"]) / done
    return max(0.0, pace * (last["total"] - last["done"]) - ((now or time.time()) - last["time"]))
