"""OPT-m: two step sizes for values after GELU, whose ratio is a power of two found from data."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lampq_engine.quantizers.rounding import fake_quantize
from lampq_engine.quantizers.values import Values, values_of

GELU_MIN = -0.16997  # the least value of GELU
RATIOS = range(-5, 25)  # m: AdaLog's re-implementation of twin quantizers searches these
FACTORS = (1.0, 0.5, 0.6, 0.7, 0.8, 0.9, 1.1, 1.2, 1.35, 1.5)


class Twin(nn.Module):
    """A fitted twin quantizer: one bit says the region, the others count steps away from zero.

    Negative levels are `-k step`, positive ones `k step 2^m`, k from 0 to `2^(bits - 1) - 1`; both share 0. The region
    bit is PTQ4ViT's; that m is an integer, so that regions align by a shift, is MPTQ-ViT's.
    """

    scale: Tensor
    ratio: Tensor

    def __init__(self, bits: int, scale: Tensor, ratio: Tensor) -> None:
        super().__init__()
        self.bits = bits
        self.register_buffer("scale", scale)
        self.register_buffer("ratio", ratio)  # m
        self.log_step: nn.Parameter | None = None  # while training: the learned logarithm of the scale's change

    @property
    def levels(self) -> int:
        """The highest count of steps in one region, 2^(bits - 1) - 1."""
        return 2 ** (self.bits - 1) - 1

    @property
    def step(self) -> Tensor:
        """The step of the negative region in force."""
        return self.scale if self.log_step is None else self.scale * self.log_step.exp()

    def forward(self, x: Tensor) -> Tensor:
        levels, zero = self.levels, torch.zeros_like(self.scale)
        if not levels:
            return x * 0  # the region bit alone: nothing but zero is left
        below = fake_quantize(x.clamp(max=0), self.step, zero + levels, levels)
        return below + fake_quantize(x.clamp(min=0), self.step * self.ratio.exp2(), zero, levels)

    def learn_(self) -> None:
        """Make the step a learned parameter; the ratio stays."""
        self.log_step = nn.Parameter(torch.zeros_like(self.scale))

    def bake_(self) -> None:
        """Make the learned step the scale."""
        with torch.no_grad():
            self.scale.copy_(self.step)
        self.log_step = None

    def extra_repr(self) -> str:
        return f"bits={self.bits}, m={int(self.ratio)}"


def fit_twin(x: Tensor, bits: int, search: str = "mse") -> Twin:
    """The twin quantizer of `x` whose integer m has the least squared error (MPTQ-ViT's OPT-m)."""
    return fit_twin_values(values_of(x), bits, search)


@torch.no_grad()
def fit_twin_values(values: Values, bits: int, search: str = "mse") -> Twin:
    """The same from a histogram, whose weights weigh the error.

    The negative step is `0.16997 / 2^(bits - 1)`, as in PTQ4ViT; unless `search` is `minmax` it may be stretched by a
    factor, searched together with m (our choice: a factor of 2 between candidates is coarse).
    """
    start = torch.tensor(-GELU_MIN / 2 ** (bits - 1), device=values.at.device)
    ratios = [torch.tensor(float(m), device=values.at.device) for m in RATIOS]
    if bits == 1:
        return Twin(bits, start, ratios[-RATIOS.start])

    def error(fit: Twin) -> float:
        return float((fit(values.at) - values.at).square() @ values.weight)

    best = min((Twin(bits, start, ratio) for ratio in ratios), key=error)
    if search == "minmax":
        return best
    near = [best.ratio + d for d in (-1, 0, 1)]
    return min((Twin(bits, start * factor, ratio) for ratio in near for factor in FACTORS), key=error)
