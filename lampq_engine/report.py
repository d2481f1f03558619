"""A study as one HTML file: it opens anywhere without a network, its figures answer to the pointer, and it prints."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from lampq_engine import figures
from lampq_engine.compare import Paired, as_csv, change, class_changes, trial_rows
from lampq_engine.errors import InputError
from lampq_engine.figures.names import BUDGET_NAMES, METRIC_HELP, METRIC_NAMES, STAGE_NAMES, number
from lampq_engine.plain import to_plain
from lampq_engine.predictions import predictions_of, truth_of
from lampq_engine.recipe import to_toml
from lampq_engine.report_style import POLICY, SCRIPT, STYLE
from lampq_engine.store import Study, Trial
from lampq_engine.types import Evaluation

MAPS = ("fisher", "lampq", "output", "harm")


def as_html(study: Study, trial: str = "") -> str:
    """The report of a study, with one trial in detail: the one named, else the newest that is no control.

    `InputError` where the study is not analysed yet or has no such trial.
    """
    found, whole, model = study.trials(), study.float_evaluation, study.costs
    shown = study.trial(trial) if trial else _newest(found)
    parts = [_head(study, whole, shown)]
    if found:
        parts.append(_measured(study, found, whole))
    if shown is not None:
        parts += [_detail(study, shown), _changed(study, shown)]
    maps = [(name, study.sensitivity(name)) for name in MAPS if name in study.metrics]
    drawn = [
        _figure(f"sensitivity-{name}", figures.sensitivity_map(model.layers, table), METRIC_HELP[name])
        for name, table in maps
    ]
    parts += [_section("Sensitivity", *drawn), _settings(study), _recipes(found)]
    title = f"{study.name}: LampQ Studio report"
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        f'<meta name="viewport" content="width=device-width"><title>{escape(title)}</title><style>{STYLE}</style>'
        f"<script>{get_plotlyjs()}</script></head><body><main>{''.join(parts)}</main>"
        f"<script>{SCRIPT}</script></body></html>\n"
    )


def _newest(found: Sequence[Trial]) -> Trial | None:
    return next((trial for trial in reversed(found) if not trial.control), None)


def accuracy(found: Evaluation) -> str:
    """An accuracy as the pages write it: with its interval and its images."""
    low, high = found.interval
    return f"{found.top1:.1f} % (95 % interval {low:.1f} to {high:.1f}, {found.images} images)"


def _head(study: Study, whole: Evaluation, shown: Trial | None) -> str:
    lines = [f"Float model: <b>{accuracy(whole)}</b>."]
    if shown is not None:
        cost, before = shown.allocation.cost, study.costs.cost({})
        lines.append(
            f"{escape(shown.title or shown.id)}: <b>{accuracy(shown.evaluation)}</b>, "
            f"{cost.mean_bits:.2f} mean bits, <b>{cost.megabytes:.3f} MB</b> "
            f"({before.megabytes / cost.megabytes:.1f}x smaller than float), {cost.gbops:.3g} GBOPs "
            f"({before.gbops / cost.gbops:.0f}x fewer)."
        )
        if (pair := _against_float(study, shown)) is not None:
            lines.append(
                f"On the same images that is {pair.change:+.1f} points (95 % interval {pair.low:+.1f} to "
                f"{pair.high:+.1f}): {pair.lost} images lost, {pair.gained} gained, McNemar p = {pair.p:.2g}."
            )
    made = time.strftime("%d %B %Y", time.gmtime())
    subtitle = f"{escape(study.model.name)} on {escape(study.data.source)}. Made by LampQ Studio, {made}."
    sentences = "".join(f"<p class='lead'>{line}</p>" for line in lines)
    return f"<header><h1>{escape(study.name)}</h1><p>{subtitle}</p></header>{sentences}"


def _against_float(study: Study, trial: Trial) -> Paired | None:
    try:
        truth = truth_of(study)
        after = predictions_of(trial, truth) if truth else None
    except InputError:
        return None
    return change(truth, truth.whole, after) if truth and after else None


def _measured(study: Study, found: Sequence[Trial], whole: Evaluation) -> str:
    rows = trial_rows([(study, trial) for trial in reversed(found)], study.costs.cost({}), whole.top1)
    names = ["Trial", "Stage", "Top-1 %", "95 % interval", "Images", "Δ float", "Mean bits", "MB", "GBOPs"]
    body = [
        [
            row["title"],
            STAGE_NAMES.get(row["stage"], row["stage"]),
            f"{row['top1']:.1f}",
            f"{row['low']:.1f} to {row['high']:.1f}",
            row["images"],
            f"{row['change_top1']:+.1f}",
            f"{row['mean_bits']:.2f}",
            f"{row['megabytes']:.3f}",
            f"{row['gbops']:.3f}",
        ]
        for row in rows
    ]
    charts = [
        _figure(
            f"accuracy-{cost}",
            figures.accuracy_curve(found, whole, cost),  # type: ignore[arg-type]
            f"Every point is a model that was really quantized and measured. The band is float: {accuracy(whole)}.",
        )
        for cost in ("megabytes", "gbops")
    ]
    controls = any(trial.control for trial in found)
    note = "" if controls else "<p class='note'>No control was measured: what the metric is worth is not known.</p>"
    return _section("Measured", *charts, note + _table(names, body, csv=as_csv(rows), name=f"{study.name}-trials"))


def _detail(study: Study, trial: Trial) -> str:
    layers, bits, solution = study.costs.layers, trial.allocation.bits, trial.allocation.solution
    limits = [BUDGET_NAMES.get(name, name).replace("M", "m") for name in solution.binding]
    text = (
        f"Solver: {escape(solution.status)}, predicted harm {number(solution.harm)}, proven bound "
        f"{number(solution.bound)}. Limited by {escape(' and '.join(limits)) or 'no budget'}."
    )
    widths = {
        "layer": list(bits),
        "weights": [pair.weights for pair in bits.values()],
        "activations": [pair.activations for pair in bits.values()],
    }
    rows = [dict(zip(widths, row, strict=True)) for row in zip(*widths.values(), strict=True)]
    table = _table(list(widths), [list(row.values()) for row in rows], csv=as_csv(rows), name=f"{study.name}-bits")
    return _section(
        f"Allocation of {trial.title or trial.id}",
        *(
            _figure(f"bits-{side}", figures.bits_map(layers, bits, side=side), f"Bits of the {side} of each layer.")  # type: ignore[arg-type]
            for side in ("weights", "activations")
        ),
        _figure("costs", figures.cost_bars(study.costs, bits), "What each kind of layer costs."),
        f"<p>{text}</p>" + _folded("Bits of every layer", table),
    )


def _changed(study: Study, trial: Trial) -> str:
    """Class by class against float, where predictions were kept."""
    try:
        truth = truth_of(study)
        after = predictions_of(trial, truth) if truth else None
    except InputError:
        truth = after = None
    if truth is None or after is None:
        return ""
    bars = figures.class_change_bars(class_changes(truth, truth.whole, after))
    text = "Points of accuracy on the same images, with the paired 95 % interval."
    return _section("Against float, class by class", _figure("classes", bars, text))


def _settings(study: Study) -> str:
    known = study.provenance
    rows = {"Study": study.name, **_flat("Model", study.model), **_flat("Data", study.data)}
    rows |= {"Weights hash": known.get("weights_hash"), "Images hash": known.get("images_hash")}
    rows |= {f"Images: {name}": count for name, count in dict(known.get("counts", {})).items()}
    rows |= {f"Analysis: {name}": value for name, value in dict(known.get("sensitivity", {})).items()}
    rows |= {"Device": known.get("device"), "Left in float": ", ".join(study.bypassed) or "nothing"}
    rows |= {f"Version of {name}": value for name, value in dict(known.get("versions", {})).items()}
    body = [[name, value] for name, value in rows.items() if value not in (None, "")]
    metrics = "; ".join(f"{METRIC_NAMES[m]}: {METRIC_HELP[m]}" for m in MAPS if m in study.metrics)
    return _section(
        "Settings and versions", _table(["Setting", "Value"], body) + f"<p class='note'>{escape(metrics)}</p>"
    )


def _flat(prefix: str, spec: Any) -> dict[str, Any]:
    return {f"{prefix}: {name.replace('_', ' ')}": value for name, value in to_plain(spec).items()}


def _recipes(found: Sequence[Trial]) -> str:
    if not found:
        return ""
    texts = [
        _folded(
            f"{trial.title or trial.id} (recipe {trial.recipe.hash})", f"<pre>{escape(to_toml(trial.recipe))}</pre>"
        )
        for trial in reversed(found)
    ]
    return _section("Recipes", "<p>A recipe makes its trial again: save it and run it with `quantize`.</p>", *texts)


def _section(title: str, *parts: str) -> str:
    return f"<section><h2>{escape(title)}</h2><div class='grid'>{''.join(parts)}</div></section>"


def _folded(title: str, inside: str) -> str:
    return f"<details class='wide'><summary>{escape(title)}</summary>{inside}</details>"


def _figure(name: str, figure: go.Figure, text: str) -> str:
    plain = json.loads(figure.to_json())
    plain["layout"].pop("template", None)
    # `<` escaped, so that no title or layer name can end the script element
    record = json.dumps(plain).replace("<", "\\u003c")
    return (
        f'<figure id="{escape(name)}"><div class="plot" role="img" aria-label="{escape(text)}"></div>'
        f'<script type="application/json">{record}</script><figcaption>{escape(text)}'
        ' <span class="tools"><button data-save="svg">SVG</button> <button data-save="png">PNG</button></span>'
        "</figcaption></figure>"
    )


def _table(names: Iterable[str], rows: Iterable[Sequence[Any]], *, csv: str = "", name: str = "table") -> str:
    head = "".join(f"<th scope='col'>{escape(str(n))}</th>" for n in names)
    body = "".join("<tr>" + "".join(f"<td>{escape(_text(cell))}</td>" for cell in row) + "</tr>" for row in rows)
    save = (
        f'<p class="tools"><button data-csv="{escape(csv)}" data-name="{escape(name)}">Table as CSV</button></p>'
        if csv
        else ""
    )
    return f"<div class='wide'><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{save}</div>"


def _text(value: Any) -> str:
    return json.dumps(value) if isinstance(value, Mapping | list) else str(value)
