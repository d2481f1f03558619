"""Drag a budget and see, at once, the bits that every layer gets for it; ask why; then make it real and measure it."""

from collections.abc import Callable, Collection
from dataclasses import replace

import streamlit as st
from asking import recipe_of, request
from bit_map import bit_map, layout_of
from bit_map import picked as layer_picked
from editors import kinds_of, menus_editor, pins_editor, ties_editor
from facts import fact
from frontier_line import frontier_line
from frontier_line import picked as budget_picked
from history import Ask, History, history, keep
from panels import PAIR, changes_panel, cost_panel, layer_now, place, position, why_of, why_panel, words
from reading import costs, float_evaluation, sensitivity, trials
from slider import DIGITS, Dial, Moves, budget_slider, ceil_to
from solving import Solver, bound_by, frontier, solver

from lampq_engine import figures, store
from lampq_engine.allocate import UNITS
from lampq_engine.errors import InputError
from lampq_engine.explain import Slack, flips, slacks
from lampq_engine.figures.names import (
    BUDGET_NAMES,
    KIND_HELP,
    KIND_NAMES,
    METRIC_HELP,
    METRIC_NAMES,
    METRIC_SHORT,
    number,
)
from lampq_engine.frontier import spans
from lampq_engine.plain import help_of
from lampq_engine.recipe import AllocationSpec, Budgets
from lampq_engine.types import Allocation

study = store.open_study(st.session_state["study"])
model = costs(study)
metrics = [name for name in ("lampq", "fisher", "output", "harm", "random") if sensitivity(study, name)]


def begin() -> History:
    """The position in hand; at first a mean of bits at a quarter of its range."""
    past = history(study)
    if past is None:
        program = solver(study, metrics[0], AllocationSpec()).program
        least, most = program.least["mean_bits"], program.most["mean_bits"]
        start = Budgets(mean_bits=round(least + 0.25 * (most - least), 2))
        past = History.of(Ask(metrics[0], AllocationSpec(budgets=start)))
    if past.now.metric not in metrics:
        past = History.of(replace(past.now, metric=metrics[0]))
    keep(study, past)
    return past


def now() -> History:
    past = history(study)
    assert past is not None
    return past


def budget_now(name: str, value: float | None) -> Ask:
    """The position with one budget changed; the frontier then runs along it."""
    if value is not None:
        st.session_state["driven-budget"] = name
    ask = now().now
    return replace(ask, spec=replace(ask.spec, budgets=replace(ask.spec.budgets, **{name: value})))


def moved(name: str, value: float) -> None:
    keep(study, now().moved(budget_now(name, value)))


def settled() -> None:
    """A drag has ended: what does not follow it is drawn anew."""
    keep(study, now().settle())
    st.session_state["redraw"] = True


def typed(name: str, value: float) -> None:
    """A number was typed, or emptied: the thumb follows."""
    keep(study, now().changed(budget_now(name, value or None)))
    pull(name)


def switched(name: str, on: bool) -> None:
    """A budget was switched on, at what is used now, or off."""
    spent = st.session_state.get(f"spent-{study.name}", {}).get(name)
    keep(study, now().changed(budget_now(name, ceil_to(spent, DIGITS[name]) if on and spent else None)))
    pull(name)


def pull(name: str) -> None:
    """Let the thumb of a slider go where its budget is, and what does not follow a drag be drawn anew."""
    st.session_state["redraw"] = True
    st.session_state[f"pulled-{key_of(name)}"] = st.session_state.get(f"pulled-{key_of(name)}", 0) + 1


def key_of(name: str) -> str:
    return f"budget-{study.name}-{name}"


def cards(one: Solver, ask: Ask, rooms: dict[str, Slack], together: Collection[str]) -> None:
    """A card for each budget: on or off, slider and number, range, what is used, and whether it binds."""
    names = [name for name in BUDGET_NAMES if not (ask.tied and name == "mean_activation_bits")]
    with st.grid(len(names), min_column_width=195):
        for name in names:
            with st.container(border=True, gap="xsmall", height="stretch"):
                card(one, ask, rooms[name], together)


