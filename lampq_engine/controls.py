"""Controls: sensitivities that carry no information, or the wrong one, solved at the same budget as the real one."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace

from lampq_engine.types import Bits, Cell, Layer, Sensitivity


def decay(score: float, error: float, pairs: Sequence[Bits], base: float) -> dict[Bits, Cell]:
    """Harm of a width-free score at given widths: score x base^-B, LampQ's rule where both widths are B.

    Where they differ, the mean of the two halves (our choice, equal to LampQ's rule for tied widths).
    """
    share = {bits: (base**-bits.weights + base**-bits.activations) / 2 for bits in pairs}
    return {bits: Cell(score * s, error * s) for bits, s in share.items()}


def random_scores(layers: Sequence[Layer], pairs: Sequence[Bits], *, base: float, seed: int) -> Sensitivity:
    """Log-normal scores that know nothing of the model: the control every metric must beat."""
    source = random.Random(seed)
    raw = {layer.name: source.lognormvariate(0.0, 1.5) for layer in layers if layer.weights}
    cells = {name: decay(score, 0.0, pairs, base) for name, score in raw.items()}
    return Sensitivity("random", "arbitrary", 0, cells, raw=raw, notes={"seed": seed})


def inverted(sensitivity: Sensitivity) -> Sensitivity:
    """The ranking turned upside down: the most sensitive layer gets the scores of the least sensitive one."""
    order = sorted(sensitivity.cells, key=lambda name: _peak(sensitivity.cells[name]))
    swap = dict(zip(order, reversed(order), strict=True))
    cells = {name: sensitivity.cells[swap[name]] for name in sensitivity.cells}
    raw = {name: sensitivity.raw[swap[name]] for name in sensitivity.raw} if sensitivity.raw else {}
    return replace(
        sensitivity,
        metric="inverted",
        cells=cells,
        raw=raw,
        raw_error={},
        notes={**sensitivity.notes, "inverted_from": sensitivity.metric},
    )


def _peak(row: Mapping[Bits, Cell]) -> float:
    return max(cell.harm for cell in row.values())
