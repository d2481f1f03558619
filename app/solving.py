"""The exact solver behind the slider: programs and frontiers, kept while files and menus stay the same."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import streamlit as st
from reading import Stamp, costs, sensitivity, stamp

from lampq_engine.allocate import ROUNDING, Program
from lampq_engine.errors import InputError
from lampq_engine.explain import Why, why
from lampq_engine.files import key_of
from lampq_engine.frontier import Point, grid, solve_at
from lampq_engine.plain import to_plain
from lampq_engine.recipe import AllocationSpec, Budgets
from lampq_engine.store import Study
from lampq_engine.types import Allocation, Sensitivity

FRONTIER_POINTS = 41
KEPT = 1024  # positions of a solver that are looked up rather than solved again
COARSE = 6  # points that already span the whole range, see `_coarse_first`


@dataclass(frozen=True)
class Solver:
    """A program that several sessions may ask, one at a time."""

    program: Program
    floor: dict[str, float]  # the least of each cost without pins and ties
    turn: threading.Lock = field(default_factory=threading.Lock)
    solved: dict[Budgets, tuple[Allocation, str]] = field(default_factory=dict)
    explained: dict[tuple[Budgets, str], Why] = field(default_factory=dict)

    def solve(self, budgets: Budgets) -> tuple[Allocation, str]:
        """The best allocation; where none is feasible, that of the nearest budgets and the sentence that says so."""
        with self.turn:
            return _kept(self.solved, budgets, lambda: self._solve(budgets))

    def _solve(self, budgets: Budgets) -> tuple[Allocation, str]:
        try:
            return self.program.solve(budgets), ""
        except InputError as error:
            return self.program.solve(self.nearest(budgets)), str(error)

    def nearest(self, budgets: Budgets) -> Budgets:
        """The nearest budgets that some allocation meets."""
        return Budgets(**self.program.nearest(budgets.given()))

    def why(self, table: Sensitivity, budgets: Budgets, here: Allocation, layer: str) -> Why:
        """Why a layer has its widths in `here`, which was solved within `budgets`."""
        with self.turn:
            return _kept(self.explained, (budgets, layer), lambda: why(self.program, table, budgets, here, layer))


def _kept(found: dict[Any, Any], key: Any, make: Callable[[], Any]) -> Any:
    """What was made for a key before, or now; the oldest of too many is forgotten."""
    if key not in found:
        if len(found) >= KEPT:
            found.pop(next(iter(found)))
        found[key] = make()
    return found[key]


@dataclass
class Frontier:
    """A frontier that fills up in the background: ends and middle first, then what lies between."""

    points: list[Point] = field(default_factory=list)
    done: bool = False

    @property
    def progress(self) -> int:
        """0 while it is only begun, 1 when it spans the whole range, 2 when it is whole."""
        return 2 if self.done else int(len(self.points) > COARSE)

    def ordered(self) -> list[Point]:
        return sorted(self.points, key=lambda point: point.budget)


def bound_by(program: Program, budgets: Budgets, here: Allocation) -> tuple[str, ...]:
    """The budgets that only together keep some layer from a less harmful choice: each of them alone would, too.

    Empty where one budget binds by itself, and where every layer has its best width.
    """
    if here.solution.binding:
        return ()
    problem, limits, found = program.problem, budgets.given(), set[str]()
    for name, row in problem.choices.items():
        now = (name, here.bits[name])
        for better in (pair for pair in row if problem.harm[name, pair] < problem.harm[now]):
            steps = {b: problem.terms[name, better][b] - problem.terms[now][b] for b in limits}
            found |= {b for b, more in steps.items() if getattr(here.cost, b) + more > limits[b] * (1 + ROUNDING)}
    return tuple(b for b in limits if b in found)


def solver(study: Study, metric: str, spec: AllocationSpec) -> Solver:
    """The solver of a study, metric, menus and pins."""
    return _solver(_stamp(study, metric), _key(spec), metric, study, spec)


def frontier(study: Study, metric: str, spec: AllocationSpec, budget: str, others: Budgets) -> Frontier:
    """The frontier along one budget, the others held; it starts to fill when it is first asked for."""
    held = replace(others, **{budget: None})
    return _frontier(_stamp(study, metric), _key(spec), metric, budget, key_of(to_plain(held)), study, spec, held)


def _stamp(study: Study, metric: str) -> Stamp:
    return stamp(study.path / "layers.json", study.path / "sensitivity" / f"{metric}.json")


def _key(spec: AllocationSpec) -> str:
    return key_of(to_plain(replace(spec, budgets=Budgets())))


def _program(study: Study, metric: str, spec: AllocationSpec) -> Program:
    model, table = costs(study), sensitivity(study, metric)
    if model is None or table is None:
        raise InputError(f"The study has no sensitivity {metric!r} yet", todo="Wait for its analysis")
    return Program(model, table, spec)


@st.cache_resource(max_entries=16, show_spinner=False)
def _solver(stamped: Stamp, key: str, metric: str, _study: Study, _spec: AllocationSpec) -> Solver:
    free = _program(_study, metric, replace(_spec, pins={}, ties=())).least
    return Solver(_program(_study, metric, _spec), free)


@st.cache_resource(max_entries=32, show_spinner=False)
def _frontier(
    stamped: Stamp,
    key: str,
    metric: str,
    budget: str,
    held: str,
    _study: Study,
    _spec: AllocationSpec,
    _others: Budgets,
) -> Frontier:
    found, program = Frontier(), _program(_study, metric, _spec)  # a program of its own: the slider never waits for it
    threading.Thread(target=_fill, args=(found, program, budget, _others), daemon=False).start()
    return found


def _fill(found: Frontier, program: Program, budget: str, others: Budgets) -> None:
    try:
        values = grid(program, budget, FRONTIER_POINTS)
        for index in _coarse_first(len(values)):
            if not threading.main_thread().is_alive():
                return  # the server stops; a thread killed inside the solver would abort it
            found.points.append(solve_at(program, budget, values[index], others))
    finally:
        found.done = True


def _coarse_first(count: int) -> list[int]:
    """Indices so that every prefix is spread over the whole range."""
    order: list[int] = []
    for step in (8, 4, 2, 1):
        order += [index for index in range(0, count, step) if index not in order]
    return order
