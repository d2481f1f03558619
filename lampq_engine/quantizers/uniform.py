"""Uniform quantizers: evenly spaced levels around a zero point, per tensor or per output channel."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from lampq_engine.quantizers.rounding import codes, fake_quantize

TOKENS = 512  # tokens that an input range is searched on by output error
SAMPLE = 1 << 17  # elements that an activation range is searched on; its extremes come from all of them


class Uniform(nn.Module):
    """A fitted asymmetric uniform quantizer: `2^bits` levels `scale * (k - zero)`.

    `scale` and `zero` broadcast against the tensor: shape () per tensor, (O, 1, ...) per output channel.
    """

    scale: Tensor
    zero: Tensor

    def __init__(self, bits: int, scale: Tensor, zero: Tensor) -> None:
        super().__init__()
        self.bits = bits
        self.register_buffer("scale", scale)
        self.register_buffer("zero", zero)
        self.log_step: nn.Parameter | None = None  # while training: the learned logarithm of the scale's change

    @property
    def levels(self) -> int:
        """The highest code, 2^bits - 1."""
        return 2**self.bits - 1

    @property
    def step(self) -> Tensor:
        """The scale in force."""
        return self.scale if self.log_step is None else self.scale * self.log_step.exp()

    def forward(self, x: Tensor) -> Tensor:
        return fake_quantize(x, self.step, self.zero, self.levels)

    def codes(self, x: Tensor) -> Tensor:
        """Integer codes 0..levels, as floats."""
        return codes(x, self.step, self.zero, self.levels)

    def learn_(self) -> None:
        """Make the step size a learned parameter."""
        self.log_step = nn.Parameter(torch.zeros_like(self.scale))

    def bake_(self) -> None:
        """Make the learned step size the scale."""
        with torch.no_grad():
            self.scale.copy_(self.step)
        self.log_step = None

    def extra_repr(self) -> str:
        return f"bits={self.bits}, per={'tensor' if self.scale.numel() == 1 else 'channel'}"


@torch.no_grad()
def fit_weight(weight: Tensor, bits: int, search: str = "mse") -> Uniform:
    """A per-output-channel quantizer of a weight (O, ...), its clipping range searched by squared error.

    The zero point may be half-integer, so that at 2 bits both (-1, 0, 1, 2) and (-1.5, -0.5, 0.5, 1.5) steps are in
    reach (our choice).
    """
    rows = weight.detach().flatten(1).float()
    scale, zero = _fit_rows(rows, bits, search, halves=True)
    shape = (-1, *[1] * (weight.dim() - 1))
    return Uniform(bits, scale.view(shape), zero.view(shape))


@torch.no_grad()
def fit_tensor(x: Tensor, bits: int, search: str = "mse") -> Uniform:
    """A per-tensor quantizer of activations, with an integer zero point."""
    flat = x.detach().flatten().float()
    low, high = flat.aminmax()
    sample = flat[:: max(1, flat.numel() // SAMPLE)]
    row = torch.cat([sample, low.view(1), high.view(1)]).view(1, -1)
    scale, zero = _fit_rows(row, bits, search, halves=False)
    return Uniform(bits, scale.view(()), zero.view(()))


@torch.no_grad()
def fit_channels(x: Tensor, bits: int, search: str = "mse") -> tuple[Tensor, Tensor]:
    """Scale and lower end of the range of every last-dimension channel of `x` (..., C), as two (C,) tensors.

    Ranges are searched around each channel's mean, since after LayerNorm many do not contain zero.
    """
    rows = x.detach().flatten(0, -2).float().t()
    rows = rows[:, :: max(1, rows.shape[1] // 4096)].contiguous()
    middle = rows.mean(1)
    scale, zero = _fit_rows(rows - middle[:, None], bits, search, halves=False)
    flat = rows.amax(1) - rows.amin(1) < 1e-6 * (1 + middle.abs())
    return scale.masked_fill(flat, 0.0), middle - zero * scale


@torch.no_grad()
def fit_output(x: Tensor, bits: int, weight: Tensor) -> Uniform:
    """A per-tensor quantizer of a linear layer's input `x` (..., I) whose range has the least error in the output.

    `weight` is (O, I). The squared output error of an input error `e` is `|W e|^2 = e W^T W e^T`, whichever side of
    the weight is shorter, so that no candidate range costs a forward (our choice, in the spirit of PTQ4ViT's and
    AdaLog's output objectives).
    """
    flat, weight = x.detach().flatten(0, -2).float(), weight.detach().float()
    low, high = flat.amin().clamp(max=0).view(1), flat.amax().clamp(min=0).view(1)
    tokens = flat[:: max(1, flat.shape[0] // TOKENS)]
    narrow = weight.shape[0] < weight.shape[1]
    side = weight.t().contiguous() if narrow else weight.t() @ weight

    def error(scale: Tensor, zero: Tensor) -> Tensor:
        e = fake_quantize(tokens, scale, zero, 2**bits - 1).sub_(tokens)
        moved = torch.mm(e, side)
        return (moved.square_() if narrow else moved.mul_(e)).sum().view(1)

    scale, zero = _best_range(error, low, high, bits, halves=False, shrink=_FAR)
    return Uniform(bits, scale.view(()), zero.view(()))


def _fit_rows(rows: Tensor, bits: int, search: str, *, halves: bool) -> tuple[Tensor, Tensor]:
    """Scale and zero of each row of (R, N): its whole range, or the part of it with the least squared error."""
    low, high = rows.amin(1).clamp(max=0), rows.amax(1).clamp(min=0)
    if search == "minmax":
        return _grid(low, high, bits, halves=halves)

    def error(scale: Tensor, zero: Tensor) -> Tensor:
        return fake_quantize(rows, scale[:, None], zero[:, None], 2**bits - 1).sub_(rows).square_().sum(1)

    return _best_range(error, low, high, bits, halves=halves, shrink=_NEAR)


_NEAR = torch.linspace(1.0, 0.2, 17).tolist()
_FAR = torch.linspace(1.0, 0.1, 19).tolist()
_AROUND = (1.0, 0.6, 0.75, 0.85, 0.92, 0.96, 1.04, 1.08, 1.15)


def _best_range(
    error: Callable[[Tensor, Tensor], Tensor],
    low: Tensor,
    high: Tensor,
    bits: int,
    *,
    halves: bool,
    shrink: Sequence[float],
) -> tuple[Tensor, Tensor]:
    """Scale and zero (R,) of the ranges of least error: both ends shrunk together, then each end in turn, twice."""
    least = torch.full_like(low, torch.inf)
    best_low, best_high = low, high
    for factors, move_low, move_high in ((shrink, 1, 1), *2 * ((_AROUND, 0, 1), (_AROUND, 1, 0))):
        start_low, start_high = best_low, best_high
        for factor in factors:
            lo, hi = start_low * (factor if move_low else 1), start_high * (factor if move_high else 1)
            found = error(*_grid(lo, hi, bits, halves=halves))
            better = found < least
            least = torch.where(better, found, least)
            best_low, best_high = torch.where(better, lo, best_low), torch.where(better, hi, best_high)
    return _grid(best_low, best_high, bits, halves=halves)


def _grid(low: Tensor, high: Tensor, bits: int, *, halves: bool) -> tuple[Tensor, Tensor]:
    """Scale and (half-)integer zero point of a range; an empty range (a constant zero) gets scale 1."""
    levels = 2**bits - 1
    scale = (high - low) / levels
    scale = torch.where(scale > 1e-12, scale, torch.ones_like(scale))
    per_step = 2 if halves else 1
    zero = (-low / scale * per_step).round().clamp(0, levels * per_step) / per_step
    return scale, zero
