"""What explains a position, drawn when a drag has ended: why a layer has its width, what changed, what it costs."""

from __future__ import annotations

from dataclasses import replace

import pandas as pd
import streamlit as st
from editors import change
from history import Ask, history
from reading import sensitivity, trials
from solving import Solver, solver

from lampq_engine import figures
from lampq_engine.allocate import UNITS
from lampq_engine.cost import CostModel
from lampq_engine.explain import Flip, Step, Why, flips
from lampq_engine.figures.names import BUDGET_NAMES, METRIC_SHORT, number, width
from lampq_engine.recipe import AllocationSpec, Budgets
from lampq_engine.store import Study
from lampq_engine.types import Allocation, Bits

PAIR = 400  # pixels: two things stand side by side where both can be this wide
BARE = {"displayModeBar": False}
HERE, BEFORE = "This position", "The last position"


def place(study: Study) -> str:
    """Under which key a session keeps the layer it looks at; the Sensitivity page looks at the same."""
    return f"layer-{study.name}"


def position(study: Study, ask: Ask) -> tuple[Solver, Budgets, Allocation]:
    """The solver of a position, budgets that can be met, and the allocation within them."""
    one = solver(study, ask.metric, ask.spec)
    here, complaint = one.solve(ask.spec.budgets)
    return one, one.nearest(ask.spec.budgets) if complaint else ask.spec.budgets, here


def why_of(study: Study, model: CostModel, ask: Ask) -> Why:
    """Why the layer in hand has its widths in a position."""
    one, budgets, here = position(study, ask)
    table = sensitivity(study, ask.metric)
    assert table is not None
    return one.why(table, budgets, here, layer_now(study, model))


def why_panel(study: Study, model: CostModel, ask: Ask) -> None:
    """For one layer: every width it may take at the solver's prices, and what one step up or down would do."""
    left, right = st.columns(2, gap="medium")
    with left:
        name = layer_box(study, model)
        found = why_of(study, model, ask)
        tied = f" (tied: {', '.join(found.layers)})" if len(found.layers) > 1 else ""
        st.markdown(f"**{name} has {words(found.bits)}**{tied}")
        st.markdown("\n".join(f"- {sentence}" for sentence in found.sentences))
        _prices(found)
        _pin_buttons(study, model, ask, found, name)
    with right:
        figure = figures.bill_bars(found)
        st.plotly_chart(figure, key="why", config=BARE, alt=f"Harm and price of every width of {name}; " + alt(found))
        st.caption(
            "Harm: of this layer at that width. Price of its bits: the harm that they would save in other layers. The "
            "solver wants the least sum."
        )
        _steps(found)


def layer_now(study: Study, model: CostModel) -> str:
    """The layer that the session looks at; at first the first one whose width is searched."""
    names = [layer.name for layer in model.layers]
    first = next((layer.name for layer in model.layers if layer.kind == "qkv"), names[0])
    found = st.session_state.setdefault(place(study), first)
    return str(found) if found in names else first


def layer_box(study: Study, model: CostModel) -> str:
    """The layer in hand, in a box to choose another; a box of its own for each, so that none shows an old choice."""
    names, now = [layer.name for layer in model.layers], layer_now(study, model)
    chosen = st.selectbox(
        "Layer",
        names,
        index=names.index(now),
        key=f"pick-{study.name}-{now}",
        help="Choose it here or in the map above; type to search.",
    )
    if chosen != now:
        st.session_state[place(study)] = chosen
        st.rerun()  # the map marks it
    return chosen


def alt(found: Why) -> str:
    return "; ".join(f"{o.bits}: harm {o.harm:.3g}, price {o.bill:.3g}" for o in found.options)


def words(bits: Bits) -> str:
    weights, activations = width(bits.weights), width(bits.activations)
    return f"{weights} bits" if weights == activations else f"{weights} weight and {activations} activation bits"


def _prices(found: Why) -> None:
    paid = [f"{number(price)} {found.unit} per {_unit(b)}" for b, price in found.prices.items() if price > 0]
    st.caption(
        f"The solver's price now: {' and '.join(paid)}" if paid else "Nothing has a price: no budget binds.",
        help="Shadow price: how much harm the whole model would save with one more unit of the budget. A bit is worth "
        "its place where it saves more harm than its cost at this price. It is the dual of the linear relaxation.",
    )


def _unit(budget: str) -> str:
    return BUDGET_NAMES[budget].lower().removesuffix("s") if budget.startswith("mean") else UNITS[budget].rstrip("s")


