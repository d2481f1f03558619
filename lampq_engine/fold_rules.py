"""How a fold chooses scale and shift of every channel; `folds` applies and proves them.

RepQ-ViT's reparameterisation, Mix-QViT's clipped variant and MPTQ-ViT's SQ-b differ in nothing but these few lines.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from lampq_engine.quantizers import fit_channels
from lampq_engine.recipe import QuantizationSpec

SMALLEST = 1e-3  # of the mean scale: below it a channel is as good as constant and keeps scale 1

Rule = Callable[[Tensor, int, Sequence[Tensor], QuantizationSpec], tuple[Tensor, Tensor]]


def repq(x: Tensor, bits: int, search: str = "mse", spread: float = float("inf")) -> tuple[Tensor, Tensor]:
    """RepQ-ViT's rule: scale and shift (C,) after which one range fits every channel of `x` (..., C).

    Each channel's scale `s_c` and lower end `m_c` at `bits` are fitted; `r = s_c / mean(s)`, and the shift moves every
    lower end to the common one. A constant channel (a LayerNorm gamma of 0, as in DeiT-Tiny) is left alone. With a
    finite `spread`, scales are first clipped to `mean +- spread x standard deviation` (see `clipped`).
    """
    scale, low = fit_channels(x, bits, search)
    common = scale.mean().clamp(min=1e-12)
    dead = scale < SMALLEST * common
    if spread != float("inf") and not dead.all():
        middle = low + scale * (2**bits - 1) / 2
        reach = spread * scale[~dead].std(correction=0)
        scale = scale.clamp(common - reach, common + reach).masked_fill(dead, 0.0)
        low, common = middle - scale * (2**bits - 1) / 2, scale.mean().clamp(min=1e-12)
    start = (low / scale)[~dead].mean().round() if not dead.all() else low.new_zeros(())
    ratio = scale / common
    shift = low - ratio * start * common
    return ratio.masked_fill(dead, 1.0), shift.masked_fill(dead, 0.0)


def clipped(x: Tensor, bits: int, search: str = "mse", spread: float = 2.0) -> tuple[Tensor, Tensor]:
    """Mix-QViT's clipped channel-wise rule: RepQ-ViT's, after the scales were clipped across channels.

    A few extreme channels then cannot stretch the common scale; they keep their middle and saturate at both ends. The
    paper does not state its clip; `mean +- k standard deviations` with k = 2 is our choice.
    """
    return repq(x, bits, search, spread)


def sq_b(x: Tensor, weights: Sequence[Tensor], strength: float = 0.5) -> tuple[Tensor, Tensor]:
    """MPTQ-ViT's SQ-b: centre every channel of `x` (..., C) on zero and share its spread with the weights (O, C).

    The shift is the channel's mean; the scale is SmoothQuant's on centred values, `max|x_c - mean_c|^a /
    max|W_c|^(1 - a)` (our choice, with a = `strength`; the paper leaves it open). A constant channel keeps scale 1.
    """
    flat = x.detach().flatten(0, -2).float()
    mean = flat.mean(0)
    reach = (flat - mean).abs().amax(0)
    dead = reach < 1e-6 * (1 + mean.abs())
    weight = torch.cat([w.detach().float() for w in weights]).abs().amax(0).clamp(min=1e-5)
    scale = reach.clamp(min=1e-8) ** strength / weight ** (1 - strength)
    return scale.masked_fill(dead, 1.0), mean


def _search(spec: QuantizationSpec) -> str:
    return "minmax" if spec.range == "minmax" else "mse"


FOLD_RULES: dict[str, Rule] = {
    "repq": lambda x, bits, weights, spec: repq(x, bits, _search(spec)),
    "clipped": lambda x, bits, weights, spec: clipped(x, bits, _search(spec), spec.fold_clip),
    "sq_b": lambda x, bits, weights, spec: sq_b(x, weights, spec.fold_strength),
}
