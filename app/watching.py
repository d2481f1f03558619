"""Jobs as pages show them: what runs, how far it is, how to stop it and how to go on."""

from __future__ import annotations

import time

import streamlit as st

from lampq_engine import jobs, store
from lampq_engine.errors import InputError
from lampq_engine.jobs import Job, Status
from lampq_engine.remove import delete_job
from lampq_engine.store import Study

LOOKS = {
    "waiting": ("Waiting for the device", "gray", ":material/hourglass_empty:"),
    "running": ("Running", "blue", ":material/autorenew:"),
    "finished": ("Finished", "green", ":material/check:"),
    "failed": ("Failed", "red", ":material/error:"),
    "cancelled": ("Cancelled", "orange", ":material/cancel:"),
    "interrupted": ("Interrupted", "orange", ":material/power_off:"),
}


def badge(status: Status) -> None:
    name, color, icon = LOOKS[status.state]
    st.badge(name, color=color, icon=icon)  # type: ignore[arg-type]


def words(status: Status) -> str:
    """Stage, how much of it is done and the time left, as one line."""
    if status.state == "waiting":
        return "Waiting: another job has the device"
    parts = [status.stage.capitalize() or "Starting"]
    if status.total:
        parts.append(f"{status.done} of {status.total}")
    if status.seconds_left is not None:
        parts.append(f"{duration(status.seconds_left)} left")
    return " · ".join(parts)


def duration(seconds: float) -> str:
    """Seconds for people: `8 s`, `2 min 5 s`, `1 h 4 min`."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s" if whole < 600 else f"{whole // 60} min"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def bar(status: Status) -> None:
    """Progress of a job that lives."""
    share = min(1.0, status.done / status.total) if status.total else 0.0
    st.progress(share, text=words(status))


def act(study: Study, job: Job, verb: str) -> None:
    """Cancel or resume a job; a callback, so that the page is drawn after it."""
    try:
        job.cancel() if verb == "cancel" else jobs.resume(study, job)
    except (InputError, OSError) as error:
        st.toast(str(error), icon=":material/error:")


def buttons(study: Study, job: Job, status: Status, *, where: str) -> None:
    """The one thing that can be done with a job in its state: cancel it, or resume it unless that was done."""
    verb, icon = ("resume", ":material/play_arrow:") if status.ended else ("cancel", ":material/stop:")
    if status.state != "finished" and not (status.ended and resumed(study, job)):
        key = f"{verb}-{where}-{job.id}"
        st.button(
            "Try again" if status.state == "failed" else verb.capitalize(),
            icon=icon,
            key=key,
            on_click=act,
            args=(study, job, verb),
        )


def resumed(study: Study, job: Job) -> bool:
    """Whether a later job runs, or ran, the same command."""
    arguments = job.info["arguments"]
    return any(other.id > job.id and other.info["arguments"] == arguments for other in jobs.list_jobs(study))


def snapshot(study: Study) -> tuple[object, ...]:
    """What makes pages draw themselves anew: jobs that begin or end, sensitivities and trials that appear."""
    states = tuple((job.id, job.alive) for job in jobs.list_jobs(study))
    files = tuple(study.has(name) for name in ("layers.json", "float.json", "analysis.json"))
    views = tuple(sorted(path.name for path in (study.path / "inspections").glob("*.json")))
    trials = tuple(sorted(path.parent.name for path in (study.path / "trials").glob("*/trial.json")))
    return states, files, views, study.metrics, trials, tuple(s.name for s in store.list_studies())


def sidebar_jobs(study: Study, *, shown: bool) -> None:
    """Running jobs in the sidebar of every page; when one ends or a result appears, the page draws itself anew."""
    before = snapshot(study)
    busy = any(alive for _, alive in before[0])  # type: ignore[attr-defined]
    with st.sidebar:
        st.fragment(_pulse, run_every=1.0 if busy else 5.0)(study, before, shown)


def _pulse(study: Study, before: tuple[object, ...], shown: bool) -> None:
    turns = in_turn(store.list_studies())
    own = [job for one, job, _ in turns if one == study]
    if turns and shown:
        st.caption(f"Running now · {len(turns)} in the queue" if len(turns) > 1 else "Running now")
    for one, job, status in turns if shown else []:
        with st.container(border=True, gap="xsmall"):
            st.markdown(f"**{job.info['title']}**" + ("" if job in own else f"  \n:gray[study {one.name}]"))
            bar(status)
            with st.container(horizontal=True):
                buttons(one, job, status, where="side")
                log_of(job, "side")
    if turns and shown:
        st.page_link("views/jobs.py", label="All jobs", icon=":material/list:")
    if snapshot(study) != before:
        st.rerun()


def in_turn(studies: list[Study]) -> list[tuple[Study, Job, Status]]:
    """Every living job of some studies: who has the device first, then who waits, the longest first."""
    found = [(study, job, job.status()) for study in studies for job in jobs.list_jobs(study) if job.alive]
    living = [one for one in found if not one[2].ended]
    return sorted(living, key=lambda one: (one[2].state == "waiting", one[1].id))


def log_of(job: Job, where: str) -> None:
    """What a job printed, in a popover."""
    with st.popover("Log", icon=":material/article:", key=f"log-{where}-{job.id}"):
        st.code(job.log()[-6000:] or "Nothing was printed yet.", language=None)


def forget(job: Job, where: str) -> None:
    """A button that takes the record of an ended job away; what it made stays."""
    st.button(
        "",
        icon=":material/delete:",
        type="tertiary",
        key=f"forget-{where}-{job.id}",
        on_click=_forget,
        args=(job,),
        help="Remove from this list. What the job made stays.",
    )


def _forget(job: Job) -> None:
    try:
        delete_job(job)
    except (InputError, OSError) as error:
        st.toast(str(error), icon=":material/error:")


def age(created: float) -> str:
    return time.strftime("%d %b %H:%M", time.localtime(created))
