"""The tables in which a person steers the solver: menus by kind, and pins and ties of any kind or layer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pandas as pd
import streamlit as st
from history import History, keep
from history import history as history_of

from lampq_engine.cost import CostModel
from lampq_engine.errors import InputError
from lampq_engine.figures.names import KIND_HELP, KIND_NAMES
from lampq_engine.plain import help_of
from lampq_engine.problem import options
from lampq_engine.recipe import TIES, AllocationSpec, Menu
from lampq_engine.store import Study
from lampq_engine.types import FLOAT_BITS, KINDS, Bits, Kind

WIDTHS = [*map(str, range(1, 9)), "float"]
PRESETS = {
    "2 to 8": (2, 3, 4, 5, 6, 7, 8),
    "hardware: 4, 8": (4, 8),
    "4, 8 or float": (4, 8, FLOAT_BITS),
    "float": (FLOAT_BITS,),
}
TIE_NAMES = {
    "qkv": "q, k, v of a block",
    "attention": "qkv with proj",
    "mlp": "fc1 with fc2",
    "residual": "proj with fc2 (residual)",
    "block": "whole block",
}
Change = Callable[[AllocationSpec], AllocationSpec]


def change(study: Study, model: CostModel, how: Change, *, redraw: bool) -> None:
    """Lay a change over the position in hand; one that the model refuses is said and leaves it as it was."""
    past = history_of(study)
    assert past is not None
    try:
        spec = how(past.now.spec)
        options(model.layers, spec)
    except InputError as error:
        st.session_state[f"refused-{study.name}"] = str(error)
        keep(study, past.redrawn())
        return
    st.session_state.pop(f"refused-{study.name}", None)
    keep(study, past.changed(replace(past.now, spec=spec), redraw=redraw))


def menus_editor(study: Study, model: CostModel, past: History) -> None:
    """One table of menus, a row for each kind of layer of the model, and presets for the searched kinds."""
    tied, kinds = past.shown.tied, kinds_of(model)
    rows = [
        {
            "kind": KIND_NAMES[kind],
            "weights": list(map(_word, past.shown.spec.menu(kind).weights)),
            "activations": list(map(_word, past.shown.spec.menu(kind).activations)),
            "what": KIND_HELP[kind],
        }
        for kind in kinds
    ]
    help_menu = "the widths a layer of this kind may take; one alone means fixed, `float` leaves it unquantized"
    key = f"menus-{study.name}-{past.revision}"
    st.data_editor(
        pd.DataFrame(rows),
        hide_index=True,
        key=key,
        on_change=_menus_edited,
        args=(study, model, key, kinds),
        disabled=["kind", "what"],
        column_order=["kind", "weights", "what"] if tied else ["kind", "weights", "activations", "what"],
        alt="Allowed widths by kind of layer",
        column_config={
            "kind": st.column_config.TextColumn("Kind", width="small"),
            "what": st.column_config.TextColumn("What it does"),
            "weights": st.column_config.MultiselectColumn(
                "Weights and activations" if tied else "Weights", options=WIDTHS, help=help_menu, width="large"
            ),
            "activations": st.column_config.MultiselectColumn(
                "Activations", options=WIDTHS, help=help_menu, width="large"
            ),
        },
    )
    with st.container(horizontal=True, vertical_alignment="center"):
        st.caption("All searched kinds at once:", width="content")
        for name, widths in PRESETS.items():
            st.button(name, key=f"preset-{name}", on_click=_preset, args=(study, model, widths))


def _preset(study: Study, model: CostModel, widths: tuple[int, ...]) -> None:
    def lay(spec: AllocationSpec) -> AllocationSpec:
        searched = [kind for kind in kinds_of(model) if kind in ("qkv", "proj", "fc1", "fc2", "merge")]
        return replace(
            spec,
            menus=spec.menus
            | {kind: replace(spec.menu(kind), weights=widths, activations=widths) for kind in searched},
        )

    change(study, model, lay, redraw=True)


def _menus_edited(study: Study, model: CostModel, key: str, kinds: list[Kind]) -> None:
    past = history_of(study)
    assert past is not None
    edits = st.session_state[key]["edited_rows"]

    def lay(spec: AllocationSpec) -> AllocationSpec:
        menus = dict(spec.menus)
        for index, cells in edits.items():
            kind = kinds[int(index)]
            old = past.shown.spec.menu(kind)
            weights = _widths(cells.get("weights"), old.weights)
            other = weights if past.now.tied else _widths(cells.get("activations"), old.activations)
            menus[kind] = Menu(weights, other, old.tied)
        return replace(spec, menus=menus)

    change(study, model, lay, redraw=False)


def _widths(words: list[str] | None, old: tuple[int, ...]) -> tuple[int, ...]:
    return old if words is None else tuple(sorted(map(_bits, words)))


def pins_editor(study: Study, model: CostModel, past: History) -> None:
    """One table in which any kind or layer is held at chosen widths, or tied to others."""
    rows, spec = targets(model), past.shown.spec
    labels = _labels(spec)
    table = [
        {"layer": name, "block": block, "weights": None, "activations": None, "tie": ""}
        | _pinned(model, spec, name, kind)
        | {"tie": labels.get(name, "")}
        for name, kind, block in rows
    ]
    key = f"pins-{study.name}-{past.revision}"
    widths = [*range(1, 9), FLOAT_BITS]
    st.data_editor(
        pd.DataFrame(table).astype({"block": "Int64", "weights": "Int64", "activations": "Int64"}),
        hide_index=True,
        key=key,
        on_change=_pins_edited,
        args=(study, model, key),
        placeholder="–",
        height=330,
        disabled=["layer", "block"],
        alt="Widths that the solver must keep, and ties, by kind and by layer",
        column_config={
            "layer": st.column_config.TextColumn("Kind or layer", width=150, help="press Ctrl+F to search"),
            "block": st.column_config.NumberColumn("Block", width=50),
            "weights": st.column_config.SelectboxColumn(
                "Weights", width=75, options=widths, help="held at this width; 32 leaves it in float; empty: free"
            ),
            "activations": st.column_config.SelectboxColumn(
                "Activations", width=85, options=widths, help="empty: the same as the weight bits"
            ),
            "tie": st.column_config.TextColumn(
                "Tie", width=50, help="layers with the same letter take the same widths", max_chars=12
            ),
        },
    )


def targets(model: CostModel) -> list[tuple[str, Kind, int | None]]:
    """The rows of the table: every kind, then every layer."""
    kinds: list[tuple[str, Kind, int | None]] = [(f"all {KIND_NAMES[kind]}", kind, None) for kind in kinds_of(model)]
    return kinds + [(layer.name, layer.kind, layer.block) for layer in model.layers]


def _pinned(model: CostModel, spec: AllocationSpec, name: str, kind: Kind) -> dict[str, Any]:
    """The pin of a layer, or the one that all layers of a kind share."""
    names = [layer.name for layer in model.layers if layer.kind == kind] if name.startswith("all ") else [name]
    found = {spec.pins.get(one) for one in names}
    pin = found.pop() if len(found) == 1 else None
    return {"weights": pin.weights, "activations": pin.activations} if pin else {}


def _pins_edited(study: Study, model: CostModel, key: str) -> None:
    edits, rows = st.session_state[key]["edited_rows"], targets(model)
    past = history_of(study)
    assert past is not None
    kinds = any(rows[int(index)][0].startswith("all ") for index in edits)
    labels = _labels(past.shown.spec)

    def lay(spec: AllocationSpec) -> AllocationSpec:
        pins = dict(spec.pins)
        for index, cells in sorted(edits.items(), key=lambda item: int(item[0])):
            name, kind, _ = rows[int(index)]
            old = _pinned(model, past.shown.spec, name, kind)
            weights = cells.get("weights", old.get("weights"))
            activations = cells.get("activations", old.get("activations"))
            if "tie" in cells:
                labels[name] = (cells["tie"] or "").strip()
            if "weights" not in cells and "activations" not in cells:
                continue
            if "weights" in cells and "activations" not in cells and old.get("weights") == old.get("activations"):
                activations = weights
            for one in [x.name for x in model.layers if x.kind == kind] if name.startswith("all ") else [name]:
                _lay_pin(pins, one, weights, activations)
        return replace(spec, pins=pins, ties=(*_rules(spec), *_tied(model, labels)))

    change(study, model, lay, redraw=kinds)


def _lay_pin(pins: dict[str, Bits], name: str, weights: int | None, activations: int | None) -> None:
    first = weights if weights is not None else activations
    if first is None:
        pins.pop(name, None)
    else:
        pins[name] = Bits(int(first), int(first if activations is None else activations))


def _rules(spec: AllocationSpec) -> tuple[str, ...]:
    return tuple(tie for tie in spec.ties if isinstance(tie, str))


def _labels(spec: AllocationSpec) -> dict[str, str]:
    """A letter for each tie of single layers."""
    own = [tie for tie in spec.ties if not isinstance(tie, str)]
    return {name: chr(ord("A") + index % 26) for index, tie in enumerate(own) for name in tie}


def _tied(model: CostModel, labels: Mapping[str, str]) -> list[tuple[str, ...]]:
    """Layers that carry the same label, as ties; a kind's label is that of all its layers."""
    groups: dict[str, list[str]] = {}
    for name, kind, _ in targets(model):
        if label := labels.get(name):
            names = [x.name for x in model.layers if x.kind == kind] if name.startswith("all ") else [name]
            groups.setdefault(label, []).extend(names)
    return [tuple(dict.fromkeys(names)) for names in groups.values() if len(set(names)) > 1]


