"""What widths cost: bytes of the packed file, bit operations, mean bits. Linear in the choice made per layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from lampq_engine.types import FLOAT_BITS, Bits, Cost, Layer, in_mean

SCALE_BYTES = 6  # per output channel of a quantized weight: a float32 scale and an int16 zero point
INPUT_BYTES = 8  # per quantized input: a float32 scale and a float32 zero point
LOG_BYTES = 12  # of a logarithmic quantizer: scale, base, shift


def layer_bytes(layer: Layer, bits: Bits) -> int:
    """Bytes that the packed file spends on one layer's codes, scales and zero points; biases are counted apart."""
    inputs = 0 if bits.activations == FLOAT_BITS else INPUT_BYTES
    if layer.is_matmul:
        left = LOG_BYTES if inputs and layer.kind == "context" else inputs
        return max(1, layer.heads) * (left + (0 if bits.weights == FLOAT_BITS else INPUT_BYTES))
    if bits.weights == FLOAT_BITS:
        return 4 * layer.weights + inputs
    return -(-layer.weights * bits.weights // 8) + SCALE_BYTES * layer.channels + inputs


def layer_bops(layer: Layer, bits: Bits) -> int:
    """Bit operations of one layer for one image: MACs x weight bits x activation bits (matmul: both operands')."""
    return layer.macs * bits.weights * bits.activations


@dataclass(frozen=True)
class CostModel:
    """The costs of every allocation of one model; `fixed_bytes` is what the packed file holds beside the layers."""

    layers: Sequence[Layer]
    fixed_bytes: int

    @cached_property
    def mean_weight(self) -> int:
        """Number of weights that mean bits are taken over."""
        return sum(layer.weights for layer in self.layers if in_mean(layer)) or 1

    def terms(self, layer: Layer, bits: Bits) -> dict[str, float]:
        """What one layer at `bits` adds to each cost."""
        share = layer.weights / self.mean_weight if in_mean(layer) else 0.0
        return {
            "mean_bits": share * bits.weights,
            "mean_activation_bits": share * bits.activations,
            "megabytes": layer_bytes(layer, bits) / 1e6,
            "gbops": layer_bops(layer, bits) / 1e9,
        }

    @property
    def constant(self) -> dict[str, float]:
        """What every allocation costs before any layer is counted."""
        return {"mean_bits": 0.0, "mean_activation_bits": 0.0, "megabytes": self.fixed_bytes / 1e6, "gbops": 0.0}

    def cost(self, bits: Mapping[str, Bits]) -> Cost:
        """Cost of an allocation; a layer it leaves out stays in float."""
        total = self.constant
        for layer in self.layers:
            for name, term in self.terms(layer, bits.get(layer.name, Bits(FLOAT_BITS, FLOAT_BITS))).items():
                total[name] += term
        return Cost(**total)
