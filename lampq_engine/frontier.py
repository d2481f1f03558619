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