def ties_editor(study: Study, model: CostModel, past: History) -> None:
    """Rules that tie layers of every block."""
    key = f"ties-{study.name}-{past.revision}"
    st.pills(
        "Ties in every block",
        list(TIES),
        selection_mode="multi",
        wrap=True,
        default=list(_rules(past.shown.spec)),
        format_func=TIE_NAMES.__getitem__,
        key=key,
        on_change=_ties_chosen,
        args=(study, model, key),
        help=help_of(AllocationSpec, "ties").capitalize() + ". For single layers, type the same letter in the column "
        "Tie of the table of pins.",
    )


def _ties_chosen(study: Study, model: CostModel, key: str) -> None:
    chosen = tuple(st.session_state[key] or ())

    def lay(spec: AllocationSpec) -> AllocationSpec:
        return replace(spec, ties=(*chosen, *(tie for tie in spec.ties if not isinstance(tie, str))))

    change(study, model, lay, redraw=False)


def kinds_of(model: CostModel) -> list[Kind]:
    return [kind for kind in KINDS if any(layer.kind == kind for layer in model.layers)]


def _word(bits: int) -> str:
    return "float" if bits == FLOAT_BITS else str(bits)


def _bits(word: str) -> int:
    return FLOAT_BITS if word == "float" else int(word)
