"""The one straight-through rounding formula, used for post-training quantization and for training alike."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def fake_quantize(x: Tensor, scale: Tensor, zero: Tensor, levels: int) -> Tensor:
    """`scale * (clamp(round(x / scale + zero), 0, levels) - zero)` with LSQ's straight-through gradients.

    `scale` and `zero` broadcast against `x`; `zero` may be half-integer. The gradient of `x` passes where the code
    is in range; that of `scale` is LSQ's (Esser et al. 2020, eq. 3), scaled by `1 / sqrt(elements per scale x levels)`.
    """
    if torch.is_grad_enabled() and (x.requires_grad or scale.requires_grad):
        return _FakeQuantize.apply(x, scale, zero, levels)
    return _forward(x, scale, zero, levels)


def codes(x: Tensor, scale: Tensor, zero: Tensor, levels: int) -> Tensor:
    """The integer codes 0..levels that `fake_quantize` rounds to, as floats."""
    return _position(x, scale, zero).round_().clamp_(0, levels)


def _position(x: Tensor, scale: Tensor, zero: Tensor) -> Tensor:
    """`x / scale + zero`: where each element lies on the grid of codes."""
    return (x * (1 / scale)).add_(zero)


def _forward(x: Tensor, scale: Tensor, zero: Tensor, levels: int) -> Tensor:
    return codes(x, scale, zero, levels).sub_(zero).mul_(scale)


class _FakeQuantize(torch.autograd.Function):
    """Whole-tensor passes are what it costs, so it takes only ones that run vectorised: no mask, no ternary."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, zero: Tensor, levels: int) -> Tensor:
        rounded = _forward(x, scale, zero, levels)
        ctx.save_for_backward(x, scale, zero, rounded)
        ctx.levels = levels
        return rounded

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        (grad,), (x, scale, zero, rounded) = grads, ctx.saved_tensors
        # the gradient of clamp, strictly inside the range as in LSQ
        inside = torch.ops.aten.hardtanh_backward(grad, _position(x, scale, zero), 0, ctx.levels)
        if not ctx.needs_input_grad[1]:
            return inside, None, None, None
        # LSQ's three cases at once: (rounded - x) / scale inside the range, rounded / scale (the level) outside
        per_scale = (_inner(grad, rounded, scale.shape) - _inner(inside, x, scale.shape)) / scale
        elements = x.numel() / scale.numel()
        return inside, per_scale / (elements * ctx.levels) ** 0.5, None, None


def _inner(a: Tensor, b: Tensor, shape: torch.Size) -> Tensor:
    """The sum of `a b` over the elements that share a scale, in the shape of the scales."""
    if shape.numel() == 1:
        return torch.dot(a.reshape(-1), b.reshape(-1)).view(shape)
    return (a * b).sum_to_size(shape)
