"""The whole curve of predicted harm against one budget, each point an exact solution."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from lampq_engine.allocate import Program
from lampq_engine.errors import InputError
from lampq_engine.recipe import Budgets
from lampq_engine.types import Allocation


@dataclass(frozen=True)
class Point:
    """One budget along the frontier and its solution, or None with the reason why there is none."""

    budget: float
    allocation: Allocation | None
    reason: str = ""


@dataclass(frozen=True)
class Span:
    """A part of one budget's range in which the budget decides nothing, with the reason."""

    low: float
    high: float
    reason: str
    feasible: bool


def spans(points: Sequence[Point], budget: str, least: float, most: float) -> list[Span]:
    """What of the range from `least` to `most` is out of reach, and from where on another limit decides.

    `points` are those of a frontier along `budget`, in order.
    """
    solved = [point for point in points if point.allocation]
    if not solved:
        return [Span(least, most, points[0].reason, False)] if points else []
    found = []
    if solved[0].budget > least * (1 + 1e-9):
        before = [point for point in points if point.budget < solved[0].budget]
        reason = before[-1].reason if before else "Pins, ties or menus keep every allocation above this."
        found.append(Span(least, solved[0].budget, reason, False))
    idle = [point for point in solved if budget not in point.allocation.solution.binding]  # type: ignore[union-attr]
    if idle and idle[0].budget < most:
        others = idle[0].allocation.solution.binding  # type: ignore[union-attr]
        reason = f"limited by {_named(others)} instead" if others else "every layer has the widths that harm least"
        found.append(Span(idle[0].budget, most, f"From here on more room changes nothing: {reason}.", True))
    return found


def _named(budgets: Sequence[str]) -> str:
    return " and ".join(name.replace("_", " ").replace("gbops", "GBOPs") for name in budgets)


def frontier(program: Program, budget: str, *, others: Budgets | None = None, points: int = 100) -> list[Point]:
    """Exact solutions at `points` budgets from the least to the greatest possible, the other budgets held fixed."""
    return [solve_at(program, budget, value, others or Budgets()) for value in grid(program, budget, points)]


def grid(program: Program, budget: str, points: int) -> Sequence[float]:
    """Evenly spaced budgets over the whole feasible range of one cost."""
    low, high = program.least[budget], program.most[budget]
    return [low + (high - low) * i / max(1, points - 1) for i in range(points)]


def solve_at(program: Program, budget: str, value: float, others: Budgets) -> Point:
    """The exact solution at one value of one budget."""
    try:
        return Point(value, program.solve(replace(others, **{budget: value})))
    except InputError as error:
        return Point(value, None, str(error))
