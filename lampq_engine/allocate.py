"""The exact integer program: one pair of widths per layer, least predicted harm, any combination of budgets.

LampQ's step I3.1 (ILP initialisation) in one-hot form, with more than one budget at once and with weight and
activation widths tied or free. Solved by HiGHS through OR-tools MathOpt, with a proven bound.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from ortools.math_opt.python import mathopt

from lampq_engine.cost import CostModel
from lampq_engine.errors import InputError
from lampq_engine.recipe import AllocationSpec, Budgets
from lampq_engine.types import Allocation, Bits, Cost, Layer, Sensitivity, Solution

UNITS = {"mean_bits": "bits", "mean_activation_bits": "bits", "megabytes": "MB", "gbops": "GBOPs"}
ROUNDING = 1e-9  # a budget overshot by less than this share is met
OBJECTIVE = 1e4  # HiGHS's tolerances are absolute, about 1e-6; harm is scaled so that they mean nothing

Key = tuple[str, Bits]


def options(layers: Sequence[Layer], spec: AllocationSpec) -> dict[str, tuple[Bits, ...]]:
    """The pairs of widths each layer may take under menus and pins; `InputError` names a pin of no such layer."""
    unknown = sorted({*spec.pins, *spec.bits} - {layer.name for layer in layers})
    if unknown:
        raise InputError(
            f"The recipe names {len(unknown)} layers that this model does not have, first {unknown[0]!r}",
            expected=f"names such as {layers[0].name!r}",
            todo="Use a recipe made for this model",
        )
    return {
        layer.name: (spec.pins[layer.name],) if layer.name in spec.pins else spec.menu(layer.kind).options()
        for layer in layers
    }


@dataclass(frozen=True)
class Problem:
    """The program as plain numbers: what each choice of each layer harms and costs."""

    costs: CostModel
    harm: Mapping[Key, float]
    terms: Mapping[Key, Mapping[str, float]]
    choices: Mapping[str, tuple[Bits, ...]]

    @staticmethod
    def of(costs: CostModel, sensitivity: Sensitivity, spec: AllocationSpec) -> Problem:
        allowed = options(costs.layers, spec)
        harm: dict[Key, float] = {}
        terms: dict[Key, Mapping[str, float]] = {}
        choices: dict[str, tuple[Bits, ...]] = {}
        for layer in costs.layers:
            row = {bits: (_harm(sensitivity, layer, bits), costs.terms(layer, bits)) for bits in allowed[layer.name]}
            choices[layer.name] = tuple(bits for bits in row if not _dominated(bits, row))
            harm |= {(layer.name, bits): row[bits][0] for bits in choices[layer.name]}
            terms |= {(layer.name, bits): row[bits][1] for bits in choices[layer.name]}
        return Problem(costs, harm, terms, choices)

    def extreme(self, pick: Callable[[Iterable[float]], float], budget: str) -> float:
        """The least (`min`) or the greatest (`max`) value that one cost can take at all."""
        per_layer = (pick(self.terms[name, bits][budget] for bits in row) for name, row in self.choices.items())
        return self.costs.constant[budget] + sum(per_layer)

    def total_harm(self, bits: Mapping[str, Bits]) -> float:
        return sum(self.harm[name, pair] for name, pair in bits.items())


def _harm(sensitivity: Sensitivity, layer: Layer, bits: Bits) -> float:
    try:
        return sensitivity.harm(layer.name, bits)
    except KeyError as error:
        raise InputError(
            f"The metric {sensitivity.metric!r} has no score of {layer.name} at {bits} bits",
            todo="Remove this width from the menu, or analyse the study again with it",
        ) from error


def _dominated(bits: Bits, row: Mapping[Bits, tuple[float, Mapping[str, float]]]) -> bool:
    """Whether another choice harms no more and costs no more in any respect (exact: such a choice is never needed)."""
    harm, terms = row[bits]
    for other, (other_harm, other_terms) in row.items():
        no_worse = other_harm <= harm and all(other_terms[name] <= terms[name] for name in terms)
        same = other_harm == harm and all(other_terms[name] == terms[name] for name in terms)
        if other != bits and no_worse and not (same and other > bits):
            return True
    return False


class Program:
    """The integer program of one model, metric, menus and pins; a new budget only moves its right-hand sides."""

    def __init__(self, costs: CostModel, sensitivity: Sensitivity, spec: AllocationSpec) -> None:
        self.problem = problem = Problem.of(costs, sensitivity, spec)
        self.least = {budget: problem.extreme(min, budget) for budget in UNITS}
        self.most = {budget: problem.extreme(max, budget) for budget in UNITS}
        self.model, self.picks = _one_hot(problem)
        self.rows = {budget: self.model.add_linear_constraint(ub=1.0, expr=self._share(budget)) for budget in UNITS}
        spans = [[problem.harm[name, bits] for bits in row] for name, row in problem.choices.items()]
        scale = OBJECTIVE / (sum(max(span) - min(span) for span in spans) or 1.0)
        self.model.minimize(mathopt.fast_sum(scale * problem.harm[key] * pick for key, pick in self.picks.items()))
        self.scale = scale

    def _share(self, budget: str) -> mathopt.LinearSum:
        """A cost as a share of its greatest value, so that the solver's feasibility tolerance is relative."""
        most = self.most[budget] or 1.0
        return mathopt.fast_sum(self.problem.terms[key][budget] / most * pick for key, pick in self.picks.items())

    def solve(self, budgets: Budgets) -> Allocation:
        """The allocation of least predicted harm within `budgets`.

        `InputError` for budgets that no allocation meets; it names the nearest ones that some allocation meets.
        """
        limits, start = budgets.given(), time.perf_counter()
        impossible = [b for b, limit in limits.items() if limit < self.least[b] * (1 - ROUNDING)]
        tight = dict(limits)
        for _ in range(4):
            result = None if impossible else self._run(tight)
            if result is None:
                raise self._infeasible(limits)
            bits = _chosen(self.problem, self.picks, result)
            cost = self.problem.costs.cost(bits)
            over = {b: getattr(cost, b) - limit for b, limit in limits.items()}
            over = {b: excess for b, excess in over.items() if excess > ROUNDING * limits[b]}
            if not over:
                return self._allocation(bits, cost, result, limits, 1e3 * (time.perf_counter() - start))
            tight |= {b: tight[b] - 2 * excess for b, excess in over.items()}
        raise RuntimeError(f"the solver keeps overshooting {sorted(over)} within its tolerance")

    def _run(self, limits: Mapping[str, float]) -> mathopt.SolveResult | None:
        for budget, row in self.rows.items():
            room = limits.get(budget, self.most[budget]) * (1 + ROUNDING) - self.problem.costs.constant[budget]
            row.upper_bound = room / (self.most[budget] or 1.0)
        params = mathopt.SolveParameters(relative_gap_tolerance=1e-9, absolute_gap_tolerance=1e-7)
        return _solve(self.model, params)

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
        model, picks = _one_hot(self.problem)
        factor = model.add_variable(lb=1.0, name="factor")
        for budget, limit in raised.items():
            cost = mathopt.fast_sum(self.problem.terms[key][budget] / limit * pick for key, pick in picks.items())
            model.add_linear_constraint(cost + self.problem.costs.constant[budget] / limit <= factor)
        model.minimize(factor)
        result = _solve(model, mathopt.SolveParameters())
        if result is None:
            raise RuntimeError("the relaxed program has no solution")
        cost = self.problem.costs.cost(_chosen(self.problem, picks, result))
        return {budget: _round_up(max(limit, getattr(cost, budget))) for budget, limit in raised.items()}


