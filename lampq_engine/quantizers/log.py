"""Logarithmic quantizers for attention probabilities, which follow a power law."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from lampq_engine.quantizers.uniform import SAMPLE


class LogSqrt2(nn.Module):
    """A fitted log-sqrt(2) quantizer of values in [0, 1]: levels `scale * 2^(-k/2)`, and 0 below the last.

    RepQ-ViT (methods of its softmax quantizer): `k = round(-2 log2(x / scale))`, codes of 2^bits and more become 0.
    """

    scale: Tensor

    def __init__(self, bits: int, scale: Tensor) -> None:
        super().__init__()
        self.bits = bits
        self.register_buffer("scale", scale)

    def codes(self, x: Tensor) -> Tensor:
        """Integer codes 0..2^bits as floats; 2^bits stands for zero."""
        return x.div(self.scale).log2_().mul_(-2).round_().clamp_(0, 2**self.bits)

    def quantize(self, x: Tensor) -> Tensor:
        k = self.codes(x)
        zero = k >= 2**self.bits
        return k.mul_(-0.5).exp2_().mul_(self.scale).masked_fill_(zero, 0.0)

    def forward(self, x: Tensor) -> Tensor:
        if torch.is_grad_enabled() and x.requires_grad:
            return _Straight.apply(x, self.quantize(x.detach()))
        return self.quantize(x)

    def learn_(self) -> None:
        """Nothing to learn: the scale of probabilities stays."""

    def bake_(self) -> None:
        """Nothing was learned."""

    def extra_repr(self) -> str:
        return f"bits={self.bits}"


class _Straight(torch.autograd.Function):
    """Forward the quantized value, backward the gradient as it is where it did not become zero."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, quantized: Tensor) -> Tensor:
        ctx.save_for_backward(quantized)
        return quantized

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (quantized,) = ctx.saved_tensors
        return grads[0] * (quantized > 0), None


@torch.no_grad()
def fit_log_sqrt2(x: Tensor, bits: int, search: str = "mse") -> LogSqrt2:
    """The log-sqrt(2) quantizer of `x` whose scale, among shares of the greatest value, has the least squared error."""
    flat = x.detach().flatten().float()
    top = flat.max().clamp(min=1e-12)
    sample = flat[:: max(1, flat.numel() // SAMPLE)]
    shares = [1.0] if search == "minmax" else [1.0, 0.92, 0.85, 0.75, 0.65, 0.5]
    fits = [LogSqrt2(bits, top * share) for share in shares]
    return min(fits, key=lambda fit: float(torch.nn.functional.mse_loss(fit(sample), sample)))
