"""How sensitive each layer is, under each metric; how sure that is; and a close look at a layer or an image."""

import pandas as pd
import streamlit as st
from closer import image_panel, layer_panel
from facts import fact
from panels import place
from reading import costs, ranks, sensitivity

from lampq_engine import figures, store
from lampq_engine.cost import CostModel
from lampq_engine.figures.names import KIND_NAMES, METRIC_HELP, METRIC_NAMES, number, width
from lampq_engine.types import Bits, Cell, Sensitivity

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


def widths_box(tables: dict[str, Sensitivity]) -> Bits | None:
    """The widths at which metrics that depend on them are shown."""
    by_width = tables.get("harm") or tables.get("output")
    pairs = sorted({bits for row in by_width.cells.values() for bits in row}) if by_width else []
    return st.selectbox(
        "Widths (weights / activations)",
        pairs,
        format_func=pair_of,
        width=320,
        key="compared-widths",
        disabled=by_width is None,
        placeholder="not measured yet",
        help="Each layer is quantized alone to these widths while the rest of the model stays in float.",
    )


def compared(model: CostModel, tables: dict[str, Sensitivity], log: bool) -> None:
    """Do the metrics agree: rank correlations, one against another, and the maps that are left."""
    chosen = widths_box(tables)
    scored: dict[str, dict[str, Cell]] = {name: scores_at(table, chosen) for name, table in tables.items()}
    names = list(scored)
    left, right = st.columns([2, 3], gap="medium")
    with left:
        st.caption("1: both metrics put the layers in the same order; 0: nothing in common; -1: upside down.")
        st.plotly_chart(figures.agreement_map(scored), key="agreement", alt="Rank correlation of every two metrics")
    with right:
        with st.container(horizontal=True):
            across = st.selectbox("Across", names, 0, METRIC_NAMES.__getitem__, key="scatter-across")
            up = st.selectbox("Up", names, min(1, len(names) - 1), METRIC_NAMES.__getitem__, key="scatter-up")
        figure = figures.metric_scatter(model.layers, str(across), str(up), scored)
        st.plotly_chart(figure, key="scatter", alt=f"{METRIC_NAMES[up]} of each layer against {METRIC_NAMES[across]}")
    if "harm" not in tables:
        st.info("The harm of each layer alone is not measured yet.", icon=":material/hourglass_empty:")
    with st.grid(2, min_column_width=PAIR):
        for name in ("harm", "output", "random"):
            if name in tables:
                with st.container(gap="xsmall"):
                    map_of(model, tables[name], log, None if name == "random" else chosen)


def scores_at(table: Sensitivity, bits: Bits | None) -> dict[str, Cell]:
    """A metric's scores for comparison: those at a pair of widths where it depends on them, else without."""
    return figures.scores(table, bits if table.metric in ("harm", "output") else None)


def sureness(tables: dict[str, Sensitivity]) -> None:
    """Ranks, and where other calibration images would have put them."""
    metric = "lampq" if "lampq" in tables else "fisher"
    found = ranks(study, metric)
    if not found:
        st.info("This study keeps no traces of single images; analyse it again to see how sure its ranks are.")
        return
    spread = sorted(rank.high - rank.low for rank in found)[len(found) // 2]
    firm = sum(rank.high <= len(found) // 4 for rank in found[: len(found) // 4])
    st.caption(
        f"Each bar is the middle 90 % of a layer's rank over 400 resamples of the {tables[metric].images} calibration "
        f"images, for {METRIC_NAMES[metric]}. Half of the layers move by {spread} ranks or less; {firm} of the "
        f"{len(found) // 4} most sensitive stay in the first quarter.",
        help="Bootstrap: images drawn with replacement. Type factors are held fixed; their own error is on the cards.",
    )
    alt = "; ".join(f"{rank.layer} rank {rank.rank}, {rank.low} to {rank.high}" for rank in found[:10])
    st.plotly_chart(figures.rank_ranges(found), key="ranks", alt=f"Ranks under resampling: {alt}")


def as_table(model: CostModel, tables: dict[str, Sensitivity]) -> pd.DataFrame:
    """Every layer with its scores under every metric; the page's table and its CSV."""
    places = {rank.layer: rank for rank in ranks(study, "lampq" if "lampq" in tables else "fisher")}
    rows = []
    for layer in model.layers:
        rank = places.get(layer.name)
        row = {"layer": layer.name, "kind": KIND_NAMES[layer.kind], "block": layer.block}
        row |= {"rank": rank.rank if rank else None, "90 %": f"{rank.low} to {rank.high}" if rank else None}
        row |= {"weights": layer.weights, "MMACs": layer.macs / 1e6}
        for name, table in tables.items():
            cell = figures.scores(table).get(layer.name)
            row |= {
                METRIC_NAMES[name]: cell.harm if cell else None,
                f"± {METRIC_NAMES[name]}": cell.error if cell else None,
            }
        rows.append(row)
    return pd.DataFrame(rows).astype({"block": "Int64", "rank": "Int64"})


def all_layers(model: CostModel, tables: dict[str, Sensitivity]) -> None:
    """The table, in which a row chooses the layer to look at."""
    st.caption("Click a column to sort, a row to look closely at its layer; the toolbar searches and saves as CSV.")
    event = st.dataframe(
        as_table(model, tables),
        hide_index=True,
        height=420,
        placeholder="–",
        key="all-layers",
        on_select="rerun",
        selection_mode="single-row",
        alt="Every layer with its scores",
        column_config={
            **{name: st.column_config.NumberColumn(format="%.3g") for name in METRIC_NAMES.values()},
            **{
                f"± {name}": st.column_config.NumberColumn(format="%.2g", help="standard error")
                for name in METRIC_NAMES.values()
            },
            "rank": st.column_config.NumberColumn("Rank", help="1 is the most sensitive"),
            "90 %": st.column_config.TextColumn(help="middle 90 % of its ranks under resampling of the images"),
            "MMACs": st.column_config.NumberColumn(format="%.2f", help="million multiply-accumulates for one image"),
        },
    )
    rows = event.selection.rows  # type: ignore[attr-defined]
    if rows and st.session_state.get("all-layers-was") != rows[0]:
        st.session_state[place(study)] = model.layers[rows[0]].name
    st.session_state["all-layers-was"] = rows[0] if rows else None
    if rows:
        st.caption(f"**{model.layers[rows[0]].name}** is chosen: see the tab “One layer”.")


study = store.open_study(st.session_state["study"])
model = costs(study)
tables = {
    name: table for name in ("fisher", "lampq", "output", "harm", "random") if (table := sensitivity(study, name))
}

st.title("Sensitivity")
if model is None or not tables:
    st.info(
        "Nothing is measured yet. The analysis runs on the Study page; the first heatmap appears within a minute. Here "
        "you then see which layers suffer most, whether the metrics agree on it, how sure that is, and what a layer "
        "looks like when it is quantized.",
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

names = ["All layers", "Metrics compared", "How sure", "One layer", "One image"]
tabs = st.tabs(names, key="sensitivity-tabs", on_change="rerun")
with tabs[0]:
    if tabs[0].open:
        all_layers(model, tables)
with tabs[1]:
    if tabs[1].open:
        compared(model, tables, log)
with tabs[2]:
    if tabs[2].open:
        sureness(tables)
        if "lampq" in tables:
            type_factors(tables["lampq"])
with tabs[3]:
    if tabs[3].open:
        layer_panel(study, model)
with tabs[4]:
    if tabs[4].open:
        image_panel(study)
