"""How a refinement went: loss by step, accuracy by epoch, gains of bit updates; from a job's journal or a trial."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go

from lampq_engine.figures.style import BLUE, GREY, VERMILION, figure


@dataclass(frozen=True)
class Course:
    """The course of a training: `(step, loss)` pairs and `(epoch, top1, low, high)` rows, in percent."""

    losses: tuple[tuple[float, float], ...]
    accuracies: tuple[tuple[float, float, float, float], ...]


def course(events: Sequence[Mapping[str, Any]]) -> Course:
    """Read the course of a training from journal events or from a trial's history."""
    losses: dict[float, float] = {}
    accuracies: dict[float, tuple[float, float, float, float]] = {}
    for event in events:
        step = event.get("done", event.get("epoch"))
        if event.get("loss") is not None and step is not None:
            losses[float(step)] = float(event["loss"])
        if event.get("top1") is not None and event.get("epoch") is not None:
            top1 = float(event["top1"])
            low, high = float(event.get("low") or top1), float(event.get("high") or top1)
            accuracies[float(event["epoch"])] = (float(event["epoch"]), top1, low, high)
    return Course(tuple(sorted(losses.items())), tuple(sorted(accuracies.values())))


def loss_curve(record: Course, *, unit: str = "step") -> go.Figure:
    """Training loss against steps (or epochs), as far as it has come."""
    fig = figure(300, title="Training loss", showlegend=False)
    fig.add_trace(
        go.Scatter(
            x=[step for step, _ in record.losses],
            y=[loss for _, loss in record.losses],
            mode="lines" if len(record.losses) > 1 else "markers",
            line={"color": BLUE, "width": 2},
            hovertemplate=f"{unit} " + "%{x}: %{y:.4f}<extra></extra>",
        )
    )
    fig.update_xaxes(title={"text": unit, "standoff": 12}, rangemode="tozero")
    return fig.update_yaxes(title={"text": "loss (nats)"}, rangemode="tozero")


def accuracy_by_epoch(record: Course, *, start: float | None = None, whole: float | None = None) -> go.Figure:
    """Validation accuracy after each epoch with its 95 % interval; where it started, and float, as lines."""
    fig = figure(300, title="Validation accuracy", showlegend=False)
    rows = record.accuracies
    fig.add_trace(
        go.Scatter(
            x=[row[0] for row in rows],
            y=[row[1] for row in rows],
            error_y={
                "type": "data",
                "array": [row[3] - row[1] for row in rows],
                "arrayminus": [row[1] - row[2] for row in rows],
                "thickness": 1.5,
                "width": 4,
            },
            mode="lines+markers",
            line={"color": VERMILION, "width": 2},
            marker={"size": 8},
            hovertemplate="epoch %{x}: %{y:.1f} %<extra></extra>",
        )
    )
    for value, name, place in ((start, "before", "bottom left"), (whole, "float", "top left")):
        if value is not None:
            line = {"color": GREY, "dash": "dash", "width": 1.5}
            fig.add_hline(y=value, line=line, annotation_text=f"{name} {value:.1f} %", annotation_position=place)
    fig.update_xaxes(title={"text": "epoch", "standoff": 12}, dtick=1 if len(rows) < 12 else None)
    return fig.update_yaxes(title={"text": "top-1 accuracy (%)"})


def gain_curve(events: Sequence[Mapping[str, Any]]) -> go.Figure:
    """Gain of each trade of bits as the iterative update tries it."""
    tried = [event for event in events if event.get("gain") is not None]
    fig = figure(300, title="Gain of each trade of bits", showlegend=False)
    fig.add_trace(
        go.Bar(
            x=list(range(1, len(tried) + 1)),
            y=[float(event["gain"]) for event in tried],
            marker={"color": [BLUE if event.get("accepted", True) else GREY for event in tried]},
            hovertemplate="trade %{x}: %{y:.3g}<extra></extra>",
        )
    )
    fig.update_xaxes(title={"text": "trade", "standoff": 12})
    return fig.update_yaxes(title={"text": "gain"})
