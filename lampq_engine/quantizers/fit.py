"""Choosing a quantizer for a layer's input by name."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from lampq_engine.quantizers.log import LogSqrt2, fit_log_sqrt2
from lampq_engine.quantizers.symmetric import fit_symmetric
from lampq_engine.quantizers.twin import Twin, fit_twin
from lampq_engine.quantizers.uniform import SAMPLE, Uniform, fit_tensor

Quantizer = Uniform | LogSqrt2 | Twin


def fit_best(x: Tensor, bits: int, search: str = "mse") -> Quantizer:
    """The uniform or log-sqrt(2) quantizer, whichever has the least squared error (our choice).

    At 8 bits a logarithmic grid wastes most of its codes on values near zero; at 4 bits a uniform one loses them.
    """
    flat = x.detach().flatten()
    sample = flat[:: max(1, flat.numel() // SAMPLE)]
    fits: list[Quantizer] = [fit_tensor(x, bits, search), fit_log_sqrt2(x, bits, search)]
    return min(fits, key=lambda fit: float(torch.nn.functional.mse_loss(fit(sample), sample)))


INPUT_FITS: dict[str, Callable[[Tensor, int, str], Quantizer]] = {
    "uniform": fit_tensor,
    "symmetric": fit_symmetric,
    "opt_m": fit_twin,
    "log_sqrt2": fit_log_sqrt2,
    "auto": fit_best,
}


def fit_input(x: Tensor, bits: int, *, name: str = "uniform", search: str = "mse") -> Quantizer:
    """Fit the named quantizer to a tensor of activations."""
    return INPUT_FITS[name](x, bits, search)
