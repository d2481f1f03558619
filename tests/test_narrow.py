"""Leaving choices out must never leave out the best ones: against the whole program, and against every allocation."""

from __future__ import annotations

import itertools
import random

import pytest

from lampq_engine.allocate import Program
from lampq_engine.controls import random_scores
from lampq_engine.cost import CostModel
from lampq_engine.problem import UNITS
from lampq_engine.recipe import AllocationSpec, Budgets, Menu
from lampq_engine.types import KINDS, Bits, Cell, Layer, Sensitivity

WIDTHS = (2, 3, 4, 5, 6, 7, 8)
PAIRS = [Bits(w, a) for w in WIDTHS for a in WIDTHS]
SIZES = {"qkv": 3, "proj": 1, "fc1": 4, "fc2": 4}


def layers(blocks: int) -> list[Layer]:
    return [
        Layer(f"blocks.{b}.{kind}", kind, b, 100 * size, 10, 10, 1000 * size, 100)  # type: ignore[arg-type]
        for b in range(blocks)
        for kind, size in SIZES.items()
    ]


def program(seed: int, *, tied: bool, blocks: int = 6) -> Program:
    spec = AllocationSpec(menus={kind: Menu(tied=tied) for kind in KINDS})
    found = layers(blocks)
    return Program(CostModel(found, 500), random_scores(found, PAIRS, base=4, seed=seed), spec)


def some_limits(one: Program, source: random.Random) -> dict[str, float]:
    names = source.sample(sorted(UNITS), source.randint(1, 4))
    return {b: one.least[b] + (one.most[b] - one.least[b]) * source.uniform(0.15, 0.9) for b in names}


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "free"])
def test_the_optimum_is_that_of_the_whole_program(seed: int, tied: bool, monkeypatch) -> None:
    one, source = program(seed, tied=tied), random.Random(seed)
    asked = [Budgets(**some_limits(one, source)) for _ in range(3)]
    narrowed = [one.solve(budgets).solution for budgets in asked]
    monkeypatch.setattr(one.grid, "narrow", lambda limits: one.problem.choices)
    for budgets, found in zip(asked, narrowed, strict=True):
        assert found.harm == pytest.approx(one.solve(budgets).solution.harm, rel=1e-8)
        assert found.bound == pytest.approx(found.harm, rel=1e-6)


@pytest.mark.parametrize("seed", range(20))
def test_every_best_allocation_is_still_on_offer(seed: int) -> None:
    """Equal scores make many optima; none of them may lose a choice."""
    source = random.Random(seed)
    found = layers(1)
    widths = (2, 4, 6)
    cells = {x.name: {Bits(b, b): Cell(source.choice([1.0, 2.0]) * 4.0**-b) for b in widths} for x in found}
    spec = AllocationSpec(menus={kind: Menu(widths, widths) for kind in KINDS})
    one = Program(CostModel(found, 0), Sensitivity("x", "", 1, cells), spec)
    limits = some_limits(one, source)
    within: dict[tuple[Bits, ...], float] = {}
    for picked in itertools.product(*one.problem.choices.values()):
        bits = dict(zip(one.problem.choices, picked, strict=True))
        cost = one.problem.costs.cost(bits)
        if all(getattr(cost, b) <= limit for b, limit in limits.items()):
            within[picked] = one.problem.total_harm(bits)
    kept = one.grid.narrow(limits)
    for picked, harm in within.items():
        if harm <= min(within.values()) * (1 + 1e-12):
            assert all(bits in row for bits, row in zip(picked, kept.values(), strict=True))


def test_most_choices_are_left_out_and_no_layer_is_left_without() -> None:
    one = program(0, tied=True, blocks=12)
    kept = one.grid.narrow({"gbops": one.most["gbops"] / 4})
    assert all(kept.values())
    assert sum(map(len, kept.values())) < len(one.problem.harm) / 2
    for name, row in kept.items():
        assert set(row) <= set(one.problem.choices[name])


def test_without_a_budget_only_the_least_harmful_choices_stay() -> None:
    assert {bits for row in program(0, tied=True).grid.narrow({}).values() for bits in row} == {Bits(8, 8)}


def test_budgets_that_nothing_meets_leave_out_nothing() -> None:
    one = program(0, tied=False)
    kept = one.grid.narrow({"mean_bits": 1.0, "gbops": one.least["gbops"] / 2})
    assert kept == dict(one.problem.choices)


def test_layers_that_all_harm_nothing() -> None:
    found = layers(1)
    one = Program(CostModel(found, 0), Sensitivity("x", "", 1, {}), AllocationSpec())
    assert one.solve(Budgets(mean_bits=3)).solution.harm == 0
