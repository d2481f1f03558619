"""Mix-QViT's two criteria: a layer's share of relevance times what its widths do around a baseline precision."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lampq_engine.data import Images
from lampq_engine.evaluate import device_of, divergence, predict
from lampq_engine.journal import Report, silent
from lampq_engine.quantize import NO_FOLDS, Folds, fold_
from lampq_engine.recipe import QuantizationSpec
from lampq_engine.sensitivity.lrp import Relevance, importance
from lampq_engine.sensitivity.type_aware import FOLD_BITS
from lampq_engine.sensitivity.variants import fit_variants
from lampq_engine.types import Bits, Cell, Layer, Sensitivity


@torch.no_grad()
def mixqvit_sensitivity(
    model: nn.Module,
    layers: Sequence[Layer],
    images: Images,
    found: Relevance,
    *,
    baseline: int,
    widths: Sequence[int],
    quantization: QuantizationSpec,
    folds: Folds = NO_FOLDS,
    report: Report = silent,
) -> Sensitivity:
    """`I_l (S_l(w) + S_l(a))`: every other layer stays at `baseline` bits while one side of one layer varies.

    `S` is the change of the mean KL to the float model against that side at the widest width, so that no harm is
    negative; the KL, the sum of the two sides and the product with `I_l` are our choice where the paper is not known.
    The table over pairs (w, a) is the quadratic program of the paper in one-hot form, which is linear and exact. One
    forward of `images` for each side and width; `model` is folded in place and left quantized.
    """
    calibration = images.batch(range(min(quantization.images, len(images)))).to(device_of(model))
    fold_(model, folds, {layer.name: FOLD_BITS for layer in layers}, calibration, quantization)
    reference = predict(model, images)
    variants = fit_variants(model, layers, calibration, sorted({*widths, baseline}), quantization)
    start = {layer.name: Bits(baseline, baseline) for layer in layers}
    variants.set_(model, start)

    def kl() -> Tensor:
        return divergence(reference, predict(model, images)).double()

    base, shares, cells = kl(), importance(found)[0], dict[str, dict[Bits, Cell]]()
    for done, layer in enumerate(layers):
        sides: dict[str, dict[int, Tensor]] = {"weights": {baseline: base}, "activations": {baseline: base}}
        for side, row in sides.items():
            for width in set(widths) - {baseline}:
                with variants.tried(model, layer.name, start[layer.name]._replace(**{side: width})):
                    row[width] = kl()
        cells[layer.name] = _cells(shares[layer.name], sides, widths)
        report("varying one layer", done + 1, len(layers))
    narrowest = Bits(min(widths), min(widths))
    return Sensitivity(
        "mixqvit",
        "relevance x KL",
        len(images),
        cells,
        {name: row[narrowest].harm for name, row in cells.items()},
        {name: row[narrowest].error for name, row in cells.items()},
        notes={"raw_at": str(narrowest), "baseline": baseline, "baseline_kl": float(base.mean()), "lost": found.lost},
    )


def _cells(share: float, sides: dict[str, dict[int, Tensor]], widths: Sequence[int]) -> dict[Bits, Cell]:
    """Harm and its standard error over images at every pair of widths, each side against its own best width."""
    rise = {}
    for side, row in sides.items():
        best = min((row[width] for width in widths), key=lambda kl: float(kl.mean()))
        rise[side] = {width: share * (row[width] - best) for width in widths}
    cells = {}
    for w in widths:
        for a in widths:
            total = rise["weights"][w] + rise["activations"][a]
            error = float(total.std()) / len(total) ** 0.5 if len(total) > 1 else 0.0
            cells[Bits(w, a)] = Cell(float(total.mean()), error)
    return cells
