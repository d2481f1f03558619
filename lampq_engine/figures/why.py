"""Why a layer has its width, as a picture: the solver's bill for every width it may take."""

from __future__ import annotations

import plotly.graph_objects as go

from lampq_engine.explain import Why
from lampq_engine.figures.names import width
from lampq_engine.figures.style import BLUE, VERMILION, axis, figure
from lampq_engine.types import Bits

MANY = 9  # options that one picture shows in full


def bill_bars(found: Why) -> go.Figure:
    """Harm and price of every width of a layer, stacked; the chosen one, the least in sum, is marked.

    Of free widths only those are shown that share one side with the chosen ones.
    """
    options, now = found.options, found.bits
    if len(options) > MANY:
        options = tuple(o for o in options if o.bits.weights == now.weights or o.bits.activations == now.activations)
    names = [_pair(option.bits) for option in options]
    harm = _bars("harm", names, [option.harm for option in options], VERMILION)
    bill = _bars("price of its bits", names, [option.bill for option in options], BLUE)
    tops = [option.total for option in options]
    chosen = [
        {"x": index, "y": option.total, "text": "chosen", "showarrow": True, "arrowhead": 2, "ay": -28, "ax": 0}
        for index, option in enumerate(options)
        if option.bits == found.bits
    ]
    return figure(
        [harm, bill],
        height=280,
        title="What each width costs in all",
        top=64,
        barmode="stack",
        showlegend=True,
        annotations=chosen,
        xaxis=axis("bits", type="category", fixedrange=True),
        yaxis=axis(found.unit, fixedrange=True, range=[0, 1.25 * max(tops, default=1.0)], nticks=5),
    )


def _bars(name: str, across: list[str], values: list[float], color: str) -> dict[str, object]:
    return {
        "type": "bar",
        "name": name,
        "x": across,
        "y": values,
        "marker": {"color": color},
        "hovertemplate": f"%{{x}} bits: {name} %{{y:.3g}}<extra></extra>",
    }


def _pair(bits: Bits) -> str:
    same = bits.weights == bits.activations
    return width(bits.weights) if same else f"{width(bits.weights)}/{width(bits.activations)}"
