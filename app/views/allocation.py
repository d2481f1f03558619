"""Drag a budget and see, at once, the bits that every layer gets for it; then make it real and measure it."""

from dataclasses import replace
from typing import Any

import streamlit as st
from asking import menus_editor, other_budgets, pins_editor, recipe_of, request
from facts import fact
from reading import costs, float_evaluation, sensitivity, trials
from slider import budget_slider
from solving import frontier, solver

from lampq_engine import figures, store
from lampq_engine.allocate import UNITS
from lampq_engine.cost import CostModel
from lampq_engine.errors import InputError
from lampq_engine.figures.names import BUDGET_NAMES, METRIC_HELP, METRIC_NAMES, METRIC_SHORT, number
from lampq_engine.plain import help_of
from lampq_engine.recipe import AllocationSpec, Budgets
from lampq_engine.types import Allocation

PAIR = 400  # pixels: two charts stand side by side where both can be this wide
BARE = {"displayModeBar": False}  # what follows the slider is drawn often, and has no use for a tool bar


def show_numbers(model: CostModel, here: Allocation) -> None:
    """What the allocation costs and how the solver went."""
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
            f"bound {number(solution.bound)}",
            help="Sum over the layers of the metric's harm at their widths: what the solver makes as small as it can. "
            "The bound is proven: no allocation within the budget harms less.",
        )
        fact(
            "Solver",
            solution.status,
            f"gap {100 * solution.gap:.2g} % · {solution.milliseconds:.0f} ms",
            help="`optimal`: proven to be the best. The gap is the distance between harm and its proven bound.",
        )


@st.fragment
def live(model: CostModel, metric: str, spec: AllocationSpec, budget: str, others: Budgets) -> None:
    """Everything that follows the slider; only this is drawn anew while it moves."""
    try:
        ask = solver(study, metric, spec)
    except InputError as error:
        st.error(str(error))
        return
    low, high = ask.program.least[budget], ask.program.most[budget]
    value = budget_slider(budget, low=low, high=high, key=f"budget-{study.name}-{budget}")
    budgets = replace(others, **{budget: value})
    here, complaint = ask.solve(budgets)
    title = f"{METRIC_SHORT[metric]} at {value:g} {UNITS[budget]}"
    actions(metric, replace(spec, budgets=budgets), title, here, infeasible=bool(complaint))
    if complaint:
        st.warning(complaint + " Shown is the nearest one that can be met.", icon=":material/block:")
    show_numbers(model, here)
    curve = frontier(study, metric, spec, budget, others)
    bars = figures.cost_bars(model, here.bits)
    line = figures.frontier_curve(curve.ordered(), budget, here, height=bars.layout.height)
    with st.grid(2, min_column_width=PAIR):
        for side in ("weights", "activations"):
            bits = figures.bits_map(model.layers, here.bits, side=side)  # type: ignore[arg-type]
            st.plotly_chart(bits, key=f"bits-{side}", config=BARE, alt=f"Bits of the {side} of each layer")
        st.plotly_chart(bars, key="costs", config=BARE, alt="Megabytes and GBOPs by kind of layer")
        st.plotly_chart(line, key="frontier", config=BARE, alt="Least harm against the budget")


def actions(metric: str, spec: AllocationSpec, title: str, here: Allocation, *, infeasible: bool) -> None:
    """Make the allocation real, or its controls, as a job beside the page."""
    recipe = recipe_of(study, metric, spec, title)
    binding = ", ".join(BUDGET_NAMES[b].lower().replace("gbops", "GBOPs") for b in here.solution.binding)
    with st.container(horizontal=True, vertical_alignment="center"):
        if st.button(
            "Quantize and measure",
            type="primary",
            icon=":material/bolt:",
            disabled=infeasible,
            help="Quantize the model to these bits, measure its accuracy on the validation images, write the file.",
        ):
            request(study, "quantize", recipe, f"Quantize: {title}")
            st.rerun()
        if st.button(
            "Run controls",
            icon=":material/rule:",
            disabled=infeasible,
            help="Measure uniform 2, 3, 4, 6 and 8 bits, and random and inverted scores at this budget: what the "
            "chosen metric has to beat.",
        ):
            request(study, "controls", recipe, f"Controls: {title}")
            st.rerun()
        st.caption(
            f"Limited by {binding}" if binding else "No budget limits it",
            width="content",
            help="The budgets that keep some layer from a less harmful width.",
        )


def wait_for_frontier(*ask: Any) -> None:
    """Draw the page anew once the frontier, which fills up in the background, is whole."""
    try:
        line = frontier(*ask)
    except InputError:
        return  # said already, above

    drawn = line.progress

    def look() -> None:
        if line.progress > drawn:
            st.rerun()

    if not line.done:
        st.fragment(look, run_every=0.5)()


study = store.open_study(st.session_state["study"])
model = costs(study)
metrics = [name for name in ("lampq", "fisher", "output", "harm", "random") if sensitivity(study, name)]

st.title("Allocation")
if model is None or not metrics:
    st.info(
        "The solver needs sensitivities, and the analysis has not measured them yet.", icon=":material/hourglass_empty:"
    )
    st.page_link("views/study.py", label="Watch the analysis", icon=":material/arrow_forward:")
    st.stop()

with st.container(horizontal=True, vertical_alignment="bottom", gap="medium"):
    budget = st.segmented_control(
        "The slider sets",
        ["mean_bits", "megabytes", "gbops"],
        default="mean_bits",
        required=True,
        format_func=BUDGET_NAMES.__getitem__,
        key="driven-budget",
        persist_state="session",
        help="A budget is an upper limit. Megabytes are those of the packed file; GBOPs count MACs x weight bits x "
        "activation bits.",
    )
    metric = st.segmented_control(
        "The solver minimises",
        metrics,
        default=metrics[0],
        required=True,
        format_func=METRIC_SHORT.__getitem__,
        key="metric",
        persist_state="session",
        help="\n".join(f"- **{METRIC_NAMES[name]}**: {METRIC_HELP[name]}" for name in metrics),
    )
    tied = st.segmented_control(
        "Weights and activations",
        ["tied", "free"],
        default="tied",
        required=True,
        key="tied",
        persist_state="session",
        help="Tied: a layer's weights and activations take the same width, as in LampQ. Free: each takes its own.",
    )
slot = st.container()
with st.expander("Menus, pins and further budgets", icon=":material/tune:"):
    st.markdown("**Further budgets** that must hold at the same time")
    others = other_budgets(str(budget), tied == "tied")
    st.markdown("**Menus**: the widths each kind of layer may take")
    try:
        menus, complaint = menus_editor(model, tied == "tied"), ""
    except InputError as error:
        menus, complaint = None, str(error)
    st.markdown("**Pins**: layers that keep the widths given here")
    pins = pins_editor(list(model.layers))
with slot:
    if menus is None:
        st.error(complaint)
        st.stop()
    spec = AllocationSpec(menus=menus, pins=pins)
    live(model, str(metric), spec, str(budget), others)
    wait_for_frontier(study, str(metric), spec, str(budget), others)

st.subheader("Measured", help="Every point is a model that was really quantized and run on the validation images.")
found, whole = trials(study), float_evaluation(study)
if found:
    with st.grid(2, min_column_width=PAIR):
        for cost in ("megabytes", "gbops"):
            figure = figures.accuracy_curve(found, whole, cost)  # type: ignore[arg-type]
            st.plotly_chart(figure, key=f"measured-{cost}", alt=f"Measured accuracy against {cost}")
else:
    st.caption("Nothing is measured yet: press “Quantize and measure” above, and the accuracy appears here.")
