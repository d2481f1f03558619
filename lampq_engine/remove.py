"""Taking studies and trials away: only what is one, only inside its own folder, never under a running job."""

from __future__ import annotations

import os
import secrets
import shutil
from pathlib import Path

from lampq_engine.errors import InputError
from lampq_engine.files import safe_name
from lampq_engine.jobs import Job, list_jobs
from lampq_engine.store import Study


def delete_trial(study: Study, name: str) -> Path:
    """Take one trial away, its packed file with it; whatever was refined from it stays.

    `InputError` where there is no such trial, or a job works on it. Returns the folder that is gone.
    """
    path = study.path / "trials" / safe_name(name, "trial")
    if path.is_symlink() or not (path / "trial.json").is_file():
        names = ", ".join(sorted(p.parent.name for p in (study.path / "trials").glob("*/trial.json"))) or "none"
        raise InputError(f"The study {study.name!r} has no trial {name!r}", expected=f"one of: {names}")
    busy = [job.info["title"] for job in list_jobs(study) if job.alive and name in job.info["arguments"]]
    _idle(busy, f"The trial {name!r}")
    return _removed(path)


def delete_study(study: Study) -> Path:
    """Take a whole study away, with its trials, sensitivities and the records of its jobs.

    `InputError` where it is none, or a job of it runs. Returns the folder that is gone.
    """
    path = study.path.parent / safe_name(study.path.name, "study")
    if path.is_symlink() or not (path / "study.json").is_file():
        raise InputError(f"{path} is not a study", expected="a folder with a study.json", todo="Check the name")
    _idle([job.info["title"] for job in list_jobs(study) if job.alive], f"The study {study.name!r}")
    return _removed(path)


def delete_job(job: Job) -> Path:
    """Take the record of an ended job away, its log with it; what it made stays."""
    path = job.path.parent / safe_name(job.path.name, "job")
    if path.is_symlink() or not (path / "job.json").is_file():
        raise InputError(f"There is no job {job.path.name!r}")
    _idle([job.info["title"]] if job.alive else [], f"The record {job.id!r}")
    return _removed(path)


def _idle(busy: list[str], what: str) -> None:
    if busy:
        raise InputError(
            f"{what} is in use by the job {busy[0]!r}", expected="no running job", todo="Cancel it, or wait for its end"
        )


def _removed(path: Path) -> Path:
    """Remove a folder: renamed first, so that nobody meets half of it."""
    # a leading dot: no list of studies or trials shows it, even if the removal is cut off
    aside = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    os.replace(path, aside)
    shutil.rmtree(aside, ignore_errors=True)
    return path
