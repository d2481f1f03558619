"""Metrics: each makes the same table, the predicted harm of every layer at every pair of widths."""

from lampq_engine.sensitivity.fisher import fisher_sensitivity, fisher_traces
from lampq_engine.sensitivity.harm import measured_harm
from lampq_engine.sensitivity.hessian import hessian_sensitivity, hessian_traces
from lampq_engine.sensitivity.lrp import Relevance, importance, lrp_sensitivity, relevance
from lampq_engine.sensitivity.mixqvit import mixqvit_sensitivity
from lampq_engine.sensitivity.nuclear import nuclear_sensitivity
from lampq_engine.sensitivity.output_fisher import output_fisher
from lampq_engine.sensitivity.type_aware import FOLD_BITS, TypeFactor, lampq_sensitivity, type_factors
from lampq_engine.sensitivity.variants import Variants, fit_variants

__all__ = [
    "FOLD_BITS",
    "Relevance",
    "TypeFactor",
    "Variants",
    "fisher_sensitivity",
    "fisher_traces",
    "fit_variants",
    "hessian_sensitivity",
    "hessian_traces",
    "importance",
    "lampq_sensitivity",
    "lrp_sensitivity",
    "measured_harm",
    "mixqvit_sensitivity",
    "nuclear_sensitivity",
    "output_fisher",
    "relevance",
    "type_factors",
]
