"""Figures: a plain record of the engine in, a Plotly figure out. A notebook shows what the pages show."""

from lampq_engine.figures.close import attention_pair, error_by_bits, input_ranges, weight_histogram
from lampq_engine.figures.costs import Share, cost_bars, shares
from lampq_engine.figures.curves import Measured, accuracy_curve, frontier_curve, measured
from lampq_engine.figures.flips import class_change_bars
from lampq_engine.figures.grid import Grid, grid
from lampq_engine.figures.heatmaps import bits_map, scores, sensitivity_map
from lampq_engine.figures.metrics import agreement_map, metric_scatter, rank_ranges
from lampq_engine.figures.style import enlarged
from lampq_engine.figures.training import Course, accuracy_by_epoch, course, loss_curve, update_curve
from lampq_engine.figures.why import bill_bars

__all__ = [
    "Course",
    "Grid",
    "Measured",
    "Share",
    "accuracy_by_epoch",
    "accuracy_curve",
    "agreement_map",
    "attention_pair",
    "bill_bars",
    "bits_map",
    "class_change_bars",
    "cost_bars",
    "course",
    "enlarged",
    "error_by_bits",
    "frontier_curve",
    "grid",
    "input_ranges",
    "loss_curve",
    "measured",
    "metric_scatter",
    "rank_ranges",
    "scores",
    "sensitivity_map",
    "shares",
    "update_curve",
    "weight_histogram",
]
