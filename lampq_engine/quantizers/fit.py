"""Choosing a quantizer for a layer's input by name."""

from __future__ import annotations

import torch
from torch import Tensor

from lampq_engine.quantizers.log import GELU_SHIFT, Log, R, fit_log
from lampq_engine.quantizers.symmetric import fit_symmetric_values
from lampq_engine.quantizers.twin import Twin, fit_twin_values
from lampq_engine.quantizers.uniform import Uniform, fit_values
from lampq_engine.quantizers.values import Values, values_of

Quantizer = Uniform | Log | Twin

INPUT_FITS = ("uniform", "symmetric", "opt_m", "log_sqrt2", "adalog", "auto")


@torch.no_grad()
def fit_input(x: Tensor | Values, bits: int, *, name: str = "uniform", search: str = "mse") -> Quantizer:
    """Fit the named quantizer to activations; `auto`: uniform or AdaLog, whichever has the least error.

    At 8 bits a logarithmic grid wastes codes on values near zero; at 4 bits a uniform one loses them (our choice). A
    logarithmic grid fits values from 0 on, or from GELU's least value on, by which it is then shifted (AdaLog);
    anything else, and one histogram a head, is rounded uniformly.
    """
    values = values_of(x) if isinstance(x, Tensor) else x
    if name == "symmetric":
        return fit_symmetric_values(values, bits, search)
    if name == "opt_m":
        return fit_twin_values(values, bits, search)
    shift = log_shift(values)
    if name == "uniform" or shift is None:
        return fit_values(values, bits, search)
    clip = search != "minmax"
    if name == "log_sqrt2":
        return fit_log(values, bits, shift=shift, fixed_q=R / 2, clip=clip)
    log = fit_log(values, bits, shift=shift, clip=clip)
    if name == "adalog":
        return log
    both: tuple[Quantizer, ...] = (log, fit_values(values, bits, search))
    return min(both, key=lambda fit: float((fit(values.at) - values.at).square() @ values.weight))


def log_shift(values: Values) -> float | None:
    """What makes the values positive: nothing, or GELU's shift; None where neither does."""
    if values.low.dim():
        return None
    low = float(values.low)
    if low >= 0:
        return 0.0
    return GELU_SHIFT if low >= -GELU_SHIFT - 1e-4 else None
