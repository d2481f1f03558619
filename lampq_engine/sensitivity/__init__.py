"""Metrics: each makes the same table, the predicted harm of every layer at every pair of widths."""

from lampq_engine.sensitivity.fisher import fisher_sensitivity, fisher_traces
from lampq_engine.sensitivity.harm import measured_harm
from lampq_engine.sensitivity.output_fisher import output_fisher
from lampq_engine.sensitivity.type_aware import TypeFactor, lampq_sensitivity, type_factors

__all__ = [
    "TypeFactor",
    "fisher_sensitivity",
    "fisher_traces",
    "lampq_sensitivity",
    "measured_harm",
    "output_fisher",
    "type_factors",
]
