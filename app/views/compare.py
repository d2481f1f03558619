"""Trials side by side, of any studies: two curves, one table, what two of them were asked and predicted differently."""

import pandas as pd
import streamlit as st
from asking import request
from comparing import (
    AGAINST,
    GROUP_NAMES,
    GROUPS,
    TRIAL,
    Entry,
    choose_pair,
    entries,
    floats,
    point_chosen,
    row_chosen,
)
from pairs import downloads, pair_panels
from reading import costs, float_evaluation
from sharing import FORMATS, saved_as

from lampq_engine import figures, store
from lampq_engine.compare import as_csv, trial_rows
from lampq_engine.errors import InputError
from lampq_engine.figures.names import STAGE_NAMES
from lampq_engine.recipe import from_toml, to_toml
from lampq_engine.solve import check_recipe

TABLE = "compare-table"
COLUMNS = {
    "study": st.column_config.TextColumn("study"),
    "title": st.column_config.TextColumn("trial", width="medium"),
    "stage": st.column_config.TextColumn("stage", help="how it was made; controls know nothing of the model"),
    "top1": st.column_config.NumberColumn("top-1", format="%.1f %%", help="share of images classified rightly"),
    "interval": st.column_config.TextColumn(
        "95 % interval", help="Wilson interval: where the true accuracy plausibly is"
    ),
    "images": st.column_config.NumberColumn("images", help="validation images it was measured on"),
    "change_top1": st.column_config.NumberColumn("Δ top-1", format="%+.1f", help="points against what is chosen above"),
    "megabytes": st.column_config.NumberColumn("MB", format="%.3f", help="size of the packed file"),
    "change_megabytes": st.column_config.NumberColumn("Δ MB", format="%+.3f"),
    "gbops": st.column_config.NumberColumn("GBOPs", format="%.3f", help="bit operations for one image"),
    "change_gbops": st.column_config.NumberColumn("Δ GBOPs", format="%+.3f"),
    "mean_bits": st.column_config.NumberColumn("mean bits", format="%.2f"),
    "agreement": st.column_config.NumberColumn(
        "agreement", format="%.1f %%", help="share of images on which it predicts what the float model predicts"
    ),
    "made": st.column_config.DatetimeColumn("made", format="D MMM HH:mm"),
}


def table(found: list[Entry], against: Entry | None, several: bool) -> None:
    """Every trial with what it cost and every Δ against the chosen one; a row chooses, a button saves."""
    whole, model = float_evaluation(study), costs(study)
    if against is not None:
        cost, top1 = against.trial.allocation.cost, against.trial.evaluation.top1
    else:
        cost = model.cost({}) if model else found[0].trial.allocation.cost
        top1 = whole.top1 if whole else float("nan")
    rows = trial_rows([(entry.study, entry.trial) for entry in found], cost, top1)
    shown = pd.DataFrame(rows)
    shown["interval"] = [f"{row['low']:.1f} to {row['high']:.1f}" for row in rows]
    shown["stage"] = [STAGE_NAMES.get(row["stage"], row["stage"]) for row in rows]
    shown["made"] = pd.to_datetime(shown["created"], unit="s")
    keys = [entry.key for entry in found]
    st.dataframe(
        shown,
        hide_index=True,
        key=TABLE,
        on_select=lambda: row_chosen(TABLE, keys),
        selection_mode="single-row",
        alt="Every trial with accuracy, its interval, cost, and the difference to the one it is compared with",
        column_order=[name for name in COLUMNS if several or name != "study"],
        column_config=COLUMNS,
    )
    st.download_button(
        "Table as CSV",
        lambda: as_csv(rows),
        file_name=f"{study.name}-trials.csv",
        mime="text/csv",
        icon=":material/table:",
        on_click="ignore",
        help="Every column, the interval's ends and the trials' ids too.",
    )


