"""Logarithmic quantizers, for attention probabilities and GELU outputs, which follow power laws."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from lampq_engine.quantizers.values import Values

R = 37  # AdaLog's fixed denominator of the rational base 2^(Q / R)
LEAST_Q, MOST_Q = 6, 120  # steps from 2^(6/37), a twelfth of an octave a code, to more than three octaves a code
GELU_SHIFT = 0.16997  # GELU's least value is minus this: shifted by it, every output is positive (AdaLog)


class Log(nn.Module):
    """A fitted logarithmic quantizer: levels `scale * 2^(-k Q / R) - shift`, and `-shift` below the last.

    AdaLog (ECCV 2024): the base 2^(Q / R) is rational; Q = 37 is log2, Q = 18.5 is RepQ-ViT's log-sqrt(2). The last
    of the 2^bits codes stands for zero, so that `bits` bits hold every code (our choice: the papers' code has one
    level more). `scale`, `q` and `shift` have shape () for a tensor, (heads, 1, 1) for an operand of attention.
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


NOTHING = -1e5  # an exponent whose power of two is zero


def _codes(x: Tensor, scale: Tensor, q: Tensor, shift: Tensor, levels: int) -> Tensor:
    per_octave = R / q
    place = (x + shift).clamp_(min=1e-30).log2_().mul_(per_octave).sub_(scale.log2() * per_octave)
    return place.round_().clamp_(-levels, 0).neg_()


def _values(codes: Tensor, scale: Tensor, q: Tensor, shift: Tensor, levels: int) -> Tensor:
    """What the codes stand for; few whole-tensor passes without a mask, since those are what it costs."""
    power = torch.threshold_(codes.neg(), 0.5 - levels, NOTHING)
    return power.mul_(q / R).add_(scale.log2()).exp2_().sub_(shift)


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


QUERIES = 128  # rows of each head's probabilities that a base is searched on
SHARES = torch.arange(1.0, 0.0, -0.1)
NEAR_SHARES, NEAR_Q = torch.tensor([-0.06, -0.03, 0.0, 0.03, 0.06]), torch.arange(-4.0, 5.0)


@torch.no_grad()
def fit_log_context(probabilities: Tensor, values: Tensor, bits: int) -> Log:
    """A logarithmic quantizer a head for attention probabilities A (B, H, N, M), by least error of `A V`.

    Rounding errors of a row do not cancel where they have a common sign, and the values (B, H, M, D) have a common
    mean: the error of the product sees that, the error of A does not. At 3 bits on DeiT-Tiny it is what matters most
    (our choice; AdaLog searches one base for all heads).
    """
    heads, (rows, source) = probabilities.shape[1], _queries(probabilities.float())
    found = []
    for head in range(heads):
        x, v = rows[:, head], values[source, head].float()  # (Q, M), (Q, M, D)
        top = probabilities[:, head].max().float().clamp(min=1e-12)
        grid = torch.cartesian_prod(SHARES.to(x), torch.arange(8.0, 121.0, 8.0).to(x))
        share, q = _least(x, v, top, grid, bits)
        near = torch.cartesian_prod((share + NEAR_SHARES.to(x)).clamp(0.02, 1.0), (q + NEAR_Q.to(x)).clamp(min=4.0))
        share, q = _least(x, v, top, near, bits)
        found.append((share * top, q))
    scale, q = (torch.stack(side).view(heads, 1, 1) for side in zip(*found, strict=True))
    return Log(bits, scale, q)


def _queries(probabilities: Tensor) -> tuple[Tensor, Tensor]:
    """Rows spread over images and queries, (Q, H, M), and the image each comes from, (Q,)."""
    images, _, queries, _ = probabilities.shape
    place = torch.arange(0, images * queries, max(1, images * queries // QUERIES), device=probabilities.device)
    source = place // queries
    return probabilities[source, :, place % queries], source


def _least(x: Tensor, values: Tensor, top: Tensor, grid: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """The share and base (two scalars) of `grid` (K, 2) with the least `|e V|^2` over the rows of x (Q, M)."""
    scale, q = grid[:, :1, None] * top, grid[:, 1:, None]
    levels = 2**bits - 1
    e = _values(_codes(x, scale, q, torch.zeros_like(q), levels), scale, q, torch.zeros_like(q), levels).sub_(x)
    errors = torch.bmm(e.transpose(0, 1), values).square_().sum((0, 2))  # (Q, K, M) (Q, M, D)
    best = grid[int(errors.argmin())]
    return best[0], best[1]
