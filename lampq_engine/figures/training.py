"""How a refinement went: loss by step, accuracy by epoch, trades of bits; from a job's journal or a trial."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go

from lampq_engine.figures.style import BLUE, SKY, VERMILION, axis, figure, intervals, level


@dataclass(frozen=True)
class Course:
    """The course of a training: loss by step, its mean over each epoch, accuracy after each epoch in percent."""

    losses: tuple[tuple[float, float], ...]  # (step, loss)
    means: tuple[tuple[float, float], ...]  # (step or epoch, mean loss)
    accuracies: tuple[tuple[float, float, float, float], ...]  # (epoch, top1, low, high)


def course(events: Sequence[Mapping[str, Any]]) -> Course:
    """Read the course of a training from a job's journal or from a trial's history; what comes later counts."""
    losses: dict[float, float] = {}
    means: dict[float, float] = {}
    accuracies: dict[float, tuple[float, float, float, float]] = {}
    for event in events:
        epoch, loss, top1 = event.get("epoch"), event.get("loss"), event.get("top1")
        if epoch is None or loss is None:
            continue
        step = float(event.get("done", epoch))
        (losses if top1 is None else means)[step] = float(loss)
        if top1 is not None:
            low, high = event.get("low"), event.get("high")
            edges = (float(top1 if low is None else low), float(top1 if high is None else high))
            accuracies[float(epoch)] = (float(epoch), float(top1), *edges)
    return Course(tuple(sorted(losses.items())), tuple(sorted(means.items())), tuple(sorted(accuracies.values())))


def loss_curve(record: Course, *, unit: str = "step") -> go.Figure:
    """Training loss by step and its mean over each epoch, as far as it has come."""
    steps = _line(record.losses, SKY, unit)
    means = _line(record.means, BLUE, f"mean of the epoch up to {unit}") | {"mode": "lines+markers"}
    return figure(
        [steps, means],
        height=300,
        title="Training loss",
        xaxis=axis(unit, rangemode="tozero"),
        yaxis=axis("loss (nats)", rangemode="tozero"),
    )


def _line(rows: Sequence[tuple[float, float]], color: str, name: str) -> dict[str, Any]:
    return {
        "type": "scatter",
        "x": [at for at, _ in rows],
        "y": [loss for _, loss in rows],
        "mode": "lines",
        "line": {"color": color, "width": 2},
        "name": name,
        "hovertemplate": f"{name} " + "%{x}: %{y:.4f}<extra></extra>",
    }


def accuracy_by_epoch(record: Course, *, start: float | None = None, whole: float | None = None) -> go.Figure:
    """Validation accuracy after each epoch with its 95 % interval; where it started, and float, as lines."""
    rows = record.accuracies
    values = [row[1] for row in rows]
    trace = {
        "type": "scatter",
        "x": [row[0] for row in rows],
        "y": values,
        "error_y": intervals(values, [row[2] for row in rows], [row[3] for row in rows]),
        "mode": "lines+markers",
        "line": {"color": VERMILION, "width": 2},
        "marker": {"size": 8},
        "hovertemplate": "epoch %{x}: %{y:.1f} %<extra></extra>",
    }
    lines = [] if start is None else [level(start, f"before {start:.1f} %", place="top")]
    lines += [] if whole is None else [level(whole, f"float {whole:.1f} %")]
    ticks = {"dtick": 1} if len(rows) < 12 else {}
    return figure(
        [trace],
        height=300,
        title="Validation accuracy",
        shapes=lines,
        xaxis=axis("epoch", **ticks),
        yaxis=axis("top-1 accuracy (%)"),
    )


def update_curve(events: Sequence[Mapping[str, Any]]) -> go.Figure:
    """Accuracy on the calibration images after each attempt of the iterative bit update to trade a bit."""
    tried = [event for event in events if event.get("stage") == "update" and event.get("top1") is not None]
    trades = [f"{event['up']} up, {event['down']} down" if event.get("up") else "as it was" for event in tried]
    trace = {
        "type": "scatter",
        "x": list(range(len(tried))),
        "y": [float(event["top1"]) for event in tried],
        "customdata": [[t, e.get("loss"), e.get("done")] for t, e in zip(trades, tried, strict=True)],
        "mode": "lines+markers",
        "line": {"color": BLUE, "width": 2, "shape": "hv"},
        "marker": {"size": 8},
        "hovertemplate": "%{customdata[0]}<br>%{y:.2f} %, loss %{customdata[1]:.4f}, "
        "%{customdata[2]} trades kept<extra></extra>",
    }
    return figure(
        [trace],
        height=300,
        title="Accuracy on the calibration images",
        xaxis=axis("trades tried", rangemode="tozero"),
        yaxis=axis("top-1 accuracy (%)"),
    )
