"""Symmetric uniform quantizers: the zero point is the middle code, as SQ-b's centred values and PSAQ-ViT's weights."""

from __future__ import annotations

import torch
from torch import Tensor

from lampq_engine.quantizers.search import Errors, gram_errors, row_errors, value_errors
from lampq_engine.quantizers.uniform import Uniform
from lampq_engine.quantizers.values import Values, values_of

SHRINK = torch.linspace(1.0, 0.2, 65)  # shares of the whole range that are tried


@torch.no_grad()
def fit_symmetric_weight(weight: Tensor, bits: int, search: str = "mse", gram: Tensor | None = None) -> Uniform:
    """A symmetric per-output-channel quantizer of a weight (O, ...), by squared error or from its whole range.

    With `gram` (I, I), the Gram matrix of the layer's inputs, by the error of the layer's output.
    """
    rows = weight.detach().flatten(1).float()
    errors = row_errors(rows, bits) if gram is None else gram_errors(rows, gram, bits)
    scale, zero = _fit(errors, rows.abs().amax(1), bits, search)
    shape = (-1, *[1] * (weight.dim() - 1))
    return Uniform(bits, scale.view(shape), zero.view(shape))


def fit_symmetric(x: Tensor, bits: int, search: str = "mse", channels: Tensor | None = None) -> Uniform:
    """A symmetric per-tensor quantizer of activations; `channels` (C,) weighs the squared error of each channel."""
    return fit_symmetric_values(values_of(x, channels), bits, search)


@torch.no_grad()
def fit_symmetric_values(values: Values, bits: int, search: str = "mse") -> Uniform:
    """The same from a histogram of the tensor, or one of each of its heads."""
    top = torch.maximum(values.low.abs(), values.high.abs()).view(-1)
    scale, zero = _fit(value_errors(values, bits), top, bits, search)
    shape = (len(top), 1, 1) if len(top) > 1 else ()
    return Uniform(bits, scale.view(shape), zero.view(shape))


def _fit(errors: Errors, top: Tensor, bits: int, search: str) -> tuple[Tensor, Tensor]:
    """Scale and zero (R,) of rows that reach `top`."""
    zero = torch.full_like(top, 2 ** (bits - 1))
    full = top / max(1, 2 ** (bits - 1) - 1)
    full = torch.where(full > 1e-12, full, torch.ones_like(full))
    if search == "minmax":
        return full, zero
    scales = SHRINK.to(full)[:, None] * full
    best = errors(scales, zero.expand_as(scales)).argmin(0, keepdim=True)
    return scales.gather(0, best)[0], zero