def card(one: Solver, ask: Ask, room: Slack, together: Collection[str]) -> None:
    name, key = room.budget, key_of(room.budget)
    value = getattr(ask.spec.budgets, name)
    dial = Dial(
        budget=name,
        low=one.floor[name],
        high=room.most,
        floor=room.least,
        reason=f"{room.least:.4g} to {room.most:.4g} {UNITS[name]} can be met; pins and ties forbid less"
        if room.least > one.floor[name] * (1 + 1e-9)
        else f"{room.least:.4g} to {room.most:.4g} {UNITS[name]} can be met",
        value=value,
        spent=room.spent,
        binds=room.binds or name in together,
        revision=f"{now().revision} {st.session_state.get(f'pulled-{key}', 0)}",
    )
    moves = Moves(lambda to: moved(name, to), settled, lambda to: typed(name, to), lambda on: switched(name, on))
    budget_slider(dial, moves, key=f"slider-{key}")


def show_numbers(here: Allocation, unit: str) -> None:
    """What the allocation costs and how the solver went; `unit` is that of the harm."""
    assert model is not None
    whole, cost, solution = model.cost({}), here.cost, here.solution
    with st.grid(5, min_column_width=150):
        fact(
            "Mean bits",
            f"{cost.mean_bits:.2f}",
            f"{cost.mean_activation_bits:.2f} activations",
            help="Mean weight width over the blocks' linear layers, weighted by their number of weights.",
        )
        fact(
            "Packed file",
            f"{cost.megabytes:.3f} MB",
            f"{whole.megabytes / cost.megabytes:.1f}x smaller",
            help="Size of the file that is written: codes, scales, zero points, and everything that stays in float.",
        )
        fact(
            "Compute",
            f"{cost.gbops:.3g} GBOPs",
            f"{whole.gbops / cost.gbops:.0f}x fewer",
            help=help_of(Budgets, "gbops").capitalize() + ".",
        )
        fact(
            "Predicted harm",
            number(solution.harm),
            f"{unit.split(',')[0].split()[-1]}, bound {number(solution.bound)}",
            help="Sum over the layers of the metric's harm at their widths: what the solver makes as small as it can. "
            "The bound is proven: no allocation within the budget harms less. It ranks allocations under one metric; "
            "what accuracy they cost, only “Quantize and measure” tells.",
        )
        fact(
            "Solver",
            solution.status,
            f"gap {100 * solution.gap if solution.gap > 1e-9 else 0:.2g} % · {solution.milliseconds:.0f} ms",
            help="`optimal`: proven to be the best. The gap is the distance between harm and its proven bound.",
        )


@st.fragment
def live() -> None:
    """Everything that follows a slider; only this is drawn anew while it moves."""
    assert model is not None
    if st.session_state.pop("redraw", False):
        st.rerun()
    past = now()
    ask = past.now
    try:
        one = solver(study, ask.metric, ask.spec)
    except InputError as error:
        st.error(str(error))
        return
    here, complaint = one.solve(ask.spec.budgets)
    st.session_state[f"spent-{study.name}"] = {name: getattr(here.cost, name) for name in UNITS}
    together = () if complaint else bound_by(one.program, ask.spec.budgets, here)
    cards(one, ask, slacks(one.program, ask.spec.budgets, here), together)
    st.caption(
        f":red[:material/block:] {complaint} Shown is the nearest one that can be met."
        if complaint
        else limited(here, together),
        help="The budgets that keep some layer from a less harmful width.",
    )
    show_numbers(here, unit_of(ask))
    with st.grid(2, min_column_width=PAIR):
        with st.container(key="bits", gap="xsmall"):
            st.markdown("**Bits of each layer**", help=map_help())
            show_bits(past, here)
        with st.container(key="frontier", gap="xsmall"):
            show_frontier(one, ask, here)


def map_help() -> str:
    assert model is not None
    kinds = "\n".join(f"- **{KIND_NAMES[kind]}**: {KIND_HELP[kind]}" for kind in kinds_of(model))
    return f"Columns are blocks of the model, rows are kinds of layers; `outside` are those in no block.\n{kinds}"


def limited(here: Allocation, together: Collection[str]) -> str:
    names = [BUDGET_NAMES[b].lower().replace("gbops", "GBOPs") for b in (here.solution.binding or together)]
    if not names:
        return "No budget limits it: every layer has its best width."
    return f"Limited by {' and '.join(names)}" + (" together." if together else ".")


