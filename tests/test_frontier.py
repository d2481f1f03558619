"""The frontier: its ends, its order, and the points that other budgets forbid."""

from __future__ import annotations

import itertools

import pytest

from lampq_engine.allocate import Program
from lampq_engine.controls import random_scores
from lampq_engine.cost import CostModel
from lampq_engine.frontier import frontier, grid, solve_at
from lampq_engine.recipe import AllocationSpec, Budgets
from lampq_engine.types import Bits, Layer

LAYERS = [
    Layer(f"blocks.{b}.{kind}", kind, b, 100 * size, 10, 10, 1000 * size, 100)  # type: ignore[arg-type]
    for b in range(2)
    for kind, size in {"qkv": 3, "proj": 1, "fc1": 4, "fc2": 4}.items()
]


@pytest.fixture(scope="module")
def program() -> Program:
    table = random_scores(LAYERS, [Bits(b, b) for b in range(2, 9)], base=4, seed=0)
    return Program(CostModel(LAYERS, 100), table, AllocationSpec())


@pytest.mark.parametrize("budget", ["mean_bits", "mean_activation_bits", "megabytes", "gbops"])
def test_runs_from_all_narrow_to_all_wide_and_never_rises(program: Program, budget: str) -> None:
    points = frontier(program, budget, points=12)
    found = [point.allocation for point in points if point.allocation]
    assert len(found) == len(points) == 12
    assert set(found[0].bits.values()) == {Bits(2, 2)}
    assert set(found[-1].bits.values()) == {Bits(8, 8)}
    harms = [one.solution.harm for one in found]
    assert all(after <= before * (1 + 1e-9) for before, after in itertools.pairwise(harms))
    for point, one in zip(points, found, strict=True):
        assert getattr(one.cost, budget) <= point.budget * (1 + 1e-9)


def test_each_point_is_the_exact_solution_at_its_budget(program: Program) -> None:
    for point in frontier(program, "megabytes", points=5):
        assert point.allocation
        alone = program.solve(Budgets(megabytes=point.budget))
        assert point.allocation.solution.harm == pytest.approx(alone.solution.harm)


def test_a_point_that_another_budget_forbids_says_why(program: Program) -> None:
    points = frontier(program, "mean_bits", others=Budgets(gbops=program.least["gbops"] / 2), points=3)
    assert [point.allocation for point in points] == [None] * 3
    assert points[0].reason.startswith("No allocation meets the budget mean bits 2, GBOPs ")


def test_other_budgets_are_held(program: Program) -> None:
    limit = program.most["gbops"] / 3
    for point in frontier(program, "mean_bits", others=Budgets(gbops=limit), points=5):
        assert point.allocation
        assert point.allocation.cost.gbops <= limit * (1 + 1e-9)


def test_the_grid_spans_the_range(program: Program) -> None:
    assert list(grid(program, "mean_bits", 3)) == pytest.approx([2, 5, 8])
    assert list(grid(program, "mean_bits", 1)) == pytest.approx([2])


def test_one_point(program: Program) -> None:
    assert solve_at(program, "mean_bits", 8, Budgets()).allocation is not None
