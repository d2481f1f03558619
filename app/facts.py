"""A number with its name, a note below it and an explanation: the cards that pages show in a row."""

from __future__ import annotations

import streamlit as st


def fact(name: str, value: str, note: str | None, *, help: str) -> None:
    """One card; without a note it is as high as its neighbours all the same."""
    st.metric(
        name,
        value,
        note,
        delta_color="off",
        delta_arrow="off",
        border=True,
        height="stretch",
        help=help,
    )
