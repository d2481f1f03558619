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
    return torch.addcmul(zero, x, 1 / scale).round_().clamp_(0, levels)


def _forward(x: Tensor, scale: Tensor, zero: Tensor, levels: int) -> Tensor:
    return torch.addcmul(-zero * scale, codes(x, scale, zero, levels), scale)


class _FakeQuantize(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, zero: Tensor, levels: int) -> Tensor:
        ctx.save_for_backward(x, scale, zero)
        ctx.levels = levels
        return _forward(x, scale, zero, levels)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        (grad,), (x, scale, zero) = grads, ctx.saved_tensors
        position = torch.addcmul(zero, x, 1 / scale)
        clipped = position.clamp(0, ctx.levels)
        inside = clipped == position
        grad_x = grad * inside if ctx.needs_input_grad[0] else None
        if not ctx.needs_input_grad[1]:
            return grad_x, None, None, None
        # inside: round(v) - v; outside: the clipped level itself, as LSQ's three cases
        slope = clipped.round_().sub_(torch.where(inside, position, zero))
        per_scale = (slope * grad).sum_to_size(scale.shape)
        elements = x.numel() / scale.numel()
        return grad_x, per_scale / (elements * ctx.levels) ** 0.5, None, None
