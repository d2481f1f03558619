"""Figures: a plain record of the engine in, a Plotly figure out. A notebook shows what the pages show."""

from lampq_engine.figures.costs import Share, cost_bars, shares
from lampq_engine.figures.curves import Measured, accuracy_curve, frontier_curve, measured
from lampq_engine.figures.flips import class_change_bars
from lampq_engine.figures.grid import Grid, grid
from lampq_engine.figures.heatmaps import bits_map, scores, sensitivity_map
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
    "bill_bars",
    "bits_map",
    "class_change_bars",
    "cost_bars",
    "course",
    "enlarged",
    "frontier_curve",
    "grid",
    "loss_curve",
    "measured",
    "scores",
    "sensitivity_map",
    "shares",
    "update_curve",
]
