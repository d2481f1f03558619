"""Long work as child processes: start, watch, cancel, resume. State is derived from files, never stored."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lampq_engine.errors import InputError
from lampq_engine.files import read_json, safe_name, write_json
from lampq_engine.journal import read_events, seconds_left
from lampq_engine.store import Study

ENDINGS = ("finished", "failed", "cancelled")


@dataclass(frozen=True)
class Job:
    """One command of the engine, run beside a page on behalf of a study."""

    path: Path

    @property
    def id(self) -> str:
        return self.path.name

    @property
    def info(self) -> dict[str, Any]:
        """`title`, `arguments` (of `python -m lampq_engine`), `created`, `pid`."""
        return read_json(self.path / "job.json")

    @property
    def whole(self) -> bool:
        """Whether its record can be read."""
        try:
            return {"title", "arguments", "created", "pid"} <= self.info.keys()
        except (InputError, AttributeError):
            return False

    def events(self, offset: int = 0) -> tuple[list[dict[str, Any]], int]:
        """The journal from `offset` on, and the next offset."""
        return read_events(self.path / "events.jsonl", offset)

    @property
    def alive(self) -> bool:
        """Whether its process lives: it holds a lock for as long as it does, however it ends."""
        try:
            with (self.path / "alive").open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except FileNotFoundError:
            return False
        return False

    @property
    def state(self) -> str:
        """`waiting` for the device, `running`, `finished`, `failed`, `cancelled` or `interrupted`."""
        return self.status().state

    def status(self) -> Status:
        """State, stage, progress, time left and message, all from one reading of the journal."""
        alive = self.alive  # before the journal: an ending written in between is then seen
        events, _ = self.events()
        last = events[-1] if events else {}
        state = next((e["event"] for e in reversed(events) if e["event"] in ENDINGS), "")
        if not state:
            waiting = not events or last.get("event") == "waiting"
            state = ("waiting" if waiting else "running") if alive else "interrupted"
        progress: dict[str, Any] = next((e for e in reversed(events) if e["event"] == "progress"), {})
        message = next((e.get("message", "") for e in reversed(events) if "message" in e), "")
        left = seconds_left(events) if state == "running" else None
        return Status(
            state,
            progress.get("stage", ""),
            progress.get("done", 0),
            progress.get("total", 0),
            left,
            message,
            last.get("trial", "") if state == "finished" else "",
        )

    def log(self) -> str:
        """What the process printed."""
        with contextlib.suppress(FileNotFoundError):
            return (self.path / "log.txt").read_text(errors="replace")
        return ""

    def cancel(self) -> None:
        """Ask the process to stop; what it has finished stays and is used when it is resumed."""
        if self.alive:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.info["pid"], signal.SIGTERM)


@dataclass(frozen=True)
class Status:
    """How a job stands."""

    state: str
    stage: str
    done: int
    total: int
    seconds_left: float | None
    message: str
    trial: str = ""

    @property
    def ended(self) -> bool:
        return self.state not in ("waiting", "running")


def start(study: Study, arguments: Sequence[str], *, title: str) -> Job:
    """Start `python -m lampq_engine ARGUMENTS` for a study, in a session of its own that outlives the page.

    An equal job that is still alive is returned in place of a second one.
    """
    folder = study.path / "jobs"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as turn:  # two pages may press the same button at once
        fcntl.flock(turn, fcntl.LOCK_EX)
        same = (job for job in list_jobs(study) if job.alive and job.info["arguments"] == list(arguments))
        return next(same, None) or _launch(study, arguments, title)


def _launch(study: Study, arguments: Sequence[str], title: str) -> Job:
    path = _new_folder(study.path / "jobs")
    command = [sys.executable, "-m", "lampq_engine", *arguments, "--events", str(path / "events.jsonl")]
    lock = os.open(path / "alive", os.O_CREAT | os.O_RDWR)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with (path / "log.txt").open("wb") as log:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                pass_fds=[lock],
                env=_environment(study),
            )
    finally:
        os.close(lock)
    _reap_later(process)
    record = {"title": title, "arguments": list(arguments), "created": time.time(), "pid": process.pid}
    try:
        write_json(path / "job.json", record)
    except BaseException:
        process.kill()  # a job that cannot be listed could not be cancelled either
        raise
    return Job(path)


def resume(study: Study, job: Job) -> Job:
    """Start the same command again; finished steps are read from disk."""
    return start(study, job.info["arguments"], title=job.info["title"])


def list_jobs(study: Study) -> list[Job]:
    """Every job of a study, newest first; one whose record is damaged is left out (see `Study.damaged`)."""
    found = (Job(path.parent) for path in sorted((study.path / "jobs").glob("*/job.json"), reverse=True))
    return [job for job in found if job.whole]


def open_job(study: Study, name: str) -> Job:
    """A job by id; `InputError` where there is none."""
    job = Job(study.path / "jobs" / safe_name(name, "job"))
    if not job.whole:
        raise InputError(f"The study {study.name!r} has no job {name!r}", todo="List its jobs with `jobs`")
    return job


@contextlib.contextmanager
def device_turn(root: Path, on_wait: Callable[[], object] | None = None) -> Iterator[Callable[[], None]]:
    """One job on the device at a time: hold the root's lock, waiting for whoever holds it now.

    Yields a function that lets a waiting job, if there is one, run first and then goes on; long work that nobody
    waits for calls it now and then.
    """
    root.mkdir(parents=True, exist_ok=True)
    with (root / ".device.lock").open("w") as file, (root / ".device.waiting").open("w") as queue:

        def take() -> None:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                fcntl.flock(queue, fcntl.LOCK_SH)  # whoever waits holds this, so that the others can see it
                if on_wait:
                    on_wait()
                fcntl.flock(file, fcntl.LOCK_EX)
                fcntl.flock(queue, fcntl.LOCK_UN)

        def pass_on() -> None:
            try:
                fcntl.flock(queue, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                fcntl.flock(file, fcntl.LOCK_UN)
                time.sleep(0.02)  # a waiting job is woken and takes the lock meanwhile
                take()
            else:
                fcntl.flock(queue, fcntl.LOCK_UN)  # nobody waits

        take()
        yield pass_on


def _new_folder(parent: Path) -> Path:
    stamp = time.strftime("%Y%m%d-%H%M%S")
    for number in range(1000):
        path = parent / f"{stamp}-{number:03d}"
        with contextlib.suppress(FileExistsError):
            path.mkdir(parents=True)
            return path
    raise RuntimeError("a thousand jobs in one second")


def _environment(study: Study) -> dict[str, str]:
    # Threads that spin while they wait would slow the page, and each other, by several times.
    patient = {"OMP_WAIT_POLICY": "PASSIVE"}
    return {**patient, **os.environ, "PYTHONUNBUFFERED": "1", "LAMPQ_STUDIES": str(study.path.parent)}


_children: list[subprocess.Popen[bytes]] = []


def _reap_later(process: subprocess.Popen[bytes]) -> None:
    """Keep the handle and collect those that ended, so that none stays a zombie."""
    _children.append(process)
    _children[:] = [child for child in _children if child.poll() is None]