@st.fragment
def explained() -> None:
    """What explains the position; drawn when a drag has ended, or when another tab or layer is chosen."""
    if st.session_state.pop("redraw", False):
        st.rerun()
    names = ["Why this width", "What changed", "Cost by kind of layer"]
    tabs = st.tabs(names, key="panels", on_change="rerun")
    try:
        for tab, panel in zip(tabs, (why_panel, changes_panel, cost_panel), strict=True):
            with tab:
                if tab.open:
                    panel(study, model, now().settled)
    except InputError:
        return  # said already, above


def show_bits(past: History, here: Allocation) -> None:
    assert model is not None
    before = position(study, past.settled if past.now != past.settled else past.previous or past.settled)[2]
    bit_map(
        layout_of(model.layers),
        here.bits,
        chosen=layer_now(study, model),
        pinned=past.now.spec.pins,
        changed=[flip.layer.name for flip in flips(before.bits, here.bits, costs=model)],
        told=told(past),
        on_pick=layer_chosen,
        key="bit-map",
    )


def told(past: History) -> str:
    """The first answer to why the chosen layer has its width, under the map; the rest is in the panel below."""
    assert model is not None
    if past.now != past.settled:
        return ""
    found = why_of(study, model, past.now)
    return f"{layer_now(study, model)} has {words(found.bits)}. {found.sentences[0]}"


def layer_chosen() -> None:
    if name := layer_picked("bit-map"):
        st.session_state[place(study)] = name
        st.session_state["redraw"] = True


def driven(ask: Ask) -> str:
    """The budget that the frontier runs along: the last one that was moved."""
    given = ask.spec.budgets.given()
    last = st.session_state.get("driven-budget", "mean_bits")
    return last if last in given or not given else next(iter(given))


def unit_of(ask: Ask) -> str:
    table = sensitivity(study, ask.metric)
    assert table is not None
    return table.unit


def show_frontier(one: Solver, ask: Ask, here: Allocation) -> None:
    """The least harm along the driven budget, the others held."""
    name = driven(ask)
    curve = frontier(study, ask.metric, ask.spec, name, ask.spec.budgets)
    low, high = one.floor[name], one.program.most[name]
    st.markdown(
        f"**Frontier along {BUDGET_NAMES[name].replace('M', 'm')}**",
        help="Least predicted harm at every value of the budget that was moved last, the others held. Each point is an "
        "exact solution. Click into it to go there.",
    )
    frontier_line(
        curve.ordered(),
        spans(curve.ordered(), name, low, high) if curve.done else [],
        here,
        budget=name,
        unit=unit_of(ask),
        low=low,
        high=high,
        on_pick=lambda: clicked(name),
        key=f"frontier-{name}",
    )


def clicked(name: str) -> None:
    if value := budget_picked(f"frontier-{name}"):
        keep(study, now().changed(budget_now(name, round(value, DIGITS[name]))))
        pull(name)


def actions() -> None:
    """Make the allocation real, or its controls, as a job beside the page; undo and redo."""
    st.button(
        "Quantize and measure",
        type="primary",
        icon=":material/bolt:",
        on_click=start,
        args=("quantize", "Quantize"),
        help="Quantize the model to these bits, measure its accuracy on the validation images, write the file.",
    )
    st.button(
        "Run controls",
        icon=":material/rule:",
        on_click=start,
        args=("controls", "Controls"),
        help="Measure uniform 2, 3, 4, 6 and 8 bits, and random and inverted scores at this budget: what the "
        "chosen metric has to beat.",
    )
    step("Undo", ":material/undo:", History.undone)
    step("Redo", ":material/redo:", History.redone)


def start(command: str, verb: str) -> None:
    """Start a command for the position in hand; budgets that nothing meets are said and start nothing."""
    ask = now().now
    limits = ask.spec.budgets.given()
    title = f"{METRIC_SHORT[ask.metric]} at " + (
        ", ".join(f"{value:g} {UNITS[name]}" for name, value in limits.items()) or "no budget"
    )
    try:
        complaint = solver(study, ask.metric, ask.spec).solve(ask.spec.budgets)[1]
    except InputError as error:
        complaint = str(error)
    if complaint:
        st.toast(complaint, icon=":material/block:")
        return
    request(study, command, recipe_of(study, ask.metric, ask.spec, title), f"{verb}: {title}")


