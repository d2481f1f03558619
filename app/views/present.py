"""The study on a screen that others look at: large type, no controls, arrow keys from slide to slide."""

from collections.abc import Callable
from dataclasses import dataclass

import plotly.graph_objects as go
import streamlit as st
from comparing import TRIAL
from reading import costs, float_evaluation, sensitivity, trials
from slides import headline

from lampq_engine import figures, store
from lampq_engine.figures.names import METRIC_NAMES
from lampq_engine.report import accuracy
from lampq_engine.store import Trial
from lampq_engine.types import FLOAT_BITS


@dataclass(frozen=True)
class Slide:
    """A title, a sentence and one figure, drawn when the slide is shown."""

    title: str
    lead: str
    draw: Callable[[], go.Figure]
    alt: str


def chosen() -> Trial | None:
    """The trial that the Compare page shows, else the newest that is no control."""
    found = [trial for trial in reversed(trials(study)) if not trial.control]
    asked = str(st.session_state.get(TRIAL, "")).removeprefix(f"{study.name}/")
    return next((trial for trial in trials(study) if trial.id == asked), found[0] if found else None)


def sensitivity_slides() -> list[Slide]:
    """The type-aware map, else the raw one."""
    model, table = costs(study), sensitivity(study, "lampq") or sensitivity(study, "fisher")
    if model is None or table is None:
        return []
    most = max(table.raw, key=lambda name: table.raw[name], default="")
    lead = f"Brighter layers suffer more from fewer bits; the most sensitive one is {most}."
    title = f"Which layers are sensitive: {METRIC_NAMES[table.metric]}"
    return [Slide(title, lead, lambda: figures.sensitivity_map(model.layers, table), lead)]


def allocation_slides(trial: Trial) -> list[Slide]:
    """The bits of the trial's layers, and what they cost."""
    model = costs(study)
    if model is None:
        return []
    cost, whole = trial.allocation.cost, model.cost({})
    widths = sorted({pair.weights for pair in trial.allocation.bits.values() if pair.weights != FLOAT_BITS})
    lead = (
        f"{cost.mean_bits:.2f} mean bits from {widths[0]} to {widths[-1]}, {cost.megabytes:.3f} MB: "
        f"{whole.megabytes / cost.megabytes:.1f}x smaller and {whole.gbops / cost.gbops:.0f}x fewer bit operations."
        if widths
        else f"{cost.megabytes:.3f} MB; every layer is left in float."
    )
    bits = trial.allocation.bits
    return [
        Slide(
            f"{trial.title or trial.id}: bits of the {side}",
            lead,
            lambda side=side: figures.bits_map(model.layers, bits, side=side),  # type: ignore[misc]
            f"Bits of the {side} of each layer. {lead}",
        )
        for side in ("weights", "activations")
    ]


def curve_slides(trial: Trial) -> list[Slide]:
    """What was measured, beside float and every control."""
    whole = float_evaluation(study)
    lead = f"{trial.title or trial.id}: {accuracy(trial.evaluation)}."
    lead += f" Float: {accuracy(whole)}." if whole else ""
    found = trials(study)
    return [
        Slide(
            f"Accuracy against {name}",
            lead,
            lambda cost=cost: figures.accuracy_curve(found, whole, cost, marked=[trial.id]),  # type: ignore[misc]
            f"Accuracy of {len(found)} trials against {name}. {lead}",
        )
        for cost, name in (("megabytes", "megabytes"), ("gbops", "bit operations"))
    ]


def stepped(step: int) -> None:
    st.session_state["slide-number"] = min(max(0, number() + step), len(slides) - 1)


def number() -> int:
    """Which slide is shown, from 0; a link may say so, and anything else is the first."""
    asked = st.query_params.get("slide", "1")
    start = int(asked) - 1 if asked.isascii() and asked.isdigit() and len(asked) < 4 else 0
    return min(max(0, st.session_state.get("slide-number", start)), len(slides) - 1)


def leave() -> None:
    st.session_state["leave-slides"] = True


@st.fragment
def show() -> None:
    """One slide; only this is drawn anew when a key is pressed."""
    if st.session_state.pop("leave-slides", False):
        st.switch_page("views/compare.py")
    slide = slides[number()]
    headline(slide.title, slide.lead, number=number() + 1, count=len(slides), on_step=stepped, on_leave=leave)
    figure = figures.enlarged(slide.draw())
    st.plotly_chart(figure, key="slide-figure", config={"displayModeBar": False}, alt=slide.alt)
    st.caption(f"{study.model.name} on {study.data.source} · LampQ Studio · arrow keys turn the page, Escape leaves")


study = store.open_study(st.session_state["study"])
trial = chosen()
slides = sensitivity_slides()
if trial is not None:
    slides += allocation_slides(trial) + curve_slides(trial)
if slides:
    show()
else:
    st.title("Present")
    st.info(
        "There is nothing to present yet. When the analysis has measured sensitivities, they stand here in large type; "
        "quantize an allocation, and its bits and its accuracy follow.",
        icon=":material/slideshow:",
    )
    st.page_link("views/study.py", label="Watch the analysis", icon=":material/arrow_forward:")
