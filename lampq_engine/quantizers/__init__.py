"""Quantizers: a fitted rounding rule for one tensor; one that is not fitted cannot exist."""

from lampq_engine.quantizers.fit import INPUT_FITS, Quantizer, fit_input
from lampq_engine.quantizers.log import LogSqrt2, fit_log_sqrt2
from lampq_engine.quantizers.rounding import codes, fake_quantize
from lampq_engine.quantizers.symmetric import fit_symmetric, fit_symmetric_weight
from lampq_engine.quantizers.twin import Twin, fit_twin
from lampq_engine.quantizers.uniform import Uniform, fit_channels, fit_output, fit_tensor, fit_weight

__all__ = [
    "INPUT_FITS",
    "LogSqrt2",
    "Quantizer",
    "Twin",
    "Uniform",
    "codes",
    "fake_quantize",
    "fit_channels",
    "fit_input",
    "fit_log_sqrt2",
    "fit_output",
    "fit_symmetric",
    "fit_symmetric_weight",
    "fit_tensor",
    "fit_twin",
    "fit_weight",
]
