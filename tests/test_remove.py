"""What is deleted is gone, what is not asked for stays, and nothing outside the studies can be reached."""

from __future__ import annotations

import fcntl
from pathlib import Path

import pytest
from synthetic_study import make_study

from lampq_engine.commands import main
from lampq_engine.errors import InputError
from lampq_engine.files import write_json
from lampq_engine.jobs import Job, list_jobs
from lampq_engine.remove import delete_job, delete_study, delete_trial
from lampq_engine.store import Study, list_studies


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Study:
    monkeypatch.setenv("LAMPQ_STUDIES", str(tmp_path))
    return make_study(tmp_path, blocks=2)


def job_of(study: Study, *arguments: str) -> Job:
    path = study.path / "jobs" / "20260101-000000-000"
    write_json(path / "job.json", {"title": "Work", "arguments": list(arguments), "created": 1.0, "pid": 1})
    (path / "alive").touch()
    return Job(path)


def test_a_trial_goes_and_the_others_stay(study: Study) -> None:
    before = {trial.id for trial in study.trials()}
    delete_trial(study, "mixed-2-5")
    assert {trial.id for trial in study.trials()} == before - {"mixed-2-5"}
    assert not (study.path / "trials" / "mixed-2-5").exists()
    assert [path.name for path in (study.path / "trials").iterdir() if path.name.startswith(".")] == []
    assert study.damaged() == []


def test_a_study_goes_whole(study: Study) -> None:
    delete_study(study)
    assert list_studies() == []
    assert not study.path.exists()


def test_a_damaged_trial_can_be_deleted_too(study: Study) -> None:
    (study.path / "trials" / "mixed-2-5" / "trial.json").write_text("{")
    delete_trial(study, "mixed-2-5")
    assert study.damaged() == []


@pytest.mark.parametrize("name", ["../trials/mixed-2-5", "..", "", "/etc", "jobs/../mixed-2-5", "a\0b"])
def test_no_name_leads_out_of_the_folder(name: str, study: Study) -> None:
    with pytest.raises(InputError, match="is not a name for a trial"):
        delete_trial(study, name)
    assert len(study.trials()) == 6


def test_only_a_study_is_deleted_as_one(study: Study, tmp_path: Path) -> None:
    for path in (tmp_path, study.path / "trials", study.path / "..", tmp_path / "nothing"):
        with pytest.raises(InputError):
            delete_study(Study(path))
    assert len(study.trials()) == 6


def test_a_link_is_not_followed(study: Study, tmp_path: Path) -> None:
    other = tmp_path / "elsewhere"
    other.mkdir()
    (other / "trial.json").write_text("{}")
    (study.path / "trials" / "linked").symlink_to(other)
    with pytest.raises(InputError, match="has no trial 'linked'"):
        delete_trial(study, "linked")
    (tmp_path / "linked-study").symlink_to(study.path)
    with pytest.raises(InputError, match="is not a study"):
        delete_study(Study(tmp_path / "linked-study"))
    assert (other / "trial.json").exists()


def test_what_is_missing_is_named(study: Study) -> None:
    with pytest.raises(InputError, match=r"has no trial 'gone'. Expected one of: mixed-2-5, mixed-2-5-qat"):
        delete_trial(study, "gone")


def test_nothing_is_deleted_under_a_running_job(study: Study) -> None:
    job = job_of(study, "finetune", "--study", study.name, "--trial", "mixed-2-5")
    with (job.path / "alive").open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        for attempt in (
            lambda: delete_trial(study, "mixed-2-5"),
            lambda: delete_study(study),
            lambda: delete_job(job),
        ):
            with pytest.raises(InputError, match="in use by the job 'Work'"):
                attempt()
        delete_trial(study, "uniform-2")  # the job does not work on this one
    delete_job(job)
    assert list_jobs(study) == []
    delete_trial(study, "mixed-2-5")


def test_the_command_needs_a_yes(study: Study, capsys: pytest.CaptureFixture[str]) -> None:
    ask = ["delete", "--study", study.name, "--trial", "mixed-2-5", "--quiet"]
    assert main(ask) == 2
    assert "cannot be undone. Give --yes" in capsys.readouterr().err
    assert len(study.trials()) == 6
    assert main([*ask, "--yes"]) == 0
    assert len(study.trials()) == 5
    assert main(["delete", "--study", study.name, "--yes", "--quiet"]) == 0
    assert list_studies() == []
