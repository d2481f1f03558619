"""Measured harm: what quantizing one layer alone does to the model's prediction, as KL divergence from float."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lampq_engine.data import Images
from lampq_engine.evaluate import device_of, divergence, predict
from lampq_engine.fitting import Seen, wrap
from lampq_engine.journal import Report, silent
from lampq_engine.quantize import NO_FOLDS, Folds, fold_, watch_inputs
from lampq_engine.quantized import Quantized, alone
from lampq_engine.recipe import QuantizationSpec
from lampq_engine.sensitivity.type_aware import FOLD_BITS
from lampq_engine.types import Bits, Cell, Layer, Sensitivity


@torch.no_grad()
def measured_harm(
    model: nn.Module,
    layers: Sequence[Layer],
    images: Images,
    *,
    pairs_of_bits: Sequence[Bits],
    quantization: QuantizationSpec,
    folds: Folds = NO_FOLDS,
    report: Report = silent,
) -> Sensitivity:
    """KL(float || one layer quantized) at each pair of widths, mean and standard error over images (our choice).

    Costs one forward of `images` for every layer and pair. `model` is folded in place, which leaves its function.
    """
    calibration = images.batch(range(min(quantization.images, len(images)))).to(device_of(model))
    fold_(model, folds, {layer.name: FOLD_BITS for layer in layers}, calibration, quantization)
    reference = predict(model, images)
    cells: dict[str, dict[Bits, Cell]] = {}
    for done, layer in enumerate(layers):
        wrapped = _fit(model, layer, calibration, pairs_of_bits, quantization)
        cells[layer.name] = {}
        for bits, module in wrapped.items():
            with alone(model, layer.name, module):
                kl = divergence(reference, predict(model, images)).double()
            error = float(kl.std()) / len(kl) ** 0.5 if len(kl) > 1 else 0.0
            cells[layer.name][bits] = Cell(max(0.0, float(kl.mean())), error)
        report("measured harm", done + 1, len(layers))
    narrowest = min(pairs_of_bits)
    raw = {name: row[narrowest].harm for name, row in cells.items()}
    errors = {name: row[narrowest].error for name, row in cells.items()}
    return Sensitivity("harm", "KL, nats", len(images), cells, raw, errors, notes={"raw_at": str(narrowest)})


def _fit(
    model: nn.Module, layer: Layer, calibration: Tensor, pairs_of_bits: Sequence[Bits], quantization: QuantizationSpec
) -> dict[Bits, Quantized]:
    wrapped: dict[Bits, Quantized] = {}

    def see(name: str, inputs: tuple[Tensor, ...]) -> None:
        seen = Seen(model.get_submodule(name), layer, inputs, quantization)
        wrapped.update({bits: wrap(seen, bits) for bits in pairs_of_bits})

    with watch_inputs(model, [layer.name], see):
        model(calibration)
    return wrapped
