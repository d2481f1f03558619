"""Medians and ratios that a busy machine cannot turn around: the sides of a ratio take turns."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Line:
    """One line of the table: what was measured against which limit, and the median of how many."""

    what: str
    limit: str
    measured: str
    count: int
    met: bool

    def __str__(self) -> str:
        mark = "" if self.met else " **over the limit**"
        return f"| {self.what} | {self.limit} | {self.measured}{mark} (median of {self.count}) | {machine()} |"


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def medians(*sides: Callable[[], object], count: int) -> list[float]:
    """Median seconds of each side, run in turn (ABAB...) after one unmeasured round."""
    for side in sides:
        side()
    rounds = [[seconds(side) for side in sides] for _ in range(count)]
    return [statistics.median(column) for column in zip(*rounds, strict=True)]


def ratio(what: str, limit: float, *, plain: Callable[[], object], ours: Callable[[], object], count: int = 9) -> Line:
    """A line that compares the medians of two sides run in turn."""
    base, found = medians(plain, ours, count=count)
    text = f"{found / base:.2f} ({1e3 * found:.0f} ms / {1e3 * base:.0f} ms)"
    return Line(what, f"{limit:g} x", text, count, found <= limit * base)


def below(what: str, limit: float, values: Sequence[float], unit: str, form: str = ".2f") -> Line:
    """A line of the median of some values."""
    middle = statistics.median(values)
    return Line(what, f"{limit:g} {unit}", f"{middle:{form}} {unit}", len(values), middle <= limit)


def machine() -> str:
    """Processor and the threads torch was given, as this run found them."""
    names = [line.partition(":")[2].strip() for line in _cpuinfo() if line.startswith("model name")]
    threads = os.environ.get("OMP_NUM_THREADS", os.cpu_count())
    return f"{names[0] if names else platform.machine()}, {os.cpu_count()} cores, {threads} threads"


def _cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.is_file() else []
