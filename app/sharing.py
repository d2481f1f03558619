"""What leaves the dashboard: a link to the view in hand, the command that does the same, a report, figures."""

from __future__ import annotations

import shlex
from typing import Any

import streamlit as st
from comparing import TRIAL
from history import history
from links import link_to, position_words
from reading import trials

from lampq_engine.report import as_html
from lampq_engine.store import Study

FORMATS = ("svg", "png")


def saved_as(name: str) -> dict[str, Any]:
    """The settings of a chart whose camera saves it under a name, in the format the session chose."""
    kind = st.session_state.get("figure-format") or FORMATS[0]
    return {"displaylogo": False, "toImageButtonOptions": {"format": kind, "filename": name, "scale": 2}}


def share(study: Study, page: str) -> None:
    """In the sidebar of every page: send this view, or the whole study, to somebody."""
    with st.sidebar:
        st.fragment(_share)(study, page)


def _share(study: Study, page: str) -> None:
    panel = st.popover("Share", icon=":material/ios_share:", width="stretch", key="share", on_change="rerun")
    if not panel.open:
        return
    with panel:
        st.markdown(
            "**Link to this view**",
            help="It restores the study, the page, the metric, budgets, pins, ties and menus, the layer and what is "
            "compared, on any browser that reaches this dashboard.",
        )
        st.code(link_to(study, page, st.context.url or ""), language=None, wrap_lines=True)
        past = history(study)
        if past is not None:
            st.markdown("**The same from the command line**")
            words = [word for name, value in position_words(past.now) for word in _option(name, value)]
            command = ["python", "-m", "lampq_engine", "quantize", "--study", study.name, *words]
            st.code(" ".join(map(shlex.quote, command)), language="bash", wrap_lines=True)
        st.markdown("**Report**", help="One file that opens in any browser, without a network, and prints well.")
        st.download_button(
            "Report (HTML)",
            lambda: as_html(study, _trial(study)).encode(),
            file_name=f"{study.name}-report.html",
            mime="text/html",
            icon=":material/description:",
            type="primary",
            on_click="ignore",
            width="stretch",
            key="download-report",
            help="Figures, settings, recipes, versions, hashes, controls and intervals. It takes about 5 MB.",
        )
        if past is not None:
            st.caption(
                "The report holds what was measured. To have the allocation of the sliders in it, press “Quantize and "
                "measure” on the Allocation page first; the link above shows it at once."
            )
        st.page_link("views/present.py", label="Present", icon=":material/slideshow:")


def _option(name: str, value: str) -> list[str]:
    return [f"--{name.replace('_', '-')}"] if name == "free" else [f"--{name.replace('_', '-')}", value]


def _trial(study: Study) -> str:
    """The id of the trial that the Compare page shows, where it is one of this study."""
    name, _, trial = str(st.session_state.get(TRIAL, "")).partition("/")
    return trial if name == study.name and any(t.id == trial for t in trials(study)) else ""
