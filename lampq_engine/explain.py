"""Why an allocation is as it is: room in each budget, layers that flip, and what one bit more or less would bring."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from lampq_engine.allocate import Program
from lampq_engine.cost import CostModel
from lampq_engine.errors import InputError
from lampq_engine.problem import UNITS
from lampq_engine.recipe import Budgets
from lampq_engine.types import Allocation, Bits, Layer, Sensitivity


@dataclass(frozen=True)
class Slack:
    """How one cost stands against its budget, in the unit of the budget."""

    budget: str
    spent: float
    limit: float | None  # None where there is no such budget
    least: float  # what the narrowest allowed widths cost
    most: float  # what the widest cost; a greater budget changes nothing
    binds: bool

    @property
    def room(self) -> float | None:
        """What the budget leaves unspent."""
        return None if self.limit is None else self.limit - self.spent


def slacks(program: Program, budgets: Budgets, here: Allocation) -> dict[str, Slack]:
    """Range, room and binding of every cost, given budget or not."""
    limits = budgets.given()
    return {
        name: Slack(
            name,
            getattr(here.cost, name),
            limits.get(name),
            program.least[name],
            program.most[name],
            name in here.solution.binding,
        )
        for name in UNITS
    }


@dataclass(frozen=True)
class Flip:
    """One layer whose widths differ between two allocations, and what that changes; harm is NaN without a metric."""

    layer: Layer
    before: Bits
    after: Bits
    harm: float
    megabytes: float
    gbops: float


def flips(
    before: Mapping[str, Bits],
    after: Mapping[str, Bits],
    *,
    costs: CostModel,
    sensitivity: Sensitivity | None = None,
) -> list[Flip]:
    """Every layer whose widths differ, in the order of the layers; a metric that lacks a pair leaves harm NaN."""
    found = []
    for layer in costs.layers:
        old, new = before.get(layer.name), after.get(layer.name)
        if old is None or new is None or old == new:
            continue
        was, now = costs.terms(layer, old), costs.terms(layer, new)
        harm = _change(sensitivity, layer.name, old, new)
        found.append(
            Flip(layer, old, new, harm, now["megabytes"] - was["megabytes"], now["gbops"] - was["gbops"]),
        )
    return found


def _change(sensitivity: Sensitivity | None, name: str, old: Bits, new: Bits) -> float:
    if sensitivity is None:
        return float("nan")
    try:
        return sensitivity.harm(name, new) - sensitivity.harm(name, old)
    except KeyError:
        return float("nan")


@dataclass(frozen=True)
class Option:
    """One pair of widths that a layer may take: its own harm, and what its cost is worth at the solver's prices."""

    bits: Bits
    harm: float
    bill: float  # price x cost, summed over the budgets, from the cheapest option on
    costs: Mapping[str, float]  # what it costs in each given budget

    @property
    def total(self) -> float:
        """Harm and bill together: what the solver makes as small as it can for each layer."""
        return self.harm + self.bill


@dataclass(frozen=True)
class Step:
    """The move from the chosen widths to a neighbouring pair: what it changes, and whether the budgets have room."""

    to: Bits
    harm: float  # change; negative saves harm
    bill: float  # change at the solver's prices; positive costs
    costs: Mapping[str, float]  # change in each given budget
    fits: bool
    forced: float | None  # least total harm if this were forced, over the least without; None where infeasible


@dataclass(frozen=True)
class Why:
    """Why a layer, with those tied to it, has its widths: every option at the solver's prices, and the next steps."""

    layers: tuple[str, ...]
    bits: Bits
    unit: str  # of harm
    prices: Mapping[str, float]
    options: tuple[Option, ...]  # narrowest first, as far as they can win at all
    wider: tuple[Step, ...]
    narrower: tuple[Step, ...]

    @property
    def sentences(self) -> list[str]:
        """The explanation in words, the most important first."""
        if len(self.options) == 1:
            return [f"Nothing was chosen: {self.bits} is the only pair its menu, pin or tie leaves."]
        if not any(self.prices.values()):
            return ["No budget binds, so it has the widths that harm least."]
        said = [_kept(step, self.unit) for step in self.narrower] + [_declined(step, self.unit) for step in self.wider]
        if not self.wider:
            said.append("No wider one on its menu harms less.")
        if not self.narrower:
            said.append("It already has the narrowest on its menu.")
        return said


