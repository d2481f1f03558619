"""Every recipe that ships reads back as it was written and makes an allocation on the built-in model's layers."""

from __future__ import annotations

from pathlib import Path

import pytest

from lampq_engine.allocate import allocate
from lampq_engine.commands.request import read_recipe, shipped_recipes
from lampq_engine.controls import random_scores
from lampq_engine.cost import CostModel
from lampq_engine.greedy import by_table, greedy
from lampq_engine.recipe import from_toml, to_toml
from lampq_engine.types import Bits, Layer

RECIPES = sorted(shipped_recipes().glob("*.toml"))
SIZES = {"qkv": 3, "scores": 0, "context": 0, "proj": 1, "fc1": 4, "fc2": 4}
LAYERS = [
    Layer(f"{kind}{block}", kind, block, 100 * size, 10 * size, 10, 1000, 100)  # type: ignore[arg-type]
    for block in range(12)
    for kind, size in SIZES.items()
]


def test_there_are_recipes() -> None:
    assert len(RECIPES) >= 8


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_recipe_reads_and_allocates(path: Path) -> None:
    recipe = read_recipe(path.stem)
    assert recipe.title
    assert recipe.source
    assert from_toml(to_toml(recipe)) == recipe
    pairs = [Bits(w, a) for w in range(1, 9) for a in range(1, 9)]
    table = random_scores(LAYERS, pairs, base=4.0, seed=0)
    costs, spec = CostModel(LAYERS, 1000), recipe.allocation
    solved = allocate if spec.solver != "greedy" else lambda *_: greedy(costs, by_table(costs, table, spec), spec)
    found = solved(costs, table, spec)
    asked = recipe.allocation.budgets.mean_bits or recipe.allocation.uniform.weights
    assert asked - 0.3 < found.cost.mean_bits <= asked + 1e-9
