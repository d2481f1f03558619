"""Uniform quantizers: evenly spaced levels around a zero point, per tensor, per head or per output channel."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lampq_engine.quantizers.rounding import codes, fake_quantize
from lampq_engine.quantizers.search import Errors, gram_errors, progressive, row_errors, value_errors
from lampq_engine.quantizers.values import Values, values_of


class Uniform(nn.Module):
    """A fitted asymmetric uniform quantizer: `2^bits` levels `scale * (k - zero)`.

    `scale` and `zero` broadcast against the tensor: shape () per tensor, (heads, 1, 1) per attention head, (O, 1, ...)
    per output channel.
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
        return f"bits={self.bits}, scales={self.scale.numel()}"


@torch.no_grad()
def fit_weight(weight: Tensor, bits: int, search: str = "mse", gram: Tensor | None = None) -> Uniform:
    """A per-output-channel quantizer of a weight (O, ...), its clipping range searched by squared error.

    With `gram` (I, I), the Gram matrix of the layer's inputs, that is the error of the layer's output. The zero
    point may be half-integer, so that at 2 bits both (-1, 0, 1, 2) and (-1.5, -0.5, 0.5, 1.5) steps are in reach (our
    choice).
    """
    rows = weight.detach().flatten(1).float()
    errors = row_errors(rows, bits) if gram is None else gram_errors(rows, gram, bits)
    scale, zero = _fit(errors, rows.amin(1), rows.amax(1), bits, search, halves=True)
    shape = (-1, *[1] * (weight.dim() - 1))
    return Uniform(bits, scale.view(shape), zero.view(shape))


@torch.no_grad()
def fit_tensor(x: Tensor, bits: int, search: str = "mse", *, channels: Tensor | None = None, heads: int = 1) -> Uniform:
    """A quantizer of activations, with an integer zero point: one for the tensor, or one a head (..., heads, N, D).

    `channels` (C,) weighs the squared error of each channel: with the squared column norms of the weight that reads
    the tensor, that is the error of the output.
    """
    return fit_values(values_of(x, channels, groups=heads), bits, search)


@torch.no_grad()
def fit_values(values: Values, bits: int, search: str = "mse") -> Uniform:
    """The same from a histogram of the tensor, or one of each of its heads."""
    low, high = values.low.view(-1), values.high.view(-1)
    scale, zero = _fit(value_errors(values, bits), low, high, bits, search, halves=False)
    shape = (len(low), 1, 1) if len(low) > 1 else ()
    return Uniform(bits, scale.view(shape), zero.view(shape))


CHANNEL_BINS = 256  # bins of one channel's histogram


@torch.no_grad()
def fit_channels(x: Tensor, bits: int, search: str = "mse") -> tuple[Tensor, Tensor]:
    """Scale and lower end of the range of every last-dimension channel of `x` (..., C), as two (C,) tensors.

    Ranges are searched around each channel's mean, since after LayerNorm many do not contain zero.
    """
    rows = x.detach().flatten(0, -2).float()
    middle = rows.mean(0)
    centred = (rows - middle).t()[:, None]  # (C, 1, N): a channel is its own group
    values = values_of(centred, groups=len(middle), bins=CHANNEL_BINS)
    scale, zero = _fit(value_errors(values, bits), values.low, values.high, bits, search, halves=False)
    flat = values.high - values.low < 1e-6 * (1 + middle.abs())
    return scale.masked_fill(flat, 0.0), middle - zero * scale


def _fit(errors: Errors, low: Tensor, high: Tensor, bits: int, search: str, *, halves: bool) -> tuple[Tensor, Tensor]:
    """Scale and zero of rows with these ends: their whole range, or the part of it with the least error."""
    low, high = low.clamp(max=0), high.clamp(min=0)
    if search == "minmax":
        return _grid(low, high, bits, halves=halves)
    scale, zero = progressive(errors, low, high, bits, halves=halves)
    empty = high - low < 1e-12
    return torch.where(empty, 1.0, scale), torch.where(empty, 0.0, zero)


def _grid(low: Tensor, high: Tensor, bits: int, *, halves: bool) -> tuple[Tensor, Tensor]:
    """Scale and (half-)integer zero point of a range; an empty range (a constant zero) gets scale 1."""
    levels = 2**bits - 1
    scale = (high - low) / levels
    scale = torch.where(scale > 1e-12, scale, torch.ones_like(scale))
    per_step = 2 if halves else 1
    zero = (-low / scale * per_step).round().clamp(0, levels * per_step) / per_step
    return scale, zero
