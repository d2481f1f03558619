"""MPTQ-ViT's Greedy MP in spirit: take away one bit after another where performance per saved cost suffers least.

The paper names a score of performance and compressibility and no formula; the ratio of the two, and lazy
re-evaluation, are our choice. Any budgets of the integer program are its stop rule.
"""

from __future__ import annotations

import heapq
import time
from collections.abc import Callable, Mapping
from dataclasses import replace

from lampq_engine.allocate import ROUNDING, Program, given
from lampq_engine.cost import CostModel
from lampq_engine.errors import InputError
from lampq_engine.journal import Report, silent
from lampq_engine.problem import Problem, options
from lampq_engine.recipe import AllocationSpec
from lampq_engine.types import Allocation, Bits, Sensitivity

Performance = Callable[[Mapping[str, Bits]], float]  # what an allocation costs in performance; less is better
Entry = tuple[str, str]  # a layer, and `weights`, `activations` or `both`


def greedy(costs: CostModel, performance: Performance, spec: AllocationSpec, *, report: Report = silent) -> Allocation:
    """Start every layer at its widest, and step down the entry of least `rise in performance lost / cost saved`.

    Weight and activation widths are entries of their own where the menu leaves them free. Cost saved is what
    the step takes off the budgets that are still exceeded. A step's rise is measured when it comes to the top of the
    queue, and taken if it still leads after that (lazy re-evaluation): few steps measure more than two or three.
    `InputError` where no allocation meets the budgets.
    """
    start, limits = time.perf_counter(), spec.budgets.given()
    allowed = options(costs.layers, spec)
    bits = {name: max(row, key=lambda b: (b.weights + b.activations, b)) for name, row in allowed.items()}
    now, measured = performance(bits), 1
    gaps = {name: gap for name, gap in _gaps(costs, bits, limits).items() if gap > 0}
    queue: list[tuple[float, int, Entry, float]] = []  # ratio, step at which it was measured, entry, performance then
    step, wide = 0, sum(gaps.values())

    def push(entry: Entry) -> None:
        nonlocal measured
        lower = _lower(allowed[entry[0]], bits[entry[0]], entry[1])
        if lower is None:
            return
        trial = {**bits, entry[0]: lower}
        saved = _saved(costs, bits, trial, gaps, limits)
        if saved <= 0:
            return
        then = performance(trial)
        measured += 1
        heapq.heappush(queue, ((then - now) / saved, step, entry, then))

    entries = _entries(allowed)
    for entry in entries if gaps else ():
        push(entry)
        report("greedy, first look", measured - 1, len(entries))
    while gaps:
        if not queue:
            raise _unreachable(costs, spec)
        _, at, entry, then = heapq.heappop(queue)
        if at < step:
            push(entry)
            continue
        lower = _lower(allowed[entry[0]], bits[entry[0]], entry[1])
        assert lower is not None
        bits[entry[0]], now, step = lower, then, step + 1
        gaps = {name: gap for name, gap in _gaps(costs, bits, limits).items() if gap > 0}
        report("greedy", round(1000 * (1 - sum(gaps.values()) / wide)), 1000, steps=step, measured=measured)
        if gaps:
            push(entry)
    found = given(costs, bits)
    binding = tuple(name for name in limits if getattr(found.cost, name) > 0.98 * limits[name])
    milliseconds = 1e3 * (time.perf_counter() - start)
    solution = replace(
        found.solution, solver="greedy", status="feasible", harm=now, milliseconds=milliseconds, binding=binding
    )
    return replace(found, solution=solution)


def by_table(costs: CostModel, sensitivity: Sensitivity, spec: AllocationSpec) -> Performance:
    """Performance as the metric's table says it: the objective of the integer program."""
    problem = Problem.of(costs, sensitivity, spec)
    return lambda bits: sum(
        problem.harm.get((name, pair), 0.0) or sensitivity.harm(name, pair) for name, pair in bits.items()
    )


def _entries(allowed: Mapping[str, tuple[Bits, ...]]) -> list[Entry]:
    found: list[Entry] = []
    for name, row in allowed.items():
        tied = len({b.weights for b in row}) * len({b.activations for b in row}) != len(row)
        if len(row) > 1:
            found += [(name, side) for side in (("both",) if tied else ("weights", "activations"))]
    return found


def _lower(row: tuple[Bits, ...], now: Bits, side: str) -> Bits | None:
    """The next narrower choice of one side of a layer, or of both where they are tied."""
    if side == "both":
        return max((b for b in row if b < now), default=None)
    other = "activations" if side == "weights" else "weights"
    same = [b for b in row if getattr(b, other) == getattr(now, other) and getattr(b, side) < getattr(now, side)]
    return max(same, key=lambda b: getattr(b, side), default=None)


def _gaps(costs: CostModel, bits: Mapping[str, Bits], limits: Mapping[str, float]) -> dict[str, float]:
    """By how much of each budget an allocation is over it."""
    cost = costs.cost(bits)
    return {name: max(0.0, getattr(cost, name) / limit - 1 - ROUNDING) for name, limit in limits.items()}


def _saved(
    costs: CostModel,
    bits: Mapping[str, Bits],
    trial: Mapping[str, Bits],
    open_: Mapping[str, float],
    limits: Mapping[str, float],
) -> float:
    """What a step saves of the costs that are still over budget, in budgets.

    In a fixed unit, so that ratios measured at different steps compare.
    """
    before, after = costs.cost(bits), costs.cost(trial)
    return sum((getattr(before, name) - getattr(after, name)) / limits[name] for name in open_)


def _unreachable(costs: CostModel, spec: AllocationSpec) -> InputError:
    """The integer program's own words on a budget that nothing meets."""
    nothing = Sensitivity("none", "", 0, {})
    program = Program(costs, nothing, spec)
    near = program.nearest(spec.budgets.given())
    return InputError(
        "The greedy descent ended above its budget",
        expected="at least " + ", ".join(f"{name} {value:.4g}" for name, value in near.items()),
        todo="Raise the budget, widen a menu or remove a pin",
    )
