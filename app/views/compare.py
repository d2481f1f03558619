"""Every trial of the study against float: two curves, one table, the files, and recipes in and out."""

import pandas as pd
import streamlit as st
from asking import request
from reading import float_evaluation, trials
from watching import age

from lampq_engine import figures, store
from lampq_engine.errors import InputError
from lampq_engine.figures.names import STAGE_NAMES
from lampq_engine.recipe import from_toml, to_toml
from lampq_engine.solve import check_recipe
from lampq_engine.store import Trial
from lampq_engine.types import Evaluation


def as_table(found: list[Trial], whole: Evaluation | None) -> pd.DataFrame:
    """One row for each trial, newest first, with what it lost against float."""
    rows = []
    for trial in found:
        low, high = trial.evaluation.interval
        rows.append(
            {
                "trial": trial.title or trial.id,
                "stage": f"control: {trial.control}" if trial.control else STAGE_NAMES[trial.stage],
                "top-1": trial.evaluation.top1,
                "95 % interval": f"{low:.1f} to {high:.1f}",
                "Δ float": trial.evaluation.top1 - whole.top1 if whole else None,
                "images": trial.evaluation.images,
                "mean bits": trial.allocation.cost.mean_bits,
                "MB": trial.allocation.cost.megabytes,
                "GBOPs": trial.allocation.cost.gbops,
                "agreement": trial.evaluation.agreement,
                "made": age(trial.created),
            }
        )
    return pd.DataFrame(rows)


def downloads(trial: Trial) -> None:
    """The packed model and the recipe of one trial, read from disk when they are asked for."""
    packed, recipe = trial.packed, trial.path / "recipe.toml"
    with st.container(horizontal=True, vertical_alignment="center"):
        st.download_button(
            f"Packed model ({packed.stat().st_size / 1e6:.2f} MB)" if packed.is_file() else "No packed model",
            packed.read_bytes,
            file_name=f"{study.name}-{trial.id}.safetensors",
            mime="application/octet-stream",
            icon=":material/download:",
            type="primary",
            disabled=not packed.is_file(),
            on_click="ignore",
            key="download-packed",
            help="A safetensors file whose weights take their bits and nothing more; it carries its recipe.",
        )
        st.download_button(
            "Recipe",
            recipe.read_bytes,
            file_name=f"{study.name}-{trial.id}.toml",
            mime="application/toml",
            icon=":material/receipt_long:",
            on_click="ignore",
            key="download-recipe",
            help="Everything that was asked for, as a text file; it makes the same trial again.",
        )


def upload() -> None:
    """A recipe from a file: checked at once, then run as it is."""
    file = st.file_uploader(
        "Recipe file", type="toml", max_upload_size=1, help="A recipe that was downloaded here or written by hand."
    )
    if file is None:
        return
    try:
        recipe = from_toml(file.getvalue().decode(errors="replace"), where=file.name)
        check_recipe(study, recipe)
    except InputError as error:
        st.error(str(error))
        return
    st.success(f"The recipe “{recipe.title or file.name}” fits this model.", icon=":material/check_circle:")
    with st.expander("What it asks for"):
        st.code(to_toml(recipe), language="toml", height=240)
    if st.button("Quantize and measure this recipe", type="primary", icon=":material/bolt:"):
        request(study, "quantize", recipe, f"Quantize: {recipe.title or file.name}")
        st.rerun()


study = store.open_study(st.session_state["study"])
found, whole = list(reversed(trials(study))), float_evaluation(study)

st.title("Compare")
if not found:
    st.info("No trial is measured yet. Choose a budget and press “Quantize and measure”.", icon=":material/tune:")
    st.page_link("views/allocation.py", label="Go to Allocation", icon=":material/arrow_forward:")
else:
    st.caption("Measured top-1 accuracy with its 95 % interval; the grey band is the float model's.")
    slot = st.container()
    st.subheader("Trials", help="Choose a row to ring it in the curves and to download its files.")
    event = st.dataframe(
        as_table(found, whole),
        hide_index=True,
        key=f"trials-{study.name}",
        on_select="rerun",
        selection_mode="single-row",
        alt="Every trial with accuracy and cost",
        column_config={
            "top-1": st.column_config.NumberColumn(format="%.1f %%", help="share of images classified rightly"),
            "95 % interval": st.column_config.TextColumn(help="Wilson interval: where the true accuracy plausibly is"),
            "Δ float": st.column_config.NumberColumn(format="%+.1f", help="accuracy points against the float model"),
            "mean bits": st.column_config.NumberColumn(format="%.2f"),
            "MB": st.column_config.NumberColumn(format="%.3f", help="size of the packed file"),
            "GBOPs": st.column_config.NumberColumn(format="%.3f", help="bit operations for one image"),
            "agreement": st.column_config.NumberColumn(
                format="%.1f %%", help="share of images on which it predicts what the float model predicts"
            ),
        },
    )
    rows = [row for row in event["selection"]["rows"] if row < len(found)]
    trial = found[rows[0]] if rows else None
    marked = (trial.title or trial.id) if trial else ""
    with slot, st.grid(2, min_column_width=400):
        for cost in ("megabytes", "gbops"):
            figure = figures.accuracy_curve(found, whole, cost, marked=marked)  # type: ignore[arg-type]
            st.plotly_chart(figure, key=f"compare-{cost}", alt=f"Accuracy against {cost}")
    if trial is None:
        st.caption("Choose a row of the table to download its packed model and its recipe.")
    else:
        st.markdown(f"**{trial.title or trial.id}**")
        downloads(trial)

st.subheader("Run a recipe", help="A recipe is everything that was asked for, as a text file that can be shared.")
upload()
