"""The dashboard as a person meets it, for tests and benchmarks: a server of its own and a headless Chromium."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from playwright.sync_api import Browser, sync_playwright

from lampq_engine.jobs import list_jobs
from lampq_engine.store import list_studies

ROOT = Path(__file__).parents[1]
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
QUIET = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


class Dashboard:
    """A Streamlit server over a folder of studies, on a free port; a context that gives its address."""

    def __init__(self, studies: Path, *, log: Path) -> None:
        self.studies, self.log = studies, log

    def __enter__(self) -> str:
        with socket.socket() as free:
            free.bind(("localhost", 0))
            port = free.getsockname()[1]
        command = [sys.executable, "-m", "streamlit", "run", "app/main.py", "--server.port", str(port)]
        # a home without `.streamlit`: the very first start on a machine, which must ask nothing
        environment = {**os.environ, "LAMPQ_STUDIES": str(self.studies), "HOME": str(self.log.parent)}
        self.output = self.log.open("wb")
        self.process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=self.output, stderr=self.output
        )
        url = f"http://localhost:{port}"
        self._wait(f"{url}/_stcore/health")
        return url

    def _wait(self, health: str) -> None:
        for _ in range(600):
            if self.process.poll() is not None:
                raise RuntimeError(self.log.read_text())
            with contextlib.suppress(OSError), urllib.request.urlopen(health, timeout=5) as answer:
                if answer.status == 200:
                    return
            time.sleep(0.1)
        raise RuntimeError("the dashboard did not come up within a minute")

    def __exit__(self, *_: object) -> None:
        for study in list_studies(self.studies):
            for job in list_jobs(study):
                job.cancel()  # jobs outlive the page; a test's must not outlive the test
        self.process.terminate()
        self.process.wait(30)
        self.output.close()


@contextlib.contextmanager
def chromium() -> Iterator[Browser]:
    """A headless Chromium that talks to nobody but the page."""
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        try:
            yield browser
        finally:
            browser.close()
