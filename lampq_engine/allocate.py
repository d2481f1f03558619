"""The exact integer program: one pair of widths per layer, least predicted harm, any combination of budgets.

LampQ's step I3.1 (ILP initialisation) in one-hot form, with more than one budget at once and with weight and
activation widths tied or free. Solved by HiGHS through OR-tools MathOpt, with a proven bound.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace

from ortools.math_opt.python import mathopt

from lampq_engine.cost import CostModel
from lampq_engine.errors import InputError
from lampq_engine.narrow import Grid
from lampq_engine.problem import UNITS, Problem, options
from lampq_engine.recipe import AllocationSpec, Budgets
from lampq_engine.types import Allocation, Bits, Cost, Layer, Sensitivity, Solution

ROUNDING = 1e-9  # a budget overshot by less than this share is met
OBJECTIVE = 1e4  # HiGHS's tolerances are absolute, about 1e-6; harm is scaled so that they mean nothing


class Program:
    """The integer program of one model, metric, menus, pins and ties, ready for one budget after another."""

    def __init__(self, costs: CostModel, sensitivity: Sensitivity, spec: AllocationSpec) -> None:
        self.problem = problem = Problem.of(costs, sensitivity, spec)
        self.least = {budget: problem.extreme(min, budget) for budget in UNITS}
        self.most = {budget: problem.extreme(max, budget) for budget in UNITS}
        spans = [[problem.harm[name, bits] for bits in row] for name, row in problem.choices.items()]
        self.scale = OBJECTIVE / (sum(max(span) - min(span) for span in spans) or 1.0)
        self.grid = Grid(problem, self.most)

    def _narrowed(self, limits: Mapping[str, float]) -> Problem:
        """The same program without the choices that no optimum within `limits` makes; exact (see `narrow`)."""
        return replace(self.problem, choices=self.grid.narrow(limits))

    def solve(self, budgets: Budgets, *, hold: Mapping[str, Bits] | None = None) -> Allocation:
        """The allocation of least predicted harm within `budgets`; `hold` gives choices that must be kept this once.

        `InputError` for budgets that no allocation meets; it names the nearest ones that some allocation meets.
        """
        limits, start = budgets.given(), time.perf_counter()
        if any(limit < self.least[budget] * (1 - ROUNDING) for budget, limit in limits.items()):
            raise self._infeasible(limits)
        tight = {budget: limit * (1 + ROUNDING) for budget, limit in limits.items()}
        problem = self._held(hold) if hold else self._narrowed(tight)
        program = _OneHot(problem, budgets=tuple(limits), most=self.most, scale=self.scale)
        for _ in range(4):
            result = program.run(tight)
            if result is None:
                raise self._infeasible(limits)
            bits = self.problem.spread(program.chosen(result))
            cost = self.problem.costs.cost(bits)
            over = {b: getattr(cost, b) - limit for b, limit in limits.items()}
            over = {b: excess for b, excess in over.items() if excess > ROUNDING * limits[b]}
            if not over:
                return self._allocation(bits, cost, result, limits, 1e3 * (time.perf_counter() - start))
            tight |= {b: tight[b] - 2 * excess for b, excess in over.items()}
        raise RuntimeError(f"the solver keeps overshooting {sorted(over)} within its tolerance")

    def _held(self, hold: Mapping[str, Bits]) -> Problem:
        """The same program with some choices made."""
        rows = {name: (hold[name],) if name in hold else row for name, row in self.problem.choices.items()}
        return replace(self.problem, choices=rows)

    def prices(self, budgets: Budgets) -> dict[str, float]:
        """The shadow price of each given budget: harm that one more unit of it would save; 0 where it does not bind.

        Duals of the linear relaxation of the program at these budgets (our choice). The relaxation splits at most one
        layer for each budget; the integer optimum may differ in a few more, where a step that pays does not fit.
        """
        limits = budgets.given()
        program = _OneHot(self.problem, budgets=tuple(limits), most=self.most, scale=self.scale, whole=False)
        result = program.run({budget: limit * (1 + ROUNDING) for budget, limit in limits.items()})
        if result is None:
            raise self._infeasible(limits)
        duals = result.dual_values()
        return {b: max(0.0, -duals[row]) / program.most[b] / self.scale for b, row in program.rows.items()}

    def _allocation(
        self,
        bits: Mapping[str, Bits],
        cost: Cost,
        result: mathopt.SolveResult,
        limits: Mapping[str, float],
        milliseconds: float,
    ) -> Allocation:
        bounds = result.termination.objective_bounds
        harm, bound = self.problem.total_harm(bits), bounds.dual_bound / self.scale
        bound = min(bound, harm)
        gap = (harm - bound) / abs(harm) if harm else 0.0
        status = "optimal" if result.termination.reason == mathopt.TerminationReason.OPTIMAL else "feasible"
        solution = Solution("ilp", status, harm, bound, gap, milliseconds, self._binding(bits, cost, limits))
        return Allocation(bits, cost, solution)

    def _binding(self, bits: Mapping[str, Bits], cost: Cost, limits: Mapping[str, float]) -> tuple[str, ...]:
        """The budgets that alone forbid some layer a less harmful choice."""
        binding: set[str] = set()
        for name, row in self.problem.choices.items():
            now = (name, bits[name])
            for better in (pair for pair in row if self.problem.harm[name, pair] < self.problem.harm[now]):
                steps = {b: self.problem.terms[name, better][b] - self.problem.terms[now][b] for b in limits}
                broken = [b for b, step in steps.items() if getattr(cost, b) + step > limits[b] * (1 + ROUNDING)]
                binding |= set(broken) if len(broken) == 1 else set()
        return tuple(b for b in UNITS if b in binding)

    def _infeasible(self, limits: Mapping[str, float]) -> InputError:
        near = self.nearest(limits)
        ask = ", ".join(f"{_name(b)} {limit:.4g}" for b, limit in limits.items())
        reach = ", ".join(f"{_name(b)} {near[b]:.4g} {UNITS[b]}" for b in limits)
        return InputError(
            f"No allocation meets the budget {ask} under these menus and pins",
            expected=f"at least {reach}",
            todo="Raise the budget, widen a menu or remove a pin",
        )

    def nearest(self, limits: Mapping[str, float]) -> dict[str, float]:
        """The nearest feasible budgets: each raised to its own least value, then all by one common factor."""
        raised = {budget: max(limit, self.least[budget]) for budget, limit in limits.items()}
        program = _OneHot(self.problem, budgets=(), most=self.most, scale=0.0)
        factor = program.model.add_variable(lb=1.0, name="factor")
        for budget, limit in raised.items():
            cost = mathopt.fast_sum(self.problem.terms[k][budget] / limit * pick for k, pick in program.picks.items())
            program.model.add_linear_constraint(cost + self.problem.costs.constant[budget] / limit <= factor)
        program.model.minimize(factor)
        result = _solve(program.model, mathopt.SolveParameters())
        if result is None:
            raise RuntimeError("the relaxed program has no solution")
        cost = self.problem.costs.cost(program.chosen(result))
        return {budget: _round_up(max(limit, getattr(cost, budget))) for budget, limit in raised.items()}


class _OneHot:
    """One binary variable per choice, one choice per layer, as HiGHS takes it; shares of choices unless `whole`."""

    def __init__(
        self,
        problem: Problem,
        *,
        budgets: Sequence[str],
        most: Mapping[str, float],
        scale: float,
        whole: bool = True,
    ) -> None:
        self.problem, self.most = problem, {budget: most[budget] or 1.0 for budget in budgets}
        self.model = mathopt.Model()
        keys = [(name, bits) for name, row in problem.choices.items() for bits in row]
        self.picks = {
            key: self.model.add_variable(lb=0.0, ub=1.0, is_integer=whole, name=f"{key[0]} {key[1]}") for key in keys
        }
        for name, row in problem.choices.items():
            self.model.add_linear_constraint(mathopt.fast_sum(self.picks[name, bits] for bits in row) == 1.0)
        # a cost is a share of its greatest value, so that the solver's feasibility tolerance is relative
        self.rows = {
            budget: self.model.add_linear_constraint(
                ub=1.0, expr=mathopt.fast_sum(problem.terms[k][budget] / top * pick for k, pick in self.picks.items())
            )
            for budget, top in self.most.items()
        }
        self.model.minimize(mathopt.fast_sum(scale * problem.harm[k] * pick for k, pick in self.picks.items()))

    def run(self, limits: Mapping[str, float]) -> mathopt.SolveResult | None:
        """Solve within `limits`; None where nothing is within them."""
        for budget, row in self.rows.items():
            row.upper_bound = (limits[budget] - self.problem.costs.constant[budget]) / self.most[budget]
        params = mathopt.SolveParameters(relative_gap_tolerance=1e-9, absolute_gap_tolerance=1e-7)
        return _solve(self.model, params)

    def chosen(self, result: mathopt.SolveResult) -> dict[str, Bits]:
        """The widths of each layer."""
        values, rows = result.variable_values(), self.problem.choices
        return {name: max(row, key=lambda bits: values[self.picks[name, bits]]) for name, row in rows.items()}


def _solve(model: mathopt.Model, params: mathopt.SolveParameters) -> mathopt.SolveResult | None:
    """Run HiGHS; None where no assignment is feasible."""
    result = mathopt.solve(model, mathopt.SolverType.HIGHS, params=params)
    reason = result.termination.reason
    if reason in (mathopt.TerminationReason.INFEASIBLE, mathopt.TerminationReason.INFEASIBLE_OR_UNBOUNDED):
        return None
    if not result.has_primal_feasible_solution():
        raise RuntimeError(f"the solver stopped with {reason}: {result.termination.detail}")
    return result


def _name(budget: str) -> str:
    return budget.replace("_", " ").replace("gbops", "GBOPs")


def _round_up(value: float) -> float:
    """Four significant digits that still meet `value`, so that the printed budget can be typed in."""
    shown = float(f"{value:.3e}")
    step = float(f"1e{math.floor(math.log10(value)) - 3}")
    return shown if shown >= value * (1 - ROUNDING / 2) else float(f"{shown + step:.3e}")


def given(costs: CostModel, bits: Mapping[str, Bits], sensitivity: Sensitivity | None = None) -> Allocation:
    """An allocation that nobody solved for: uniform, by hand, or after a bit update, with its predicted harm."""
    harm = sum(sensitivity.harm(name, pair) for name, pair in bits.items()) if sensitivity else float("nan")
    return Allocation(dict(bits), costs.cost(bits), Solution("given", "given", harm, float("nan"), float("nan"), 0.0))


def uniform(layers: Sequence[Layer], spec: AllocationSpec) -> dict[str, Bits]:
    """The same widths for every layer whose menu allows a choice; fixed and pinned layers keep theirs."""
    allowed = options(layers, spec)
    return {name: row[0] if len(row) == 1 else spec.uniform for name, row in allowed.items()}


def allocate(costs: CostModel, sensitivity: Sensitivity | None, spec: AllocationSpec) -> Allocation:
    """The allocation that a recipe asks for: solved exactly, uniform, or as given."""
    if spec.solver == "uniform":
        return given(costs, uniform(costs.layers, spec), sensitivity)
    if spec.solver == "given":
        missing = [layer.name for layer in costs.layers if layer.name not in spec.bits]
        if missing or set(spec.bits) - {layer.name for layer in costs.layers}:
            options(costs.layers, spec)
            raise InputError(
                f"The recipe gives no widths for {len(missing)} layers, first {missing[0]!r}",
                expected="widths for every layer",
                todo="Use a recipe made for this model",
            )
        return given(costs, spec.bits, sensitivity)
    if spec.solver == "greedy":
        raise InputError(
            "The greedy solver measures the model at every step",
            expected="a command that has the model at hand",
            todo="Use `quantize` or `run`, or choose the solver `ilp`",
        )
    if sensitivity is None:
        raise InputError("The integer program has no sensitivities to minimise", todo="Analyse the study first")
    return Program(costs, sensitivity, spec).solve(spec.budgets)
