"""Every job of every study: the queue for the device, what ran, its log, how to stop it and how to go on."""

import streamlit as st
from watching import age, badge, bar, buttons, forget, in_turn, log_of

from lampq_engine import jobs, store
from lampq_engine.jobs import Job, Status
from lampq_engine.store import Study

SHOWN = 30


def card(study: Study, job: Job, status: Status, *, place: str) -> None:
    """One job: what it is, how far it is, its log, the one thing that can be done with it."""
    with st.container(border=True, gap="xsmall"):
        with st.container(horizontal=True, vertical_alignment="center"):
            st.markdown(f"**{job.info['title']}**", width="content")
            badge(status)
            st.caption(f"{study.name} · {age(job.info['created'])}", width="content")
            st.space("stretch")
            log_of(job, place)
            buttons(study, job, status, where=place)
            if status.ended:
                forget(job, place)
        if not status.ended:
            bar(status)
        elif status.message:
            st.caption(status.message)


def queue() -> None:
    """What runs and what waits, in the order in which the device is given."""
    found = in_turn(store.list_studies())
    if {job.id for _, job, _ in found} != living:
        st.rerun()
    st.subheader(
        "Queue",
        help="One job has the device at a time; the others wait for it. A long metric, which nobody waits for, lets "
        "waiting jobs go first. Jobs go on when the browser is closed.",
    )
    if not found:
        st.caption("Nothing runs and nothing waits.")
    for study, job, status in found:
        card(study, job, status, place="queue")


def past() -> None:
    """What has ended, newest first; a job that was cut off is resumed from what it had finished."""
    names = st.segmented_control(
        "Ended",
        ["all", "finished", "failed", "cancelled", "interrupted"],
        default="all",
        required=True,
        key="jobs-ended",
        persist_state="session",
        format_func=str.capitalize,
        help="Cancelled and interrupted jobs go on from what they had finished when they are resumed.",
    )
    found = [(study, job, job.status()) for study in store.list_studies() for job in jobs.list_jobs(study)]
    ended = [one for one in found if one[2].ended and names in ("all", one[2].state)]
    if not ended:
        st.caption("No such job.")
    for study, job, status in sorted(ended, key=lambda one: one[1].id, reverse=True)[:SHOWN]:
        card(study, job, status, place="past")


st.title("Jobs")
living = {job.id for _, job, _ in in_turn(store.list_studies())}
st.fragment(queue, run_every=1.0 if living else 5.0)()
st.subheader("Ended")
past()
