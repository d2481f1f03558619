"""Figures: the record behind each is right, and the drawing shows that record."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
from synthetic_study import fisher_of, harm_of, layers_of, make_study

from lampq_engine import figures
from lampq_engine.allocate import Program
from lampq_engine.frontier import frontier
from lampq_engine.recipe import AllocationSpec, Budgets
from lampq_engine.store import Study
from lampq_engine.types import Bits, Evaluation, Layer


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    return make_study(tmp_path_factory.mktemp("studies"), blocks=4)


def drawn(figure: object) -> dict:
    """A figure as the browser gets it, lists and all."""
    return json.loads(figure.to_json())  # type: ignore[attr-defined]


def test_a_grid_places_every_layer_once() -> None:
    layers = layers_of(blocks=4)
    layout = figures.grid(layers)
    assert layout.rows == ("qkv", "QKᵀ", "AV", "proj", "fc1", "fc2", "outside")
    assert layout.columns == ("0", "1", "2", "3")
    assert sorted(layer.name for layer in layout.places.values()) == sorted(layer.name for layer in layers)
    assert layout.places["outside", "0"].kind == "patch"
    assert layout.places["outside", "3"].kind == "head"


def test_a_second_layer_of_a_kind_gets_a_row_of_its_own() -> None:
    two = [Layer(f"blocks.0.{part}", "qkv", 0, 4, 2, 2, 4, 2) for part in "qk"]
    layout = figures.grid(two)
    assert layout.rows == ("qkv", "qkv 2")
    assert len(layout.places) == 2


def test_merging_stands_under_the_block_it_follows() -> None:
    plain = Layer("blocks.0.fc1", "fc1", 0, 4, 2, 2, 4, 2)
    merge = Layer("downsample", "merge", None, 4, 2, 2, 4, 2)
    layout = figures.grid([plain, merge, Layer("blocks.1.fc1", "fc1", 1, 4, 2, 2, 4, 2)])
    assert layout.places["outside", "0"] is merge


def test_a_sensitivity_map_shows_value_and_error_of_each_layer() -> None:
    layers = layers_of(blocks=3)
    table = fisher_of(layers)
    trace = drawn(figures.sensitivity_map(layers, table, log=False))["data"][0]
    assert trace["y"] == ["qkv", "proj", "fc1", "fc2"]  # rows in which nothing was scored are left out
    assert trace["z"][0][1] == pytest.approx(table.raw["blocks.1.attn.qkv"])
    assert "blocks.1.attn.qkv" in trace["customdata"][0][1]
    assert "±" in trace["customdata"][0][1]


def test_logarithmic_colours_keep_the_order_and_drop_what_is_not_positive() -> None:
    layers = layers_of(blocks=2)
    table = fisher_of(layers)
    first = next(iter(table.raw))
    table.raw[first] = 0.0  # type: ignore[index]
    z = drawn(figures.sensitivity_map(layers, table))["data"][0]["z"]
    assert z[0][0] is None
    assert z[0][1] == pytest.approx(math.log10(table.raw["blocks.1.attn.qkv"]))


def test_scores_of_a_metric_without_raw_values_are_its_harm_at_chosen_widths() -> None:
    layers = layers_of(blocks=2)
    harm = harm_of(layers)
    name = layers[1].name
    assert figures.scores(harm, Bits(4, 4))[name] == harm.cells[name][Bits(4, 4)]
    assert figures.scores(harm)[name] == harm.cells[name][min(harm.cells[name])]


def test_a_bits_map_writes_the_width_into_each_cell() -> None:
    layers = layers_of(blocks=2)
    bits = {layer.name: Bits(3, 32) for layer in layers}
    weights = drawn(figures.bits_map(layers, bits, side="weights"))["data"][0]
    activations = drawn(figures.bits_map(layers, bits, side="activations"))["data"][0]
    assert {cell for row in weights["text"][:-1] for cell in row} == {"3"}
    assert {cell for row in activations["text"][:-1] for cell in row} == {"–"}
    assert "3 weight bits, float activation bits" in weights["customdata"][0][0]


def test_shares_add_up_to_the_cost(study: Study) -> None:
    bits = {layer.name: Bits(4, 6) for layer in study.costs.layers}
    rows, cost = figures.shares(study.costs, bits), study.costs.cost(bits)
    assert sum(row.megabytes for row in rows) == pytest.approx(cost.megabytes)
    assert sum(row.gbops for row in rows) == pytest.approx(cost.gbops)
    names = drawn(figures.cost_bars(study.costs, bits))["data"][0]["y"]
    assert names == [row.name for row in rows]


def test_the_frontier_falls_and_the_marker_stands_where_the_allocation_costs(study: Study) -> None:
    program = Program(study.costs, study.sensitivity("lampq"), AllocationSpec())
    points = frontier(program, "megabytes", points=6)
    here = program.solve(Budgets(megabytes=points[2].budget))
    line, marker = drawn(figures.frontier_curve(points, "megabytes", here))["data"]
    assert line["y"] == sorted(line["y"], reverse=True)
    assert marker["x"] == [here.cost.megabytes]
    assert marker["y"] == [here.solution.harm]


def test_measured_points_carry_cost_and_interval(study: Study) -> None:
    points = figures.measured(study.trials(), "gbops")
    assert [point.cost for point in points] == sorted(point.cost for point in points)
    for point in points:
        assert point.low < point.top1 < point.high
    traces = drawn(figures.accuracy_curve(study.trials(), study.float_evaluation, "gbops"))["data"]
    assert [trace["name"] for trace in traces] == ["Quantized", "QAT", "Uniform", "Random"]
    assert sum(len(trace["x"]) for trace in traces) == len(points)


def test_a_marked_trial_is_ringed(study: Study) -> None:
    marked = study.trials()[-1]
    ring = drawn(figures.accuracy_curve(study.trials(), None, "megabytes", marked=[marked.id]))["data"][-1]
    assert ring["x"] == [marked.allocation.cost.megabytes]


def test_a_course_is_read_from_a_journal_and_from_a_history() -> None:
    journal = [
        {"event": "progress", "stage": "load model", "done": 0, "total": 0},
        {"event": "progress", "stage": "train", "done": 1, "total": 4, "epoch": 1, "loss": 0.9},
        {"event": "progress", "stage": "train", "done": 2, "total": 4, "epoch": 1, "loss": 0.5},
        {"event": "progress", "stage": "train", "done": 2, "total": 4, "epoch": 1, "loss": 0.7, "top1": 90, "low": 88},
    ]
    record = figures.course(journal)
    assert record.losses == ((1.0, 0.9), (2.0, 0.5))
    assert record.means == ((2.0, 0.7),)
    assert record.accuracies == ((1.0, 90.0, 88.0, 90.0),)
    history = figures.course([{"epoch": 1.0, "loss": 0.4, "top1": 95.0, "low": 93.0, "high": 97.0}])
    assert history == figures.Course((), ((1.0, 0.4),), ((1.0, 95.0, 93.0, 97.0),))


def test_a_resumed_training_overwrites_what_it_repeats() -> None:
    first = {"done": 2, "epoch": 1, "loss": 0.7, "top1": 90.0}
    again = {"done": 2, "epoch": 1, "loss": 0.7, "top1": 91.0}
    assert [row[1] for row in figures.course([first, again]).accuracies] == [91.0]


def test_an_update_curve_names_the_layers_that_traded() -> None:
    start = {"stage": "update", "done": 0, "top1": 90.0, "loss": 0.5}
    tried = {"stage": "update", "done": 1, "top1": 91.0, "loss": 0.4, "up": "blocks.0.fc1", "down": "blocks.1.fc2"}
    (trace,) = drawn(figures.update_curve([start, tried, {"stage": "measure", "done": 1}]))["data"]
    assert trace["y"] == [90.0, 91.0]
    assert trace["customdata"][1] == ["blocks.0.fc1 up, blocks.1.fc2 down", 0.4, 1]


def test_figures_of_nothing_are_drawn_empty() -> None:
    nothing = figures.course([])
    assert not figures.loss_curve(nothing).data[0].x
    assert not figures.accuracy_by_epoch(nothing).data[0].x
    assert not figures.update_curve([]).data[0].x
    assert not figures.accuracy_curve([], Evaluation(10, 90.0, 99.0, 0.3), "megabytes").data


def test_figures_and_pages_import_no_torch() -> None:
    root = Path(__file__).parents[1]
    modules = "lampq_engine.figures, lampq_engine.jobs, choosing, reading, watching, solving, asking"
    code = f"import sys; sys.path.insert(0, {str(root / 'app')!r}); import {modules}; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, capture_output=True)
