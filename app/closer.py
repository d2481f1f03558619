"""A close look at a layer or at an image: made by a job, kept in the study, drawn here when it is there."""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Any

import pandas as pd
import streamlit as st
from panels import layer_box
from reading import analysis, trials
from watching import bar

from lampq_engine import figures, jobs
from lampq_engine.cost import CostModel
from lampq_engine.errors import InputError
from lampq_engine.inspection import ImageView, LayerView, image_view, layer_view
from lampq_engine.store import Study
from lampq_engine.types import FLOAT_BITS, Bits

PAIR = 400  # pixels: two charts stand side by side where both can be this wide
WIDTHS = [*range(2, 9), FLOAT_BITS]
BARE = {"displayModeBar": False}


def layer_panel(study: Study, model: CostModel) -> None:
    """One layer at chosen widths: weights on their grid, input ranges, error against bits, the worst channels."""
    with st.container(horizontal=True, vertical_alignment="bottom"):
        name = layer_box(study, model)
        weights = st.selectbox("Weight bits", WIDTHS, 2, width=120, key="look-weights", help="32 leaves it in float")
        activations = st.selectbox("Activation bits", WIDTHS, 2, width=120, key="look-activations", help="32: float")
        bits = Bits(weights, activations)
        look = ["inspect", "--study", study.name, "--layer", name, "--bits", str(bits)]
        view = ask(study, look, f"Look at {name} at {bits}", lambda: layer_view(study, name, bits))
    if view is not None:
        show_layer(view)


def ask(study: Study, arguments: list[str], title: str, read: Callable[[], Any]) -> Any:
    """What a look has made, or a button that starts it; while it runs, how far it is."""
    try:
        view = read()
    except InputError as error:
        st.error(str(error))
        view = None
    if view is not None:
        return view
    running = next((job for job in jobs.list_jobs(study) if job.alive and job.info["arguments"] == arguments), None)
    if running is not None:
        bar(running.status())
        return None
    st.button(
        "Look closely",
        type="primary",
        icon=":material/search:",
        on_click=start,
        args=(study, arguments, title),
        help="Loads the model beside the page, takes some seconds, and is kept: the next look at the same is at once.",
    )
    return None


def start(study: Study, arguments: list[str], title: str) -> None:
    try:
        jobs.start(study, arguments, title=title)
    except (InputError, OSError) as error:
        st.toast(str(error), icon=":material/error:")


def show_layer(view: LayerView) -> None:
    fold = ", after the channels of its input were rescaled into the norm before it (RepQ fold)" if view.folded else ""
    st.caption(f"{view.layer} at {view.bits}, quantized alone, {view.images} calibration images{fold}.")
    with st.grid(2, min_column_width=PAIR):
        if view.counts:
            alt = f"Histogram of the weights of {view.layer} with {len(view.grid)} levels"
            st.plotly_chart(figures.weight_histogram(view), key="look-histogram", config=BARE, alt=alt)
        errors = "; ".join(f"{e.bits} bits {e.output:.2g}" for e in view.errors)
        st.plotly_chart(
            figures.error_by_bits(view), key="look-errors", config=BARE, alt=f"Relative output error: {errors}"
        )
        for operand in view.inputs:
            alt = f"Range of each of {len(operand.low)} channels of the {operand.name}"
            st.plotly_chart(figures.input_ranges(operand), key=f"look-{operand.name}", config=BARE, alt=alt)
    if view.worst:
        st.markdown(
            "**The worst channels**",
            help="Output channels whose weights lose most: their share of the squared error of the whole weight.",
        )
        st.dataframe(
            pd.DataFrame([vars(channel) for channel in view.worst]),
            hide_index=True,
            alt="Output channels with the greatest share of the weight's error",
            column_config={
                "index": st.column_config.NumberColumn("Channel"),
                "low": st.column_config.NumberColumn("Lowest weight", format="%.3g"),
                "high": st.column_config.NumberColumn("Highest weight", format="%.3g"),
                "scale": st.column_config.NumberColumn("Step", format="%.3g", help="distance of two levels"),
                "error": st.column_config.NumberColumn("Relative error", format="%.3g"),
                "share": st.column_config.ProgressColumn(
                    "Share of the error", min_value=0, max_value=1, format="percent"
                ),
            },
        )


def image_panel(study: Study) -> None:
    """One calibration image, and where attention lies on it before and after quantization."""
    count = int(analysis(study).get("counts", {}).get("calibration", 1))
    found = {trial.title or trial.id: trial for trial in trials(study)}
    with st.container(horizontal=True, vertical_alignment="bottom"):
        image = st.number_input(
            "Calibration image", 0, max(0, count - 1), 0, key="look-image", width=170, help=f"one of {count}, from 0"
        )
        every = [f"every layer at {width}/{width}" for width in (2, 3, 4, 6, 8)]
        chosen = st.selectbox(
            "Compare with",
            [*every, *reversed(found)],
            2,
            key="look-what",
            help="the quantized model: searched layers at one width, or a trial",
        )
        bits = str(chosen).removeprefix("every layer at ")
        what = found[chosen].id if chosen in found else bits
        look = ["inspect", "--study", study.name, "--image", str(image)]
        look += ["--trial", what] if chosen in found else ["--bits", what]
        view = ask(study, look, f"Look at image {image}, {chosen}", lambda: image_view(study, int(image), what))
    if view is not None:
        show_image(view)


def show_image(view: ImageView) -> None:
    before, after = view.before, view.after
    flip = "the same class" if before[0] == after[0] else "**another class**"
    st.markdown(
        f"{view.name}, class {view.label}. Float predicts class {before[0]:.0f} ({before[1]:.1%}), quantized predicts "
        f"{flip}{'' if before[0] == after[0] else f' {after[0]:.0f}'} ({after[1]:.1%})."
    )
    block = st.select_slider("Block", view.blocks, view.blocks[-1], key="look-block", help="whose attention is shown")
    figure = figures.attention_pair(view, view.blocks.index(block))
    with st.container(horizontal=True, vertical_alignment="center", gap="medium"):
        st.image(base64.b64decode(view.png), caption=f"calibration image {view.index}", width=240)
        st.plotly_chart(
            figure,
            width=600,
            key="look-attention",
            config=BARE,
            alt=f"Share of attention on each patch of image {view.index} in block {block}, float and quantized",
        )
