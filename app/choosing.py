"""Which study a session looks at: kept in the page's address, so that a link brings it back."""

from __future__ import annotations

import streamlit as st

from lampq_engine import jobs, store
from lampq_engine.errors import InputError
from lampq_engine.recipe import Recipe
from lampq_engine.store import Study


def choose_study() -> Study | None:
    """The study in hand, chosen in the sidebar; where there is none at all, the built-in one is started.

    None where no study can be opened or made; the page then says why.
    """
    try:
        studies = store.list_studies() or [start_builtin()]
    except (InputError, OSError) as error:
        st.error(str(error), title="No study could be opened or made")
        return None
    names = [study.name for study in studies]
    asked = st.session_state.pop("next-study", None) or st.session_state.get("study") or st.query_params.get("study")
    if asked and asked not in names:
        st.toast(f"There is no study “{asked}” here; showing {names[0]}.", icon=":material/info:")
    st.session_state["study"] = asked if asked in names else names[0]
    with st.sidebar:
        name = st.selectbox(
            "Study",
            names,
            key="study",
            help="One model on one data set. Every page shows this study; start another on the Study page.",
        )
    if st.query_params.get("study") != name:
        st.query_params["study"] = name  # a link to any page brings the study back
    study = store.open_study(name)
    try:
        study.model, study.data  # noqa: B018
    except (InputError, KeyError, TypeError) as error:
        st.error(str(error), title=f"The study {name} cannot be opened")
        return None
    return study


def start_builtin() -> Study:
    """Make the built-in study and start its analysis."""
    study = store.create_study(Recipe())
    start_analysis(study)
    return study


def start_analysis(study: Study) -> jobs.Job:
    """Start the analysis of a study as a job: float accuracy and every sensitivity."""
    model, data = study.model, study.data
    arguments = ["analyse", "--study", study.name, "--model", model.name, "--data", data.source]
    for option, value, default in (
        ("--checkpoint", model.checkpoint, ""),
        ("--calibration-source", data.calibration_source, ""),
        ("--calibration-images", data.calibration_images, 256),
        ("--validation-images", data.validation_images, 0),
        ("--seed", data.seed, 0),
    ):
        if value != default:
            arguments += [option, str(value)]
    return jobs.start(study, arguments, title=f"Analyse {model.name}")