def _one_hot(problem: Problem) -> tuple[mathopt.Model, dict[Key, mathopt.Variable]]:
    model = mathopt.Model()
    picks = {key: model.add_binary_variable(name=f"{key[0]} {key[1]}") for key in problem.harm}
    for name, row in problem.choices.items():
        model.add_linear_constraint(mathopt.fast_sum(picks[name, bits] for bits in row) == 1.0)
    return model, picks


def _solve(model: mathopt.Model, params: mathopt.SolveParameters) -> mathopt.SolveResult | None:
    """Run HiGHS; None where no assignment is feasible."""
    result = mathopt.solve(model, mathopt.SolverType.HIGHS, params=params)
    reason = result.termination.reason
    if reason in (mathopt.TerminationReason.INFEASIBLE, mathopt.TerminationReason.INFEASIBLE_OR_UNBOUNDED):
        return None
    if not result.has_primal_feasible_solution():
        raise RuntimeError(f"the solver stopped with {reason}: {result.termination.detail}")
    return result


def _chosen(problem: Problem, picks: Mapping[Key, mathopt.Variable], result: mathopt.SolveResult) -> dict[str, Bits]:
    values = result.variable_values()
    return {name: max(row, key=lambda bits: values[picks[name, bits]]) for name, row in problem.choices.items()}


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
    if sensitivity is None:
        raise InputError("The integer program has no sensitivities to minimise", todo="Analyse the study first")
    return Program(costs, sensitivity, spec).solve(spec.budgets)
