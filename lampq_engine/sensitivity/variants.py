"""Every layer's quantizers at every width, fitted once, so that a layer of a running model changes width at no cost."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from lampq_engine.fitting import Seen, mean_error, wrap
from lampq_engine.quantize import watch_inputs
from lampq_engine.quantized import Quantized
from lampq_engine.recipe import QuantizationSpec
from lampq_engine.types import FLOAT_BITS, Bits, Layer


@dataclass
class _Sides:
    """Of one layer: the quantizer of each side at each width, and the mean output error that side alone makes."""

    op: nn.Module
    is_matmul: bool
    weights: dict[int, Any] = field(default_factory=dict)  # of a matmul: its right operand's
    inputs: dict[int, Any] = field(default_factory=dict)
    shifts: dict[tuple[str, int], Tensor] = field(default_factory=dict)

    def at(self, bits: Bits) -> Quantized:
        weight, left = self.weights.get(bits.weights), self.inputs.get(bits.activations)
        if self.is_matmul:
            return Quantized(self.op, None, [left, weight])
        made = Quantized(self.op, weight, [left])
        parts = [self.shifts.get(("weights", bits.weights)), self.shifts.get(("inputs", bits.activations))]
        known = [part for part in parts if part is not None]
        made.shift = sum(known[1:], known[0]) if known else None
        return made


@dataclass(frozen=True)
class Variants:
    """A model's layers at any pair of the fitted widths; 32 is float.

    The bias correction of a pair is the sum of its two sides', exact but for their product (our choice).
    """

    sides: Mapping[str, _Sides]

    def set_(self, model: nn.Module, bits: Mapping[str, Bits]) -> None:
        """Give these layers of the model these widths."""
        for name, pair in bits.items():
            model.set_submodule(name, self.sides[name].at(pair))

    @contextmanager
    def tried(self, model: nn.Module, name: str, bits: Bits) -> Iterator[None]:
        """The model with one layer at other widths, for a while."""
        before = model.get_submodule(name)
        model.set_submodule(name, self.sides[name].at(bits))
        try:
            yield
        finally:
            model.set_submodule(name, before)


@torch.no_grad()
def fit_variants(
    model: nn.Module, layers: Sequence[Layer], images: Tensor, widths: Sequence[int], spec: QuantizationSpec
) -> Variants:
    """Fit every side of every layer at every width on the float model's own inputs, in one forward of `images`."""
    by_name, sides = {layer.name: layer for layer in layers}, dict[str, _Sides]()

    def see(name: str, inputs: tuple[Tensor, ...]) -> None:
        layer, op = by_name[name], model.get_submodule(name)
        sides[name] = one = _Sides(op, layer.is_matmul)
        seen = Seen(op, layer, inputs, spec)
        for width in sorted(set(widths) - {FLOAT_BITS}):
            wrapped = wrap(seen, Bits(width, width))
            one.inputs[width] = wrapped.input_quantizers[0]
            one.weights[width] = wrapped.input_quantizers[1] if layer.is_matmul else wrapped.weight_quantizer
            if wrapped.shift is not None:
                one.shifts["weights", width] = mean_error(Quantized(op, one.weights[width], [None]), inputs[0])
                one.shifts["inputs", width] = mean_error(Quantized(op, None, [one.inputs[width]]), inputs[0])

    with watch_inputs(model, list(by_name), see):
        model(images)
    return Variants(sides)
