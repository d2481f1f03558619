"""Symmetric uniform quantizers: the zero point is the middle code, as SQ-b's centred values and PSAQ-ViT's weights."""

from __future__ import annotations

import torch
from torch import Tensor

from lampq_engine.quantizers.rounding import fake_quantize
from lampq_engine.quantizers.uniform import SAMPLE, TOKENS, Uniform

SHRINK = torch.linspace(1.0, 0.2, 33).tolist()


@torch.no_grad()
def fit_symmetric_weight(weight: Tensor, bits: int, search: str = "mse") -> Uniform:
    """A symmetric per-output-channel quantizer of a weight (O, ...), by squared error or from its whole range."""
    rows = weight.detach().flatten(1).float()
    scale, zero = _fit(rows, bits, search)
    shape = (-1, *[1] * (weight.dim() - 1))
    return Uniform(bits, scale.view(shape), zero.view(shape))


@torch.no_grad()
def fit_symmetric(x: Tensor, bits: int, search: str = "mse", weight: Tensor | None = None) -> Uniform:
    """A symmetric per-tensor quantizer of activations; with `weight` (O, I) by the error it makes in the output."""
    flat = x.detach().flatten().float()
    side, rows = None, flat[:: max(1, flat.numel() // SAMPLE)].view(1, -1)
    if weight is not None and search != "minmax":
        tokens = x.detach().flatten(0, -2).float()
        rows = tokens[:: max(1, tokens.shape[0] // TOKENS)]
        side = weight.detach().float().t().contiguous()
    scale, zero = _fit(rows, bits, search, flat.abs().amax().view(1), side)
    return Uniform(bits, scale.view(()), zero.view(()))


def _fit(
    rows: Tensor, bits: int, search: str, reach: Tensor | None = None, side: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Scale and zero of each row, or of all of them where `reach` holds one greatest value."""
    one, top = reach is not None, rows.abs().amax(1) if reach is None else reach
    zero = torch.full_like(top, 2 ** (bits - 1))
    full = top / max(1, 2 ** (bits - 1) - 1)
    full = torch.where(full > 1e-12, full, torch.ones_like(full))
    if search == "minmax":
        return full, zero
    best, least = full, torch.full_like(full, torch.inf)
    for factor in SHRINK:
        scale = full * factor
        e = fake_quantize(rows, scale[:, None], zero[:, None], 2**bits - 1).sub_(rows)
        e = e if side is None else e @ side
        found = e.square_().sum().view(1) if one else e.square_().sum(1)
        best, least = torch.where(found < least, scale, best), torch.minimum(found, least)
    return best, zero
