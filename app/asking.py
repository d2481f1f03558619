"""What is asked of the solver, as a session chose it: metric, menus, pins, budgets; and the recipe of it."""

from __future__ import annotations

from dataclasses import replace

import pandas as pd
import streamlit as st
from reading import analysis

from lampq_engine import jobs
from lampq_engine.cost import CostModel
from lampq_engine.errors import InputError
from lampq_engine.figures.names import BUDGET_NAMES, KIND_HELP, KIND_NAMES
from lampq_engine.files import write_bytes
from lampq_engine.plain import from_plain, help_of
from lampq_engine.recipe import AllocationSpec, Budgets, Menu, Recipe, SensitivitySpec, default_menus, to_toml
from lampq_engine.store import Study
from lampq_engine.types import FLOAT_BITS, KINDS, Bits, Kind, Layer

WIDTHS = [*map(str, range(1, 9)), "float"]


def menus_editor(model: CostModel, tied: bool) -> dict[Kind, Menu]:
    """One table of menus, a row for each kind of layer of the model."""
    kinds = [kind for kind in KINDS if any(layer.kind == kind for layer in model.layers)]
    start = default_menus()
    rows = [
        {
            "kind": KIND_NAMES[kind],
            "what": KIND_HELP[kind],
            "weights": [_word(bits) for bits in start[kind].weights],
            "activations": [_word(bits) for bits in start[kind].activations],
        }
        for kind in kinds
    ]
    help_tied = "the widths a layer of this kind may take; one alone means fixed, `float` leaves it unquantized"
    edited = st.data_editor(
        pd.DataFrame(rows),
        hide_index=True,
        key=f"menus-{tied}",
        disabled=["kind", "what"],
        column_order=["kind", "weights", "what"] if tied else ["kind", "weights", "activations", "what"],
        alt="Allowed widths by kind of layer",
        column_config={
            "kind": st.column_config.TextColumn("Kind", width="small"),
            "what": st.column_config.TextColumn("What it does"),
            "weights": st.column_config.MultiselectColumn(
                "Weights and activations" if tied else "Weights", options=WIDTHS, help=help_tied, width="large"
            ),
            "activations": st.column_config.MultiselectColumn(
                "Activations", options=WIDTHS, help=help_tied, width="large"
            ),
        },
    )
    return {kind: _menu(row, tied) for kind, row in zip(kinds, edited.to_dict("records"), strict=True)}


def _menu(row: dict[str, list[str]], tied: bool) -> Menu:
    weights = tuple(sorted(map(_bits, row["weights"])))
    return Menu(weights, weights if tied else tuple(sorted(map(_bits, row["activations"]))), tied)


def pins_editor(layers: list[Layer]) -> dict[str, Bits]:
    """One table of layers in which a layer can be held at chosen widths."""
    rows = [
        {"layer": layer.name, "kind": KIND_NAMES[layer.kind], "weights": None, "activations": None} for layer in layers
    ]
    options = [*range(1, 9), FLOAT_BITS]
    edited = st.data_editor(
        pd.DataFrame(rows).astype({"weights": "Int64", "activations": "Int64"}),
        hide_index=True,
        key="pins",
        placeholder="–",
        height=320,
        disabled=["layer", "kind"],
        alt="Widths of single layers that the solver must keep",
        column_config={
            "layer": st.column_config.TextColumn("Layer"),
            "kind": st.column_config.TextColumn("Kind", width="small"),
            "weights": st.column_config.SelectboxColumn("Weight bits", options=options, help="32 leaves it in float"),
            "activations": st.column_config.SelectboxColumn(
                "Activation bits", options=options, help="empty: the same as the weight bits"
            ),
        },
    )
    pinned = {}
    for row in edited.to_dict("records"):
        weights, activations = row["weights"], row["activations"]
        if pd.notna(weights) or pd.notna(activations):
            first = int(weights if pd.notna(weights) else activations)
            pinned[row["layer"]] = Bits(first, int(activations) if pd.notna(activations) else first)
    return pinned


def other_budgets(driven: str, tied: bool) -> Budgets:
    """Further budgets that must hold at the same time, each empty until typed."""
    names = [name for name in BUDGET_NAMES if name != driven and not (tied and name == "mean_activation_bits")]
    values = {}
    for column, name in zip(st.columns(len(names)), names, strict=True):
        with column:
            values[name] = st.number_input(
                f"{BUDGET_NAMES[name]} at most",
                min_value=0.0,
                value=None,
                placeholder="no limit",
                key=f"other-{name}",
                persist_state="session",
                help=help_of(Budgets, name),
            )
    return Budgets(**{name: value for name, value in values.items() if value})


def recipe_of(study: Study, metric: str, spec: AllocationSpec, title: str) -> Recipe:
    """The recipe of an allocation, tied to the very weights it was made for."""
    known = analysis(study)
    model = replace(study.model, hash=str(known.get("weights_hash", "")))
    settings = from_plain(SensitivitySpec, known.get("sensitivity", {}), "analysis.json: sensitivity")
    sensitivity = replace(settings, metric=metric)
    return Recipe(
        title=title, source="our choice", model=model, data=study.data, sensitivity=sensitivity, allocation=spec
    )


def request(study: Study, command: str, recipe: Recipe, title: str) -> None:
    """Start `quantize` or `controls` for a recipe, which is kept in the study as a file."""
    path = study.path / "requests" / f"{recipe.hash}.toml"
    try:
        write_bytes(path, to_toml(recipe).encode())
        jobs.start(study, [command, "--study", study.name, "--recipe", str(path)], title=title)
    except (InputError, OSError) as error:
        st.toast(str(error), icon=":material/error:")


def _word(bits: int) -> str:
    return "float" if bits == FLOAT_BITS else str(bits)


def _bits(word: str) -> int:
    return FLOAT_BITS if word == "float" else int(word)
