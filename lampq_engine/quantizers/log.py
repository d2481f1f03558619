"""Logarithmic quantizers, for attention probabilities and GELU outputs, which follow power laws."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from lampq_engine.quantizers.values import Values, values_of

R = 37  # AdaLog's fixed denominator of the rational base 2^(Q / R)
LEAST_Q, MOST_Q = 6, 120  # steps from 2^(6/37), a twelfth of an octave a code, to more than three octaves a code
GELU_SHIFT = 0.16997  # GELU's least value is minus this: shifted by it, every output is positive (AdaLog)


class Log(nn.Module):
    """A fitted logarithmic quantizer: levels `scale * 2^(-k Q / R) - shift`, and `-shift` below the last.

    AdaLog (ECCV 2024): the base 2^(Q / R) is rational; Q = 37 is log2, Q = 18.5 is RepQ-ViT's log-sqrt(2). The last
    of the 2^bits codes stands for zero, so that `bits` bits hold every code (our choice: the papers' code has one
    level more).
    """

    scale: Tensor
    q: Tensor
    shift: Tensor

    def __init__(self, bits: int, scale: Tensor, q: Tensor, shift: Tensor | None = None) -> None:
        super().__init__()
        self.bits = bits
        self.register_buffer("scale", scale)
        self.register_buffer("q", q)
        self.register_buffer("shift", torch.zeros_like(scale) if shift is None else shift)

    @property
    def levels(self) -> int:
        """The highest code, 2^bits - 1, which stands for zero."""
        return 2**self.bits - 1

    def codes(self, x: Tensor) -> Tensor:
        """Integer codes 0..levels as floats; the last stands for zero."""
        return _codes(x, self.scale, self.q, self.shift, self.levels)

    def quantize(self, x: Tensor) -> Tensor:
        return _values(self.codes(x), self.scale, self.q, self.shift, self.levels)

    def forward(self, x: Tensor) -> Tensor:
        if torch.is_grad_enabled() and x.requires_grad:
            return _Straight.apply(x, self.quantize(x.detach()), -self.shift)
        return self.quantize(x)

    def learn_(self) -> None:
        """Nothing to learn: scale and base stay."""

    def bake_(self) -> None:
        """Nothing was learned."""

    def extra_repr(self) -> str:
        return f"bits={self.bits}"


def _codes(x: Tensor, scale: Tensor, q: Tensor, shift: Tensor, levels: int) -> Tensor:
    return (x + shift).div_(scale).clamp_(min=1e-30).log2_().mul_(-R / q).round_().clamp_(0, levels)


def _values(codes: Tensor, scale: Tensor, q: Tensor, shift: Tensor, levels: int) -> Tensor:
    zero = codes >= levels
    return codes.mul(-q / R).exp2_().mul_(scale).masked_fill_(zero, 0.0).sub_(shift)


class _Straight(torch.autograd.Function):
    """Forward the quantized value, backward the gradient as it is where the value did not become the lowest."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, quantized: Tensor, lowest: Tensor) -> Tensor:
        ctx.save_for_backward(quantized, lowest)
        return quantized

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        quantized, lowest = ctx.saved_tensors
        return grads[0] * (quantized > lowest), None, None


@torch.no_grad()
def fit_log(values: Values, bits: int, *, shift: float = 0.0, fixed_q: float = 0.0, clip: bool = True) -> Log:
    """The logarithmic quantizer of least weighted squared error on `values`: scale and base searched together.

    `fixed_q` keeps the base (18.5: log-sqrt(2)); without `clip` the scale is the greatest value.
    """
    levels = 2**bits - 1
    top = (values.at.max() + shift).clamp(min=1e-12)
    shares = torch.tensor([1.0, 0.95, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2]) if clip else torch.ones(1)
    qs = torch.tensor([fixed_q]) if fixed_q else torch.arange(LEAST_Q, MOST_Q + 1.0)
    scale, q = (grid.reshape(-1, 1).to(values.at) for grid in torch.meshgrid(shares * top.cpu(), qs, indexing="ij"))
    moved = torch.full_like(scale, shift)
    rounded = _values(_codes(values.at, scale, q, moved, levels), scale, q, moved, levels)
    best = int(((rounded - values.at).square_() @ values.weight).argmin())
    return Log(bits, scale[best, 0], q[best, 0], moved[best, 0])


def fit_log_sqrt2(x: Tensor, bits: int, search: str = "mse") -> Log:
    """RepQ-ViT's quantizer of probabilities: base sqrt(2), the scale a searched share of the greatest value."""
    return fit_log(values_of(x), bits, fixed_q=R / 2, clip=search != "minmax")
