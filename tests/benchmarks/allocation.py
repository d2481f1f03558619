"""The integer program on a ViT of 48 linear layers and 7 widths."""

from __future__ import annotations

from timing import Line, below, seconds

from lampq_engine.allocate import Program
from lampq_engine.controls import random_scores
from lampq_engine.cost import CostModel
from lampq_engine.frontier import frontier
from lampq_engine.recipe import AllocationSpec, Budgets, Menu
from lampq_engine.types import KINDS, Bits, Layer

WIDTHS = (2, 3, 4, 5, 6, 7, 8)
PAIRS = [Bits(w, a) for w in WIDTHS for a in WIDTHS]
SHAPES = {"qkv": (576, 192), "proj": (192, 192), "fc1": (768, 192), "fc2": (192, 768)}
LAYERS = [
    Layer(f"blocks.{b}.{kind}", kind, b, o * i, o, o, o * i * 197, 197 * i)  # type: ignore[arg-type]
    for b in range(12)
    for kind, (o, i) in SHAPES.items()
]


def program(*, tied: bool) -> Program:
    spec = AllocationSpec(menus={kind: Menu(WIDTHS, WIDTHS, tied=tied) for kind in KINDS})
    return Program(CostModel(LAYERS, 300_000), random_scores(LAYERS, PAIRS, base=4, seed=1), spec)


def milliseconds(one: Program, *names: str, count: int = 40) -> list[float]:
    """Time of each solution over budgets from tight to loose, each near binding."""
    found = []
    for k in range(count):
        mean = 2.2 + 5.6 * k / count
        whole = {"mean_bits": mean, "mean_activation_bits": mean}
        low, high = one.least["megabytes"], one.most["megabytes"]
        whole["megabytes"] = low + (high - low) * (mean - 2) / 6
        whole["gbops"] = one.most["gbops"] * (mean / 8) ** 2 * (1.0 if k % 2 else 0.95)
        found.append(one.solve(Budgets(**{name: whole[name] for name in names})).solution.milliseconds)
    return found


def solutions() -> list[Line]:
    """One exact solution, as the slider asks for it."""
    tied, free = program(tied=True), program(tied=False)
    return [
        below(
            "ILP, 48 layers x 7 tied widths, mean bits and GBOPs",
            50,
            milliseconds(tied, "mean_bits", "gbops"),
            "ms",
            ".1f",
        ),
        below(
            "ILP, 48 layers x 7 tied widths, megabytes and GBOPs",
            50,
            milliseconds(tied, "megabytes", "gbops"),
            "ms",
            ".1f",
        ),
        below(
            "ILP, 48 layers x 49 free pairs, two means",
            50,
            milliseconds(free, "mean_bits", "mean_activation_bits"),
            "ms",
            ".1f",
        ),
    ]


def frontiers() -> list[Line]:
    """A hundred exact solutions along one budget."""
    one = program(tied=True)
    return [
        below(
            f"frontier of 100 points along {budget.replace('_', ' ')}",
            3,
            [seconds(lambda budget=budget: frontier(one, budget, points=100)) for _ in range(3)],  # type: ignore[misc]
            "s",
        )
        for budget in ("mean_bits", "megabytes", "gbops")
    ]
