"""The trials a session compares: from which studies, which one against which; chosen in a curve, a table or a box."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import streamlit as st
from reading import float_evaluation, trials

from lampq_engine.figures.names import STAGE_NAMES
from lampq_engine.store import Study, Trial

FLOAT = "float"
GROUPS = ("ptq", "updated", "qat", "uniform", "random", "inverted")
GROUP_NAMES = {**STAGE_NAMES, "uniform": "Uniform", "random": "Random", "inverted": "Inverted"}
TRIAL, AGAINST = "compare-trial", "compare-against"


@dataclass(frozen=True)
class Entry:
    """A trial with the study it belongs to, under a key that is its own among all studies."""

    study: Study
    trial: Trial

    @property
    def key(self) -> str:
        return f"{self.study.name}/{self.trial.id}"

    @property
    def group(self) -> str:
        return self.trial.control or self.trial.stage

    @property
    def title(self) -> str:
        return self.trial.title or self.trial.id

    def name(self, home: str) -> str:
        """The trial for people; with its study where that is not the one in hand."""
        return self.title if self.study.name == home else f"{self.study.name}: {self.title}"

    def drawn(self, home: str) -> Trial:
        """The trial as a figure takes it: named and keyed among all studies."""
        return replace(self.trial, id=self.key, title=self.name(home))


def entries(studies: Sequence[Study]) -> list[Entry]:
    """Every readable trial of some studies, newest first."""
    found = [Entry(study, trial) for study in studies for trial in trials(study)]
    return sorted(found, key=lambda entry: -entry.trial.created)


def choose_pair(found: Sequence[Entry], home: Study) -> tuple[Entry, Entry | None]:
    """Which trial is compared with which; None: with the float model of its own study."""
    by_key = {entry.key: entry for entry in found}
    newest = next((entry.key for entry in found if not entry.trial.control), found[0].key)
    if st.session_state.get(TRIAL) not in by_key:
        st.session_state[TRIAL] = newest
    if st.session_state.get(AGAINST) not in (FLOAT, *by_key):
        st.session_state[AGAINST] = FLOAT
    left, swap, right = st.columns([10, 1, 10], vertical_alignment="bottom")

    def words(key: str) -> str:
        if key == FLOAT:
            return "Float model"
        entry = by_key[key]
        return f"{entry.name(home.name)} · {GROUP_NAMES[entry.group]} · {entry.trial.evaluation.top1:.1f} %"

    trial = left.selectbox(
        "Trial",
        list(by_key),
        key=TRIAL,
        persist_state="session",
        format_func=words,
        help="Click a point of a curve or a row of the table to choose it here.",
    )
    swap.button(
        "",
        icon=":material/swap_horiz:",
        on_click=_swap,
        disabled=st.session_state[AGAINST] == FLOAT,
        help="Swap the two",
        type="tertiary",
        width="stretch",
    )
    against = right.selectbox(
        "Against",
        [FLOAT, *by_key],
        key=AGAINST,
        persist_state="session",
        format_func=words,
        help="What every Δ is taken against: the float model, or another trial.",
    )
    return by_key[trial], by_key.get(against)


def _swap() -> None:
    st.session_state[TRIAL], st.session_state[AGAINST] = st.session_state[AGAINST], st.session_state[TRIAL]


def point_chosen(chart: str) -> None:
    """A point of a curve was clicked: it is the trial; of two points, the first is what it is compared with."""
    points = st.session_state[chart]["selection"]["points"]
    keys = [point["customdata"][4] for point in points if len(point.get("customdata") or ()) > 4]
    _choose(keys)


def row_chosen(table: str, keys: Sequence[str]) -> None:
    """A row of the table was chosen: it is the trial."""
    _choose([keys[row] for row in st.session_state[table]["selection"]["rows"] if row < len(keys)])


def _choose(keys: Sequence[str]) -> None:
    if keys:
        st.session_state[TRIAL] = keys[-1]
    if len(keys) > 1:
        st.session_state[AGAINST] = keys[-2]


def floats(studies: Sequence[Study], home: Study) -> dict[str, object]:
    """Float evaluations of the studies beside the one in hand, by name."""
    found = {study.name: float_evaluation(study) for study in studies if study.name != home.name}
    return {name: one for name, one in found.items() if one is not None}
