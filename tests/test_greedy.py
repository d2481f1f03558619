"""The greedy descent: within every budget, never better than the exact program at the same objective, and lazy."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import pytest

from lampq_engine import steps
from lampq_engine.allocate import Program
from lampq_engine.cost import CostModel
from lampq_engine.errors import InputError
from lampq_engine.greedy import by_table, greedy
from lampq_engine.recipe import AllocationSpec, Budgets, DataSpec, Menu, QuantizationSpec, Recipe, default_menus
from lampq_engine.store import create_study
from lampq_engine.types import Bits, Cell, Layer, Sensitivity

SIZES = {"qkv": 3, "proj": 1, "fc1": 4, "fc2": 4}
LAYERS = [
    Layer(f"{kind}{block}", kind, block, 1000 * size, 100 * size, 100, 20_000 * size, 1000)  # type: ignore[arg-type]
    for block in range(6)
    for kind, size in SIZES.items()
]
COSTS = CostModel(LAYERS, 1000)


def table(seed: int) -> Sensitivity:
    source = random.Random(seed)
    cells = {}
    for layer in LAYERS:
        w, a = source.lognormvariate(0, 1.5), source.lognormvariate(0, 1.5)
        cells[layer.name] = {Bits(x, y): Cell(w * 4.0**-x + a * 4.0**-y) for x in range(2, 9) for y in range(2, 9)}
    return Sensitivity("test", "harm", 0, cells)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    "budgets",
    [Budgets(mean_bits=4.3), Budgets(mean_bits=4, mean_activation_bits=5), Budgets(megabytes=0.08, gbops=0.08)],
    ids=str,
)
def test_never_beats_the_exact_program(budgets: Budgets, seed: int, tied: bool) -> None:
    menus = {kind: replace(menu, tied=tied) for kind, menu in default_menus().items()}
    spec, scores = AllocationSpec(solver="greedy", budgets=budgets, menus=menus), table(seed)
    exact = Program(COSTS, scores, spec).solve(budgets)
    found = greedy(COSTS, by_table(COSTS, scores, spec), spec)
    for name, limit in budgets.given().items():
        assert getattr(found.cost, name) <= limit * (1 + 1e-8)
    harm = sum(scores.harm(name, pair) for name, pair in found.bits.items())
    assert found.solution.harm == pytest.approx(harm)
    assert found.solution.harm >= exact.solution.harm * (1 - 1e-9)
    assert found.solution.harm <= exact.solution.harm * 1.6  # near it all the same
    assert found.solution.solver == "greedy"


def test_lazy_descent_measures_few_candidates() -> None:
    spec = AllocationSpec(solver="greedy", budgets=Budgets(mean_bits=3))
    scores, calls = table(0), []
    plain = by_table(COSTS, scores, spec)
    greedy(COSTS, lambda bits: calls.append(1) or plain(bits), spec)  # type: ignore[func-returns-value]
    steps_taken = 24 * 5
    assert len(calls) < 6 * steps_taken  # every candidate at every step would be 24 times as many


def test_pins_and_unreachable_budgets() -> None:
    spec = AllocationSpec(solver="greedy", budgets=Budgets(mean_bits=4), pins={"fc10": Bits(8, 8)})
    assert greedy(COSTS, by_table(COSTS, table(1), spec), spec).bits["fc10"] == Bits(8, 8)
    low = replace(spec, budgets=Budgets(mean_bits=1.5))
    with pytest.raises(InputError, match=r"ended above its budget\. Expected at least mean_bits 2"):
        greedy(COSTS, by_table(COSTS, table(1), low), low)


def test_measured_greedy_makes_a_trial_and_is_kept(tmp_path: Path) -> None:
    study = create_study(Recipe(data=DataSpec(calibration_images=16, validation_images=60)), root=tmp_path)
    menus = {kind: menu if len(menu.weights) == 1 else Menu((3, 6), (3, 6)) for kind, menu in default_menus().items()}
    allocation = AllocationSpec(solver="greedy", budgets=Budgets(mean_bits=5), menus=menus, greedy_images=4)
    recipe = Recipe(data=study.data, allocation=allocation, quantization=QuantizationSpec(images=8))
    loaded = steps.analyse(study, also=())
    trial = steps.quantize(study, recipe, loaded=loaded)
    assert trial.allocation.solution.solver == "greedy"
    assert 4.5 < trial.allocation.cost.mean_bits <= 5.0 + 1e-9
    assert "Greedy" in trial.title
    assert len(list((study.path / "greedy").glob("*.json"))) == 1
    assert steps.quantize(study, recipe, loaded=loaded).id == trial.id
