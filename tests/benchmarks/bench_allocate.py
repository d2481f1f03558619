"""How long the integer program takes on a ViT of 48 linear layers: run `python tests/benchmarks/bench_allocate.py`."""

from __future__ import annotations

import statistics
import time

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


def median(one: Program, *names: str, count: int = 40) -> str:
    """Median and greatest milliseconds over budgets from tight to loose, each near binding."""
    found = []
    for k in range(count):
        mean = 2.2 + 5.6 * k / count
        whole = {"mean_bits": mean, "mean_activation_bits": mean}
        low, high = one.least["megabytes"], one.most["megabytes"]
        whole["megabytes"] = low + (high - low) * (mean - 2) / 6
        whole["gbops"] = one.most["gbops"] * (mean / 8) ** 2 * (1.0 if k % 2 else 0.95)
        found.append(one.solve(Budgets(**{name: whole[name] for name in names})).solution.milliseconds)
    return f"median {statistics.median(found):6.1f} ms, greatest {max(found):6.1f} ms"


def curve(one: Program, budget: str) -> str:
    start = time.perf_counter()
    frontier(one, budget, points=100)
    return f"{time.perf_counter() - start:6.2f} s"


def main() -> None:
    start = time.perf_counter()
    tied, free = program(tied=True), program(tied=False)
    print(f"build both programs                        {1e3 * (time.perf_counter() - start):6.1f} ms")
    print(f"tied, 48 x 7, mean bits + GBOPs            {median(tied, 'mean_bits', 'gbops')}")
    print(f"tied, 48 x 7, megabytes                    {median(tied, 'megabytes')}")
    for budget in ("mean_bits", "megabytes", "gbops"):
        print(f"tied, frontier of 100 points, {budget:<12} {curve(tied, budget)}")
    print(f"free, 48 x 49, two means                   {median(free, 'mean_bits', 'mean_activation_bits')}")
    print(f"free, 48 x 49, megabytes                   {median(free, 'megabytes')}")
    print(f"free, 48 x 49, two means + GBOPs           {median(free, 'mean_bits', 'mean_activation_bits', 'gbops')}")
    for budget in ("mean_bits", "gbops"):
        print(f"free, frontier of 100 points, {budget:<12} {curve(free, budget)}")


if __name__ == "__main__":
    main()