def why(program: Program, sensitivity: Sensitivity, budgets: Budgets, here: Allocation, layer: str) -> Why:
    """Explain the widths of one layer in an allocation that was solved within `budgets`.

    A bit is worth its place where the harm it saves exceeds its cost at the solver's price, which is the shadow price
    of the budgets that bind (see `Program.prices`). Each step is also forced, exactly, to see what it would do.
    """
    problem = program.problem
    name = next(key for key, mates in problem.mates.items() if layer in mates)
    prices, limits, now = program.prices(budgets), budgets.given(), here.bits[name]
    rows = {bits: {b: problem.terms[name, bits][b] for b in limits} for bits in problem.choices[name]}
    cheapest = min(_bill(prices, row) for row in rows.values())
    options = tuple(
        Option(bits, problem.harm[name, bits], _bill(prices, row) - cheapest, row) for bits, row in rows.items()
    )

    def step(to: Bits) -> Step:
        change = {b: rows[to][b] - rows[now][b] for b in limits}
        fits = all(getattr(here.cost, b) + change[b] <= limits[b] * (1 + 1e-9) for b in limits)
        harm = problem.harm[name, to] - problem.harm[name, now]
        return Step(to, harm, _bill(prices, change), change, fits, _forced(program, budgets, here, name, to))

    around = [_neighbours(now, list(rows), way) for way in (1, -1)] if now in rows else [[], []]
    wider, narrower = (tuple(step(to) for to in found) for found in around)
    return Why(problem.mates[name], now, sensitivity.unit, prices, options, wider, narrower)


def _bill(prices: Mapping[str, float], costs: Mapping[str, float]) -> float:
    return sum(price * costs[budget] for budget, price in prices.items())


def _forced(program: Program, budgets: Budgets, here: Allocation, name: str, bits: Bits) -> float | None:
    """How much more harm the best allocation has in which this choice is made."""
    try:
        return program.solve(budgets, hold={name: bits}).solution.harm - here.solution.harm
    except InputError:
        return None


def _neighbours(now: Bits, options: list[Bits], way: int) -> list[Bits]:
    """The nearest options one way: of the weights alone, of the activations alone; of both where neither can."""

    def nearest(found: list[Bits]) -> list[Bits]:
        return [min(found, key=lambda bits: abs(bits[0] - now[0]) + abs(bits[1] - now[1]))] if found else []

    alone = [
        nearest([b for b in options if (b[half] - now[half]) * way > 0 and b[1 - half] == now[1 - half]])
        for half in (0, 1)
    ]
    both = [b for b in options if all((b[half] - now[half]) * way > 0 for half in (0, 1))]
    return alone[0] + alone[1] or nearest(both)


def _kept(step: Step, unit: str) -> str:
    """Why the layer is not narrower."""
    saved, harm = -step.bill, step.harm
    if harm > saved:
        text = f"Down to {step.to} it would harm {harm:.3g} {unit} more and free"
        if saved <= 0:
            return f"{text} nothing that is scarce."
        return (
            f"{text} what is worth only {saved:.3g} elsewhere: its last step pays for itself {harm / saved:.3g} times."
        )
    return (
        f"Down to {step.to} it would harm {harm:.3g} {unit} more and free what is worth {saved:.3g} elsewhere: "
        "a close call, decided by what fits in whole bits."
    )


def _declined(step: Step, unit: str) -> str:
    """Why the layer is not wider."""
    gain, price = -step.harm, step.bill
    if gain <= price:
        return (
            f"Up to {step.to} it would save {gain:.3g} {unit} and cost what saves {price:.3g} elsewhere: "
            "other layers use it better."
        )
    text = f"Up to {step.to} it would save {gain:.3g} {unit} for what is worth {price:.3g} elsewhere: it would pay"
    return text + (", by a hair: a close call in whole bits." if step.fits else ", but does not fit in what is left.")
