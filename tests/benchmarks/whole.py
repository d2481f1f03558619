"""What a person waits for: the built-in study from nothing to its heatmap, and the pages."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from timing import Line, below

ROOT = Path(__file__).parents[2]
ROUNDS = 3


def study() -> list[Line]:
    """A fresh process and an empty folder, to the raw heatmap and to the type-aware one."""
    found = [_study() for _ in range(ROUNDS)]
    return [
        below("built-in study from nothing to the raw heatmap", 60, [raw for raw, _ in found], "s", ".1f"),
        below("built-in study from nothing to the type-aware heatmap", 60, [aware for _, aware in found], "s", ".1f"),
    ]


def _study() -> tuple[float, float]:
    with tempfile.TemporaryDirectory() as folder:
        line = [sys.executable, "-m", "lampq_engine", "analyse", "--studies", folder, "--quiet"]
        start = time.perf_counter()
        process = subprocess.Popen(line, cwd=ROOT, stdout=subprocess.DEVNULL)
        try:
            tables = Path(folder) / "builtin" / "sensitivity"
            raw, aware = (_until(process, tables / name) - start for name in ("fisher.json", "lampq.json"))
        finally:
            process.terminate()
            process.wait()
    return raw, aware


def _until(process: subprocess.Popen[bytes], path: Path) -> float:
    """The time at which a file is there."""
    while not path.is_file():
        if process.poll() is not None:
            raise RuntimeError(f"the analysis ended with {process.returncode} before {path.name} was there")
        time.sleep(0.02)
    return time.perf_counter()


def pages() -> list[Line]:
    """First paint, and from the pointer's input event to the redrawn heatmap, in headless Chromium."""
    if not shutil.which("chromium"):
        return [Line("pages", "Chromium", "not installed", 0, True)]
    line = [sys.executable, str(Path(__file__).with_name("bench_slider.py"))]
    shown = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    paint, middle, rate = (
        re.search(pattern, shown)
        for pattern in (r"first paint: ([\d.]+) s", r"median (\d+) ms, .*?(\d+) redraws", r"screen: ([\d.]+) a second")
    )
    assert paint
    assert middle
    assert rate
    drag, count, fast = float(middle[1]), int(middle[2]), float(rate[1])
    return [
        Line("first paint of the page", "5 s", f"{float(paint[1]):.2f} s", 1, float(paint[1]) <= 5),
        Line("slider, input event to redrawn bit heatmap", "120 ms", f"{drag:.0f} ms", count, drag <= 120),
        Line(
            "exact solutions that reach the screen in a drag", "15 a second", f"{fast:.1f} a second", count, fast >= 15
        ),
    ]


def switching() -> list[Line]:
    """From page to page, into a study of 100 trials, and the server's memory with 10 open sessions."""
    if not shutil.which("chromium"):
        return [Line("switching", "Chromium", "not installed", 0, True)]
    line = [sys.executable, str(Path(__file__).with_name("bench_pages.py"))]
    shown = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    found = re.search(
        r"pages: median (\d+) ms, worst \d+ ms, (\d+).*100 trials: ([\d.]+) s.*10 sessions: (\d+) MB", shown, re.DOTALL
    )
    assert found, shown
    middle, opened, memory = float(found[1]), float(found[3]), float(found[4])
    return [
        Line(
            "switching pages, click to heading and figure", "500 ms", f"{middle:.0f} ms", int(found[2]), middle <= 500
        ),
        Line("opening a study of 100 trials", "1 s", f"{opened:.2f} s", 1, opened <= 1),
        Line("memory of the server with 10 open sessions", "600 MB", f"{memory:.0f} MB", 1, memory <= 600),
    ]
