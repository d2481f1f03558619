"""The values of a tensor as a weighted histogram, on which any number of candidate quantizers is compared at once.

What a per-tensor quantizer does to a value does not depend on where the value stands. So the error of a candidate is a
sum over the histogram's bins, and no element of the tensor is visited per candidate (our choice). With the weight of
an element set to the diagonal entry of `W^T W` for its channel, that sum is the squared output error of a linear layer
with uncorrelated rounding errors.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

BINS = 2048


@dataclass(frozen=True)
class Values:
    """Bin centres `at` (..., B), the weight that lies in each (..., B), and the exact ends `low`, `high` (...)."""

    at: Tensor
    weight: Tensor
    low: Tensor
    high: Tensor


@torch.no_grad()
def values_of(
    x: Tensor,
    channels: Tensor | None = None,
    tokens: Tensor | None = None,
    *,
    groups: int = 1,
    bins: int = BINS,
) -> Values:
    """The weighted histogram of `x` (..., C): an element counts by its channel's and its token's weight, (C,), (R,).

    With `groups` > 1 the third dimension from the end is that of the heads: one histogram a head, (groups, B). The
    bins hold the mean of their elements, so that narrow distributions and exact zeros keep their place.
    """
    rows = (x.detach().float().movedim(-3, 0) if groups > 1 else x.detach().float()).reshape(groups, -1)
    low, high = rows.amin(1), rows.amax(1)
    span = (high - low).clamp(min=1e-12)
    place = ((rows - low[:, None]) * ((bins - 1) / span)[:, None]).round_().long()
    place += torch.arange(groups, device=x.device)[:, None] * bins
    flat = place.reshape(-1)
    count = torch.bincount(flat, minlength=groups * bins).float()
    at = torch.bincount(flat, rows.reshape(-1).double(), minlength=groups * bins).float() / count.clamp(min=1)
    if channels is None and tokens is None:
        weight = count
    else:
        weight = torch.bincount(flat, _weights(x, channels, tokens).double(), minlength=groups * bins).float()
    shape = (groups, bins) if groups > 1 else (bins,)
    return Values(at.view(shape), weight.view(shape), low.squeeze(), high.squeeze())


def _weights(x: Tensor, channels: Tensor | None, tokens: Tensor | None) -> Tensor:
    """The weight of every element of `x`, in the order of its elements."""
    each = torch.ones(x.numel() // x.shape[-1], x.shape[-1], device=x.device)
    if channels is not None:
        each *= channels
    if tokens is not None:
        each *= tokens[:, None]
    return each.reshape(-1)
