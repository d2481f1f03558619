"""Fitting the quantizers of one layer to what is known of it: its weight and the inputs it was seen to get."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from lampq_engine.importance import Importance
from lampq_engine.quantized import Quantized
from lampq_engine.quantizers import (
    Quantizer,
    Uniform,
    Values,
    fit_input,
    fit_log_context,
    fit_symmetric_weight,
    fit_weight,
    values_of,
)
from lampq_engine.recipe import QuantizationSpec
from lampq_engine.tokens import dense, mean, rows, second_moment, token_grads
from lampq_engine.types import FLOAT_BITS, Bits, Layer


@dataclass(frozen=True, eq=False)
class Seen:
    """A layer with the inputs it was seen to get, and what the searches need of both, computed once."""

    op: nn.Module
    layer: Layer
    inputs: Sequence[Tensor]
    spec: QuantizationSpec
    importance: Importance | None = None  # of its output's tokens and channels; None: all matter alike

    @property
    def token_weights(self) -> Tensor | None:
        return self.importance.tokens if self.importance else None

    @property
    def corrects_bias(self) -> bool:
        """Whether the mean of the output error will be put into the bias, so that it is no error."""
        return self.spec.bias == "correct" and getattr(self.op, "bias", None) is not None

    @property
    def by_output(self) -> bool:
        return self.spec.range == "output" and dense(self.op)

    @property
    def search(self) -> str:
        return "minmax" if self.spec.range == "minmax" else "mse"

    @property
    def weight(self) -> Tensor:
        assert isinstance(self.op.weight, Tensor)
        return self.op.weight

    @cached_property
    def gram(self) -> Tensor | None:
        """The second moment of the inputs (I, I), where ranges are searched by output error."""
        if not self.by_output:
            return None
        return second_moment(rows(self.op, self.inputs[0]), centred=self.corrects_bias, weights=self.token_weights)

    @cached_property
    def values(self) -> tuple[Values, ...]:
        """A histogram of each input; of each head of a matmul's operands where they have scales of their own."""
        if not self.layer.is_matmul:
            if not (self.by_output and isinstance(self.op, nn.Linear)):
                return (values_of(self.inputs[0]),)
            heard = self.weight.detach().square()
            channels = heard.sum(0) if self.importance is None else self.importance.channels @ heard
            return (values_of(self.inputs[0], channels, self.token_weights),)
        return tuple(
            values_of(x, groups=x.shape[-3] if self.spec.operands == "head" and not self.is_softmax(i) else 1)
            for i, x in enumerate(self.inputs)
        )

    def is_softmax(self, place: int) -> bool:
        """Whether an input is what comes out of the softmax: the left operand of the second matmul."""
        return self.layer.kind == "context" and place == 0

    def rule(self, place: int) -> str:
        """The name of the quantizer that the recipe wants for an input."""
        if self.is_softmax(place):
            return self.spec.softmax
        if self.layer.kind == "fc2" and self.spec.gelu != "uniform":
            return self.spec.gelu
        return "symmetric" if self.spec.grid == "symmetric" else "uniform"

    def fit_inputs(self, bits: Bits) -> list[Quantizer | None]:
        """A quantizer for each input; None where one stays in float."""
        return [None if w == FLOAT_BITS else self.fit_input(i, w) for i, w in enumerate(input_widths(self.layer, bits))]

    def fit_input(self, place: int, width: int) -> Quantizer:
        """The quantizer of one input, at a width below float's."""
        rule = self.rule(place)
        if self.is_softmax(place) and rule == "adalog" and self.spec.operands == "head" and self.spec.range == "output":
            return fit_log_context(self.inputs[0], self.inputs[1], width)
        return fit_input(self.values[place], width, name=rule, search=self.search)

    def fit_weight(self, bits: Bits) -> Uniform | None:
        """The weight's quantizer; None for a matmul, and where the weight stays in float."""
        if self.layer.is_matmul or bits.weights == FLOAT_BITS:
            return None
        fit = fit_weight if self.spec.grid == "asymmetric" else fit_symmetric_weight
        return fit(self.weight, bits.weights, self.search, self.gram)


def input_widths(layer: Layer, bits: Bits) -> tuple[int, ...]:
    """Widths of a layer's inputs: one for a weight layer; for a matmul its left, then its right operand."""
    return (bits.activations, bits.weights) if layer.is_matmul else (bits.activations,)


def wrap(seen: Seen, bits: Bits) -> Quantized:
    """Fit the quantizers of one layer on its weight and the inputs it was seen to get, and wrap it."""
    module = Quantized(seen.op, seen.fit_weight(bits), seen.fit_inputs(bits))
    if seen.corrects_bias:
        module.shift = mean_error(module, seen.inputs[0], seen.token_weights)
    return module


@torch.no_grad()
def mean_error(module: Quantized, x: Tensor, weights: Tensor | None = None) -> Tensor:
    """What quantization takes from the mean of each output channel on `x`, (O,): empirical bias correction.

    Nagel et al. 2019, section 4.2, with the inputs quantized as well, and tokens weighted by `weights` (our choice).
    """
    lost = module.op.forward(x) - Quantized.forward(module, x)
    return mean(token_grads(module.op, lost, len(x)).flatten(0, 1), weights)
