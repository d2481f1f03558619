"""Refine a trial: trade bits between layers, or train the quantized model; watch it, stop it, go on later."""

from typing import Any

import streamlit as st
from reading import float_evaluation, trials
from watching import badge, bar, buttons

from lampq_engine import figures, jobs, store
from lampq_engine.errors import InputError
from lampq_engine.figures.names import STAGE_HELP, STAGE_NAMES
from lampq_engine.plain import help_of
from lampq_engine.recipe import TrainingSpec, UpdateSpec
from lampq_engine.store import Study, Trial

COMMANDS = ("refine", "finetune")


def jobs_of(study: Study, trial: Trial) -> list[jobs.Job]:
    """The refinements of one trial, newest first."""
    found = []
    for job in jobs.list_jobs(study):
        arguments = job.info["arguments"]
        if arguments[0] in COMMANDS and trial.id in arguments:
            found.append(job)
    return found


def start(study: Study, arguments: list[str], title: str) -> None:
    try:
        jobs.start(study, arguments, title=title)
    except (InputError, OSError) as error:
        st.toast(str(error), icon=":material/error:")


def watch(study: Study, trial: Trial, job: jobs.Job) -> None:
    """One refinement as it goes: state, progress, curves."""
    status, command = job.status(), job.info["arguments"][0]
    with st.container(border=True):
        with st.container(horizontal=True, vertical_alignment="center"):
            st.markdown(f"**{job.info['title']}**", width="content")
            badge(status)
            st.space("stretch")
            buttons(study, job, status, where="refine")
        if not status.ended:
            bar(status)
        elif status.state == "finished":
            outcome(study, trial, status.trial)
        else:
            st.caption(status.message or "It stopped before the end. Resume goes on from what was saved.")
        curves(study, trial, progress_of(study, job), command)


def progress_of(study: Study, job: jobs.Job) -> list[dict[str, Any]]:
    """Progress events of a job and of the runs it resumed, oldest first."""
    same = [other for other in jobs.list_jobs(study) if other.info["arguments"] == job.info["arguments"]]
    events = [event for one in reversed(same) for event in one.events()[0]]
    return [event for event in events if event.get("event") == "progress"]


def outcome(study: Study, trial: Trial, made: str) -> None:
    """What came of a finished refinement."""
    new = next((t for t in trials(study) if t.id == made), None)
    if new is None:
        st.caption("Finished.")
        return
    change = new.evaluation.top1 - trial.evaluation.top1
    low, high = new.evaluation.interval
    st.success(
        f"{new.evaluation.top1:.1f} % ({low:.1f} to {high:.1f}), {change:+.1f} points against the trial it refined.",
        icon=":material/check_circle:",
    )


def curves(study: Study, trial: Trial, events: list[dict[str, Any]], command: str) -> None:
    if command == "refine":
        st.plotly_chart(figures.update_curve(events), key="trades", alt="Calibration accuracy after each trade of bits")
        return
    record, whole = figures.course(events), float_evaluation(study)
    top1 = whole.top1 if whole else None
    figure = figures.accuracy_by_epoch(record, start=trial.evaluation.top1, whole=top1)
    with st.grid(2, min_column_width=380):
        st.plotly_chart(figures.loss_curve(record), key="loss", alt="Training loss by step")
        st.plotly_chart(figure, key="accuracy", alt="Validation accuracy by epoch")


def forms(study: Study, trial: Trial) -> None:
    """The two ways to refine a trial, side by side."""
    pair = st.grid(2, min_column_width=320)
    with pair.cell(), st.container(border=True, height="stretch"):
        st.markdown("**Refine bits**")
        st.caption(
            "LampQ's iterative update: one layer gains a bit, another gives one up, as long as accuracy on the "
            "calibration images rises. The budget stays met. Seconds to minutes."
        )
        steps = st.number_input("Most trades", 1, 200, 12, help=help_of(UpdateSpec, "steps").capitalize() + ".")
        if st.button("Refine bits", icon=":material/swap_vert:", width="stretch"):
            arguments = ["refine", "--study", study.name, "--trial", trial.id, "--steps", str(steps)]
            start(study, arguments, f"Refine bits: {trial.title or trial.id}")
            st.rerun()
    with pair.cell(), st.container(border=True, height="stretch"):
        st.markdown("**Refine with QAT**")
        st.caption(
            "Quantization-aware training: the rounded model learns, with learned step sizes, from the float model. "
            "It can be stopped and resumed at any time, and the best epoch is kept."
        )
        one, two = st.columns(2)
        epochs = one.number_input("Epochs", 1, 300, 6, help=help_of(TrainingSpec, "epochs").capitalize() + ".")
        rate = two.number_input(
            "Learning rate",
            1e-6,
            1.0,
            TrainingSpec().learning_rate,
            format="%.1e",
            step=1e-4,
            help=help_of(TrainingSpec, "learning_rate").capitalize() + ".",
        )
        if st.button("Refine with QAT", type="primary", icon=":material/model_training:", width="stretch"):
            arguments = ["finetune", "--study", study.name, "--trial", trial.id, "--epochs", str(epochs)]
            if rate != TrainingSpec().learning_rate:
                arguments += ["--learning-rate", f"{rate:g}"]
            start(study, arguments, f"QAT: {trial.title or trial.id}")
            st.rerun()


def past(trial: Trial) -> None:
    """How a trained trial came about, from its own record."""
    record, whole = figures.course(trial.history), float_evaluation(study)
    with st.grid(2, min_column_width=380):
        loss = figures.loss_curve(record, unit="epoch")
        st.plotly_chart(loss, key="loss", alt="Training loss by epoch")
        accuracy = figures.accuracy_by_epoch(record, whole=whole.top1 if whole else None)
        st.plotly_chart(accuracy, key="accuracy", alt="Validation accuracy by epoch")


def progress(study: Study, trial: Trial) -> None:
    """The refinement of a trial that runs now, else the last one."""
    refinements = jobs_of(study, trial)
    if not refinements:
        st.caption("No refinement of this trial has run yet; its curves appear here.")
        return
    st.subheader("Progress")
    shown = next((job for job in refinements if job.alive), refinements[0])
    st.fragment(watch, run_every=1.0 if shown.alive else None)(study, trial, shown)


def name_of(trial: Trial) -> str:
    return f"{trial.title or trial.id} · {STAGE_NAMES[trial.stage]} · {trial.evaluation.top1:.1f} %"


study = store.open_study(st.session_state["study"])
found = [trial for trial in reversed(trials(study)) if not trial.control]

st.title("Refine")
if not found:
    st.info("There is nothing to refine yet. Quantize an allocation first.", icon=":material/tune:")
    st.page_link("views/allocation.py", label="Choose a budget and quantize", icon=":material/arrow_forward:")
    st.stop()

by_id = {trial.id: trial for trial in found}
newest = next((t.id for t in found if t.stage == "ptq"), found[0].id)
asked = st.session_state.get("trial") or st.query_params.get("trial")
st.session_state["trial"] = asked if asked in by_id else newest
chosen = st.selectbox(
    "Trial to refine",
    list(by_id),
    key="trial",
    persist_state="session",
    format_func=lambda name: name_of(by_id[name]),
    help="A trial is one allocation made real. " + " ".join(f"{STAGE_NAMES[s]}: {h}." for s, h in STAGE_HELP.items()),
)
st.query_params["trial"] = chosen
trial = by_id[chosen]
if trial.stage == "qat":
    st.info("This trial is trained already. Refine the one it came from, with more epochs.", icon=":material/info:")
    past(trial)
else:
    forms(study, trial)
    progress(study, trial)
