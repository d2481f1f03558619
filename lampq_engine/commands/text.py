"""Results as text for a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lampq_engine.types import Allocation, Evaluation


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows of equal keys as an aligned table; missing values stay blank."""
    if not rows:
        return ""
    names = list(dict.fromkeys(name for row in rows for name in row))
    cells = [names, *([_cell(row.get(name)) for name in names] for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(names))]
    return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip() for line in cells)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def evaluation_text(found: Evaluation) -> str:
    """An accuracy as it must always be quoted: with its images and its 95 % interval."""
    low, high = found.interval
    return f"top-1 {found.top1:.2f} % (95 % interval {low:.1f} to {high:.1f}, {found.images} {found.split} images)"


def allocation_text(found: Allocation) -> str:
    """Widths by layer, then what they cost and how the solver went."""
    rows = [
        {"layer": name, "weights": bits.weights, "activations": bits.activations} for name, bits in found.bits.items()
    ]
    cost, solution = found.cost, found.solution
    return "\n".join(
        [
            table(rows),
            f"mean {cost.mean_bits:.4f} weight bits, {cost.mean_activation_bits:.4f} activation bits, "
            f"{cost.megabytes:.4f} MB, {cost.gbops:.4f} GBOPs",
            f"{solution.status}: harm {solution.harm:.6g}, bound {solution.bound:.6g}, gap {solution.gap:.2g}, "
            f"{solution.milliseconds:.0f} ms, binding: {', '.join(solution.binding) or 'none'}",
        ]
    )
