"""Jobs are real processes here: started, killed, cancelled, resumed; their state is read from files alone."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lampq_engine import jobs
from lampq_engine.errors import InputError
from lampq_engine.files import read_json
from lampq_engine.jobs import Job, device_turn, list_jobs, open_job, resume, start
from lampq_engine.journal import Journal, read_events, seconds_left
from lampq_engine.recipe import Recipe
from lampq_engine.store import Study, create_study

WORKER = '''#!{python}
"""Stands in for `python -m lampq_engine`: does what its first argument says, until a file tells it to go on."""
import os, pathlib, signal, sys, time
from lampq_engine.journal import Journal

what, gate, events = sys.argv[3], pathlib.Path(sys.argv[4]), pathlib.Path(sys.argv[6])
journal = Journal(events, quiet=True)

def stop(*_):
    journal.emit("cancelled", message="Cancelled.")
    os._exit(130)

signal.signal(signal.SIGTERM, stop)
print("hello from", what, os.environ["LAMPQ_STUDIES"])
journal("work", 1, 4)
while not gate.exists():
    time.sleep(0.01)
journal("work", 4, 4)
if what == "fail":
    journal.emit("failed", message="It cannot be done.")
    sys.exit(2)
journal.emit("finished", trial="t1", message="Done.")
'''


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return create_study(Recipe(), tmp_path / "studies")


@pytest.fixture
def gate(tmp_path: Path) -> Path:
    return tmp_path / "gate"


@pytest.fixture(autouse=True)
def worker(tmp_path: Path, monkeypatch) -> Iterator[None]:
    """`start` runs the stand-in, and nothing outlives the test."""
    script = tmp_path / "worker"
    script.write_text(WORKER.replace("{python}", sys.executable))
    script.chmod(0o755)
    monkeypatch.setattr(jobs.sys, "executable", str(script))
    yield
    for child in jobs._children:
        child.kill()
        child.wait()
    jobs._children.clear()


def wait(until: Callable[[], bool], seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not until():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.01)


def begun(job: Job) -> Job:
    wait(lambda: bool(job.events()[0]))
    return job


def test_a_job_runs_and_finishes(study: Study, gate: Path) -> None:
    job = begun(start(study, ["work", str(gate)], title="Work"))
    assert job.alive
    assert job.info["title"] == "Work"
    status = job.status()
    assert (status.state, status.stage, status.done, status.total, status.ended) == ("running", "work", 1, 4, False)
    gate.touch()
    wait(lambda: not job.alive)
    status = job.status()
    assert (status.state, status.trial, status.message, status.ended) == ("finished", "t1", "Done.", True)
    assert f"hello from work {study.path.parent}" in job.log()
    assert open_job(study, job.id) == job
    assert list_jobs(study) == [job]


def test_a_job_that_fails_says_why(study: Study, gate: Path) -> None:
    gate.touch()
    job = start(study, ["fail", str(gate)], title="Fail")
    wait(lambda: not job.alive)
    assert (job.state, job.status().message) == ("failed", "It cannot be done.")


def test_kill_9_is_interrupted_and_can_be_resumed(study: Study, gate: Path) -> None:
    job = begun(start(study, ["work", str(gate)], title="Work"))
    os.kill(job.info["pid"], signal.SIGKILL)
    wait(lambda: not job.alive)
    assert job.state == "interrupted"
    again = begun(resume(study, job))
    assert again != job
    assert (again.state, again.info["arguments"], again.info["title"]) == ("running", job.info["arguments"], "Work")
    gate.touch()
    wait(lambda: again.state == "finished")
    assert job.state == "interrupted"


def test_cancel(study: Study, gate: Path) -> None:
    job = begun(start(study, ["work", str(gate)], title="Work"))
    job.cancel()
    wait(lambda: not job.alive)
    assert (job.state, job.status().message) == ("cancelled", "Cancelled.")
    job.cancel()  # once more does nothing


def test_an_equal_job_is_not_started_twice_even_at_once(study: Study, gate: Path) -> None:
    found: list[Job] = []
    threads = [
        threading.Thread(target=lambda: found.append(start(study, ["work", str(gate)], title="Work"))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(list_jobs(study)) == 1
    assert set(found) == set(list_jobs(study))
    other = start(study, ["fail", str(gate)], title="Another")
    assert other not in found
    begun(found[0])
    gate.touch()
    wait(lambda: not found[0].alive and not other.alive)
    assert start(study, ["work", str(gate)], title="Work") not in found


def test_a_job_that_could_not_be_recorded_does_not_run_on(study: Study, gate: Path, monkeypatch) -> None:
    def full(*_: object) -> None:
        raise InputError("The disk is full")

    monkeypatch.setattr(jobs, "write_json", full)
    with pytest.raises(InputError, match="The disk is full"):
        start(study, ["work", str(gate)], title="Work")
    assert jobs._children[-1].wait(10) == -signal.SIGKILL
    assert list_jobs(study) == []


def test_before_it_says_anything_a_job_waits(study: Study, tmp_path: Path) -> None:
    path = study.path / "jobs" / "x"
    path.mkdir(parents=True)
    assert Job(path).state == "interrupted"
    assert not Job(path).alive
    Journal(path / "events.jsonl").emit("waiting", message="Waiting for another job")
    assert Job(path).status().message == "Waiting for another job"


def test_an_unknown_job_is_named(study: Study) -> None:
    with pytest.raises(InputError, match=r"^The study 'builtin' has no job 'x'\. List its jobs with `jobs`\.$"):
        open_job(study, "x")
    with pytest.raises(InputError, match="is not a name for a job"):
        open_job(study, "../x")


def test_the_device_is_used_by_one_at_a_time(tmp_path: Path) -> None:
    inside: list[int] = []
    most: list[int] = []
    waited: list[int] = []

    def work(number: int) -> None:
        with device_turn(tmp_path, on_wait=lambda: waited.append(number)):
            inside.append(number)
            most.append(len(inside))
            time.sleep(0.05)
            inside.remove(number)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1, 1, 1, 1]
    assert len(waited) == 3


def test_a_turn_is_passed_on_and_comes_back(tmp_path: Path) -> None:
    order: list[str] = []
    waiting = threading.Event()

    def short() -> None:
        with device_turn(tmp_path, on_wait=waiting.set):
            order.append("short")

    with device_turn(tmp_path) as pass_on:
        other = threading.Thread(target=short)
        other.start()
        assert waiting.wait(10)
        for _ in range(200):
            pass_on()
            if order:
                break
        order.append("long")
    other.join(10)
    assert order == ["short", "long"]


def test_a_turn_ends_with_its_error(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), device_turn(tmp_path):
        _ = 1 // 0
    waited: list[int] = []
    with device_turn(tmp_path, on_wait=lambda: waited.append(1)):
        assert waited == []


def test_an_unfinished_last_line_waits_for_the_next_call(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    assert read_events(path) == ([], 0)
    journal = Journal(path, quiet=True)
    journal("work", 1, 2, loss=0.5)
    with path.open("a") as file:
        file.write('{"event": "progress", "stage"')
    events, offset = read_events(path)
    assert [(e["stage"], e["loss"]) for e in events] == [("work", 0.5)]
    assert read_events(path, offset) == ([], offset)
    with path.open("a") as file:
        file.write(': "more"}\n')
    events, end = read_events(path, offset)
    assert events == [{"event": "progress", "stage": "more"}]
    assert end == path.stat().st_size


def test_lines_that_are_no_events_are_skipped(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_text('{"event": "a"}\nnot json\n[1]\n\n{"event": "b"}\n')
    assert [e["event"] for e in read_events(path)[0]] == ["a", "b"]


def test_a_journal_without_a_file_only_prints(capsys) -> None:
    Journal(None)("fisher", 2, 2, loss=0.123456)
    assert capsys.readouterr().err == "fisher 2/2 loss=0.1235\n"


def test_time_left_comes_from_the_pace_of_the_current_stage() -> None:
    def at(when: float, stage: str, done: int) -> dict[str, object]:
        return {"event": "progress", "time": when, "stage": stage, "done": done, "total": 10}

    assert seconds_left([]) is None
    assert seconds_left([at(0, "a", 0)], now=1) is None
    assert seconds_left([at(0, "a", 0), at(8, "a", 4)], now=8) == pytest.approx(12)
    assert seconds_left([at(0, "a", 0), at(8, "a", 4)], now=11) == pytest.approx(9)
    assert seconds_left([at(0, "a", 0), at(8, "a", 9), at(9, "b", 0)], now=9) is None
    assert seconds_left([at(0, "a", 0), at(8, "a", 4)], now=99) == 0


def test_a_jobs_record_is_plain_json(study: Study, gate: Path) -> None:
    gate.touch()
    job = start(study, ("work", str(gate)), title="Work")
    record = read_json(job.path / "job.json")
    assert record["arguments"] == ["work", str(gate)]
    assert json.loads((job.path / "job.json").read_text()) == record