def step(label: str, icon: str, way: Callable[[History], History]) -> None:
    """A button that goes one position back or forth."""
    st.button(
        label,
        icon=icon,
        disabled=way(now()) == now(),
        on_click=lambda: keep(study, way(now())),
        help=f"{label}: sliders, pins, menus, ties and the metric, one step at a time.",
    )


def wait_for_frontier() -> None:
    """Draw the page anew once the frontier, which fills up in the background, is whole."""
    ask = now().now
    try:
        line = frontier(study, ask.metric, ask.spec, driven(ask), ask.spec.budgets)
    except InputError:
        return  # said already, above
    drawn = line.progress

    def look() -> None:
        latest = now()
        if latest.now == latest.settled and line.progress > drawn:
            st.rerun()

    if not line.done:
        st.fragment(look, run_every=0.5)()


def metric_chosen() -> None:
    keep(study, now().changed(replace(now().now, metric=st.session_state["metric"])))


def tied_chosen() -> None:
    spec, tied = now().now.spec, st.session_state["tied"] == "tied"
    menus = {kind: replace(menu, tied=tied) for kind, menu in spec.menus.items()}
    budgets = replace(spec.budgets, mean_activation_bits=None) if tied else spec.budgets
    keep(study, now().changed(replace(now().now, spec=replace(spec, menus=menus, budgets=budgets)), redraw=True))


st.title("Allocation")
if model is None or not metrics:
    st.info(
        "The solver needs sensitivities, and the analysis has not measured them yet. When it has, you set budgets on "
        "sliders here, pin the layers you insist on, ask why a layer got its bits, and measure the result.",
        icon=":material/hourglass_empty:",
    )
    st.page_link("views/study.py", label="Watch the analysis", icon=":material/arrow_forward:")
    st.stop()

past = begin()
with st.container(horizontal=True, vertical_alignment="bottom", gap="medium"):
    st.session_state["metric"] = past.now.metric
    st.segmented_control(
        "The solver minimises",
        metrics,
        required=True,
        format_func=METRIC_SHORT.__getitem__,
        key="metric",
        on_change=metric_chosen,
        help="\n".join(f"- **{METRIC_NAMES[name]}**: {METRIC_HELP[name]}" for name in metrics),
    )
    st.session_state["tied"] = "tied" if past.now.tied else "free"
    st.segmented_control(
        "Weights and activations",
        ["tied", "free"],
        required=True,
        key="tied",
        on_change=tied_chosen,
        help="Tied: a layer's weights and activations take the same width, as in LampQ. Free: each takes its own.",
    )
with st.container(horizontal=True, vertical_alignment="center"):
    actions()
live()
wait_for_frontier()
explained()

st.subheader("Pins, ties and menus", help="What the solver may do. Every change is solved at once and can be undone.")
if refused := st.session_state.get(f"refused-{study.name}"):
    st.error(refused, icon=":material/block:")
left, right = st.columns([5, 4], gap="medium")
with left:
    st.markdown("**Pins**: kinds or layers that keep the widths given here")
    if held := now().now.spec.pins:
        shown = [f"{name} at {bits}" for name, bits in held.items()]
        st.caption(f"Pinned now: {', '.join(shown[:6])}" + (f" and {len(shown) - 6} more." if shown[6:] else "."))
    pins_editor(study, model, now())
with right:
    ties_editor(study, model, now())
    st.markdown("**Menus**: the widths each kind of layer may take")
    menus_editor(study, model, now())

st.subheader("Measured", help="Every point is a model that was really quantized and run on the validation images.")
found, whole = trials(study), float_evaluation(study)
if found:
    with st.grid(2, min_column_width=PAIR):
        for cost in ("megabytes", "gbops"):
            figure = figures.accuracy_curve(found, whole, cost)  # type: ignore[arg-type]
            st.plotly_chart(figure, key=f"measured-{cost}", alt=f"Measured accuracy against {cost}")
else:
    st.caption("Nothing is measured yet: press “Quantize and measure” above, and the accuracy appears here.")