def curves(found: list[Entry], marked: list[str], others: dict) -> None:
    """Accuracy against megabytes and GBOPs; a click on a point chooses it."""
    whole = float_evaluation(study)
    drawn = [entry.drawn(study.name) for entry in found]
    with st.grid(2, min_column_width=400):
        for cost in ("megabytes", "gbops"):
            figure = figures.accuracy_curve(drawn, whole, cost, marked=marked, others=others)  # type: ignore[arg-type]
            st.plotly_chart(
                figure,
                key=f"compare-{cost}",
                on_select=lambda cost=cost: point_chosen(f"compare-{cost}"),  # type: ignore[misc]
                selection_mode="points",
                config=saved_as(f"{study.name}-accuracy-{cost}"),
                alt=f"Measured top-1 accuracy of {len(drawn)} trials with 95 % intervals against {cost}"
                + (f"; float {whole.top1:.1f} %" if whole else ""),
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


def controls_missing(found: list[Entry]) -> None:
    """Where no control was measured yet, say so and offer to measure them: a score alone proves nothing."""
    own = [entry for entry in found if entry.study == study]
    best = next((entry for entry in own if not entry.trial.control), None)
    if best is None or any(entry.trial.control for entry in own):
        return
    with st.container(horizontal=True, vertical_alignment="center"):
        st.caption(":orange[:material/rule:] No control was measured yet: nobody can tell what the metric is worth.")
        if st.button("Run controls", icon=":material/rule:", help="Uniform widths, random and inverted scores."):
            request(study, "controls", best.trial.recipe, f"Controls: {best.title}")
            st.rerun()


study = store.open_study(st.session_state["study"])
known = {one.name: one for one in store.list_studies()}
st.title("Compare")
with st.container(horizontal=True, vertical_alignment="bottom", gap="medium"):
    chosen = st.session_state.get("compare-studies", [])
    st.session_state["compare-studies"] = [n for n in chosen if n in known and n != study.name]
    more = [name for name in known if name != study.name]
    names = st.multiselect(
        "With trials of other studies",
        more,
        key="compare-studies",
        persist_state="session",
        placeholder="only this study" if more else "there is no other study",
        disabled=not more,
        help="Trials of any studies stand in one table and in both curves; only those of one study share images.",
    )
    st.session_state.setdefault("compare-groups", list(GROUPS))
    groups = st.pills(
        "Shown",
        GROUPS,
        selection_mode="multi",
        key="compare-groups",
        persist_state="session",
        format_func=GROUP_NAMES.__getitem__,
        help="Uniform, random and inverted trials are controls: what a metric has to beat. They are on by default.",
    )
    st.segmented_control(
        "Figures are saved as",
        FORMATS,
        default=FORMATS[0],
        required=True,
        key="figure-format",
        persist_state="session",
        format_func=str.upper,
        help="The camera in the corner of a figure saves it: SVG for papers, PNG for slides.",
    )
studies = [study, *(known[name] for name in names)]
everything = entries(studies)
if not everything:
    st.info(
        "No trial is measured yet. A trial is a model that was really quantized and run on the validation images. "
        "Choose a budget on the Allocation page and press “Quantize and measure”; here it then stands beside float and "
        "the controls, with the images it lost.",
        icon=":material/monitoring:",
    )
    st.page_link("views/allocation.py", label="Choose a budget", icon=":material/arrow_forward:")
else:
    trial, against = choose_pair(everything, study)
    found = [entry for entry in everything if entry.group in groups or entry in (trial, against)]
    controls_missing(everything)
    others = floats(studies, study)
    curves(found, [st.session_state[TRIAL], st.session_state[AGAINST]], others)
    st.caption("Measured top-1 accuracy with its 95 % interval; the grey band is float. Click a point to choose it.")
    pair_panels(trial, against, study.name)
    downloads(trial)
    st.subheader("Trials", help="Choose a row to compare it; every Δ is against the trial chosen above.")
    table(found, against, several=len(studies) > 1)

st.subheader("Run a recipe", help="A recipe is everything that was asked for, as a text file that can be shared.")
upload()
