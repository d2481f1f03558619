"""Quantizers: a fitted rounding rule for one tensor; one that is not fitted cannot exist."""

from lampq_engine.quantizers.fit import INPUT_FITS, Quantizer, fit_input
from lampq_engine.quantizers.log import GELU_SHIFT, Log, fit_log, fit_log_context
from lampq_engine.quantizers.rounding import codes, fake_quantize
from lampq_engine.quantizers.symmetric import fit_symmetric, fit_symmetric_weight
from lampq_engine.quantizers.twin import Twin, fit_twin
from lampq_engine.quantizers.uniform import Uniform, fit_channels, fit_tensor, fit_values, fit_weight
from lampq_engine.quantizers.values import Values, values_of

__all__ = [
    "GELU_SHIFT",
    "INPUT_FITS",
    "Log",
    "Quantizer",
    "Twin",
    "Uniform",
    "Values",
    "codes",
    "fake_quantize",
    "fit_channels",
    "fit_input",
    "fit_log",
    "fit_log_context",
    "fit_symmetric",
    "fit_symmetric_weight",
    "fit_tensor",
    "fit_twin",
    "fit_values",
    "fit_weight",
    "values_of",
]
