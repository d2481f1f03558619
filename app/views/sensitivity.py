"""How sensitive each layer is, under each metric, with the error of every number."""

import pandas as pd
import streamlit as st
from facts import fact
from reading import costs, sensitivity

from lampq_engine import figures, store
from lampq_engine.cost import CostModel
from lampq_engine.figures.names import KIND_NAMES, METRIC_HELP, METRIC_NAMES, number, width
from lampq_engine.types import Bits, Sensitivity

PAIR = 400  # pixels: two charts stand side by side where both can be this wide


def map_of(model: CostModel, table: Sensitivity, log: bool, bits: Bits | None = None) -> None:
    st.caption(METRIC_HELP[table.metric])
    figure = figures.sensitivity_map(model.layers, table, bits=bits, log=log)
    name = METRIC_NAMES[table.metric]
    st.plotly_chart(figure, key=f"map-{table.metric}", alt=f"{name} of each layer over blocks and kinds of layer")
    if table.images:
        st.caption(f"{table.images} calibration images; hover for value and standard error.")


def type_factors(table: Sensitivity) -> None:
    """The factors that make kinds comparable, where the metric has them."""
    factors = table.notes.get("factors", [])
    if not isinstance(factors, list) or not factors:
        return
    st.subheader(
        "Type factors",
        help="LampQ's alpha: accuracy points lost per unit of Fisher trace, measured by quantizing a few layers of "
        "each kind alone. Without them, attention and MLP layers do not compare.",
    )
    with st.grid(min(6, len(factors)), min_column_width=105):
        for factor in factors:
            fact(
                KIND_NAMES.get(factor["kind"], factor["kind"]),
                number(factor["alpha"]),
                f"± {number(factor['error'])}",
                help=f"{factor['drop']:.2f} points lost on average over {len(factor['layers'])} layers: "
                + ", ".join(factor["layers"]),
            )


def pair_of(bits: Bits) -> str:
    return f"{width(bits.weights)} / {width(bits.activations)}"


def cross_checks(model: CostModel, tables: dict[str, Sensitivity], log: bool) -> None:
    """The measured harm and its second-order prediction at chosen widths, and the random control."""
    st.subheader("Cross-checks", help="What was measured by quantizing each layer alone, and scores that know nothing.")
    harm = tables.get("harm")
    by_width = harm or tables.get("output")
    pairs = sorted({bits for row in by_width.cells.values() for bits in row}) if by_width else []
    chosen = st.selectbox(
        "Widths (weights / activations)",
        pairs,
        format_func=pair_of,
        width=320,
        disabled=by_width is None,
        placeholder="not measured yet",
        help="Each layer is quantized alone to these widths while the rest of the model stays in float.",
    )
    pair = st.grid(2, min_column_width=PAIR)
    with pair.cell():
        if harm is None:
            st.info("The harm of each layer alone is not measured yet.", icon=":material/hourglass_empty:")
        else:
            map_of(model, harm, log, chosen)
    with pair.cell():
        if "output" in tables:
            map_of(model, tables["output"], log, chosen)
    with pair.cell():
        if "random" in tables:
            map_of(model, tables["random"], log)


def as_table(model: CostModel, tables: dict[str, Sensitivity]) -> pd.DataFrame:
    """Every layer with its scores under every metric; the page's table and its CSV."""
    rows = []
    for layer in model.layers:
        block = layer.block if layer.block is not None else None
        row = {"layer": layer.name, "kind": KIND_NAMES[layer.kind], "block": block}
        row |= {"weights": layer.weights, "MMACs": layer.macs / 1e6}
        for name, table in tables.items():
            cell = figures.scores(table).get(layer.name)
            row |= {
                METRIC_NAMES[name]: cell.harm if cell else None,
                f"± {METRIC_NAMES[name]}": cell.error if cell else None,
            }
        rows.append(row)
    return pd.DataFrame(rows).astype({"block": "Int64"})


study = store.open_study(st.session_state["study"])
model = costs(study)
tables = {
    name: table for name in ("fisher", "lampq", "output", "harm", "random") if (table := sensitivity(study, name))
}

st.title("Sensitivity")
if model is None or not tables:
    st.info(
        "Nothing is measured yet. The analysis runs on the Study page; the first heatmap appears within a minute.",
        icon=":material/hourglass_empty:",
    )
    st.page_link("views/study.py", label="Watch the analysis", icon=":material/arrow_forward:")
    st.stop()

log = st.toggle(
    "Logarithmic colours",
    value=True,
    key="log-colours",
    persist_state="session",
    help="Sensitivities span orders of magnitude; the logarithm keeps small differences visible.",
)
pair = st.grid(2, min_column_width=PAIR)
with pair.cell():
    if "fisher" in tables:
        map_of(model, tables["fisher"], log)
with pair.cell():
    if "lampq" in tables:
        map_of(model, tables["lampq"], log)
    else:
        st.info("The type factors are not measured yet.", icon=":material/hourglass_empty:")
if "lampq" in tables:
    type_factors(tables["lampq"])
cross_checks(model, tables, log)
st.subheader("All layers", help="Click a column to sort; the toolbar of the table saves it as CSV.")
st.dataframe(
    as_table(model, tables),
    hide_index=True,
    height=420,
    placeholder="–",
    alt="Every layer with its scores",
    column_config={
        **{name: st.column_config.NumberColumn(format="%.3g") for name in METRIC_NAMES.values()},
        **{
            f"± {name}": st.column_config.NumberColumn(format="%.2g", help="standard error")
            for name in METRIC_NAMES.values()
        },
        "MMACs": st.column_config.NumberColumn(format="%.2f", help="million multiply-accumulates for one image"),
    },
)
