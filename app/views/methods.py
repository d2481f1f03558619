"""The published systems side by side at equal budgets, and what the relevance of each layer and patch is."""

import pandas as pd
import plotly.graph_objects as go
import streamlit as st
from reading import float_evaluation

from lampq_engine import figures, store
from lampq_engine.errors import InputError
from lampq_engine.figures.style import axis, figure
from lampq_engine.files import read_json

study = store.open_study(st.session_state["study"])
COMMAND = f"python -m lampq_engine methods --study {study.name} --at 4"


def rows() -> list[dict[str, object]]:
    """Method, engine, budget and what was measured; a trial that is gone is left out."""
    if not study.has("methods.json"):
        return []
    found = []
    for row in read_json(study.path / "methods.json")["rows"]:
        try:
            trial = study.trial(row["trial"])
        except InputError:
            continue
        low, high = trial.evaluation.interval
        found.append(
            {
                "method": row["method"],
                "engine": row["engine"],
                "budget": row["mean_bits"],
                "top-1": trial.evaluation.top1,
                "low": low,
                "high": high,
                "drop": whole.top1 - trial.evaluation.top1 if whole else None,
                "images": trial.evaluation.images,
                "MB": trial.allocation.cost.megabytes,
                "GBOPs": trial.allocation.cost.gbops,
                "seconds": trial.seconds,
            }
        )
    return sorted(found, key=lambda row: (row["budget"], -float(row["top-1"])))


def intervals(found: list[dict[str, object]]) -> go.Figure:
    """One dot and interval for each method at one budget, best on top."""
    names = [f"{row['method']} ({row['engine']})" for row in found]
    trace = {
        "type": "scatter",
        "mode": "markers",
        "x": [row["top-1"] for row in found],
        "y": names,
        "error_x": {
            "type": "data",
            "symmetric": False,
            "array": [float(row["high"]) - float(row["top-1"]) for row in found],
            "arrayminus": [float(row["top-1"]) - float(row["low"]) for row in found],
        },
        "marker": {"size": 9},
        "hovertemplate": "%{y}: %{x:.1f} %<extra></extra>",
    }
    down = axis(type="category", autorange="reversed", automargin=True, fixedrange=True)
    across = axis("top-1 (%)", fixedrange=True)
    return figure([trace], height=110 + 26 * len(found), title="Top-1 with 95 % interval", xaxis=across, yaxis=down)


whole = float_evaluation(study)
found = rows()

st.title("Methods")
if not found:
    st.info("The methods have not been compared in this study yet. One command does:", icon=":material/terminal:")
    st.code(COMMAND, language="bash")
else:
    budgets = sorted({float(row["budget"]) for row in found})
    budget = st.segmented_control(
        "Mean bits", budgets, default=budgets[0], key="methods-budget", help="Mean weight and activation bits allowed."
    )
    chosen = [row for row in found if row["budget"] == (budget or budgets[0])]
    st.plotly_chart(intervals(chosen), key="methods-intervals", alt="Accuracy of every method with its interval")
    st.dataframe(
        pd.DataFrame(chosen),
        hide_index=True,
        alt="Every method at this budget",
        column_config={
            "engine": st.column_config.TextColumn(help="same: one quantizer for everyone; own: the paper's own"),
            "top-1": st.column_config.NumberColumn(format="%.1f %%", help="share of images classified rightly"),
            "low": st.column_config.NumberColumn(format="%.1f", help="lower end of the 95 % interval"),
            "high": st.column_config.NumberColumn(format="%.1f", help="upper end of the 95 % interval"),
            "drop": st.column_config.NumberColumn(format="%.1f", help="accuracy points below the float model"),
            "MB": st.column_config.NumberColumn(format="%.3f", help="size of the packed file"),
            "GBOPs": st.column_config.NumberColumn(format="%.3f", help="bit operations for one image"),
            "seconds": st.column_config.NumberColumn(format="%.0f", help="wall time to quantize and measure"),
        },
    )

st.subheader("Relevance", help="How much of a prediction passes through each layer and comes from each patch (LRP).")
if "lrp" in study.metrics:
    table = study.sensitivity("lrp")
    st.plotly_chart(
        figures.sensitivity_map(study.costs.layers, table), key="methods-lrp", alt="Relevance of every layer"
    )
    lost = float(table.notes.get("lost", 0.0))  # type: ignore[arg-type]
    st.caption(f"Shares of relevance over {table.images} images; at most {100 * lost:.4f} % is lost on the way.")
    pictures = sorted((study.path / "relevance").glob("*-map.png"))
    with st.container(horizontal=True):
        for path in pictures[:8]:
            st.image([str(path.with_name(path.name.replace("-map", ""))), str(path)], width=120)
else:
    st.caption("Relevance is not measured yet: `python -m lampq_engine analyse --study … --also lrp`.")