def _pin_buttons(study: Study, model: CostModel, ask: Ask, found: Why, name: str) -> None:
    """Hold the layer where it is, or a step away, or let it go."""
    with st.container(horizontal=True):
        for bits in dict.fromkeys([found.bits, *(step.to for step in (*found.narrower, *found.wider))]):
            keep_at = {"on_click": _pin, "args": (study, model, name, bits)}
            st.button(f"Pin at {bits}", key=f"pin-{bits}", icon=":material/keep:", **keep_at)
        if name in ask.spec.pins:
            let_go = {"on_click": _pin, "args": (study, model, name, None)}
            st.button("Unpin", key="unpin", icon=":material/keep_off:", **let_go)


def _pin(study: Study, model: CostModel, name: str, bits: Bits | None) -> None:
    def lay(spec: AllocationSpec) -> AllocationSpec:
        pins = {layer: pin for layer, pin in spec.pins.items() if layer != name}
        return replace(spec, pins=pins | ({name: bits} if bits else {}))

    change(study, model, lay, redraw=True)
    st.session_state["redraw"] = True


def _steps(found: Why) -> None:
    rows = [_step_row(step) for step in (*found.narrower, *found.wider)]
    if not rows:
        return
    st.dataframe(
        pd.DataFrame(rows),
        hide_index=True,
        alt="One step less and one step more",
        column_config={
            "to": st.column_config.TextColumn("Instead", help="weights/activations"),
            "harm": st.column_config.NumberColumn("Own harm", format="%+.3g", help="change of this layer's harm"),
            "worth": st.column_config.NumberColumn(
                "Cost at price", format="%+.3g", help="change of its cost times the solver's price, in harm"
            ),
            "forced": st.column_config.NumberColumn(
                "Harm if forced",
                format="%+.3g",
                help="change of the whole model's harm if this layer had these widths and the solver did its best "
                "with the others; solved exactly, empty where the budgets cannot be met",
            ),
        },
    )


def _step_row(step: Step) -> dict[str, object]:
    return {"to": str(step.to), "harm": step.harm, "worth": step.bill, "forced": step.forced}


def changes_panel(study: Study, model: CostModel, ask: Ask) -> None:
    """Which layers differ between two allocations: positions of this session, or trials."""
    past, measured = history(study), {trial.title or trial.id: trial for trial in trials(study)}
    assert past is not None
    names = [BEFORE, HERE, *reversed(measured)]
    left, right = st.columns(2)
    first = left.selectbox("From", names, key=f"from-{study.name}", help="the allocation to start from")
    second = right.selectbox("To", names, index=1, key=f"to-{study.name}", help="the allocation to compare it with")

    def bits_of(name: str) -> dict[str, Bits]:
        if name in measured:
            return dict(measured[name].allocation.bits)
        return dict(position(study, past.previous or ask if name == BEFORE else ask)[2].bits)

    if BEFORE in (first, second) and past.previous is None:
        st.caption("There is no last position yet: move a slider, change a pin or a menu.")
        return
    found = flips(bits_of(first), bits_of(second), costs=model, sensitivity=sensitivity(study, ask.metric))
    st.markdown(summary(found, METRIC_SHORT[ask.metric]))
    if found:
        st.dataframe(pd.DataFrame(map(_flip_row, found)), hide_index=True, alt=summary(found, ""), height=300)


def summary(found: list[Flip], metric: str) -> str:
    """How many layers flip, and what that does in all."""
    if not found:
        return "Every layer has the same widths in both."
    up = sum(sum(flip.after) > sum(flip.before) for flip in found)
    harm = sum(flip.harm for flip in found)
    told = "" if harm != harm else f", {harm:+.3g} harm ({metric})"
    megabytes, gbops = sum(flip.megabytes for flip in found), sum(flip.gbops for flip in found)
    return (
        f"**{len(found)} layers flip**: {up} get more bits, {len(found) - up} fewer; "
        f"{megabytes:+.3f} MB, {gbops:+.3g} GBOPs{told}."
    )


def _flip_row(flip: Flip) -> dict[str, object]:
    return {
        "layer": flip.layer.name,
        "from": str(flip.before),
        "to": str(flip.after),
        "harm": f"{flip.harm:+.3g}" if flip.harm == flip.harm else "–",
        "MB": f"{flip.megabytes:+.4f}",
        "GBOPs": f"{flip.gbops:+.4f}",
    }


def cost_panel(study: Study, model: CostModel, ask: Ask) -> None:
    """Megabytes and GBOPs by kind of layer."""
    here = position(study, ask)[2]
    figure = figures.cost_bars(model, here.bits)
    st.plotly_chart(figure, key="costs", config=BARE, alt="Megabytes and GBOPs by kind of layer")
