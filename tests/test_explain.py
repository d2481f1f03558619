"""Explanations against the solver itself: prices are the frontier's slope, forced steps are exact, flips add up."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from synthetic_study import fisher_of, harm_of, lampq_of, layers_of

from lampq_engine.allocate import Program
from lampq_engine.cost import CostModel
from lampq_engine.explain import flips, slacks, why
from lampq_engine.figures import bill_bars
from lampq_engine.frontier import frontier, spans
from lampq_engine.recipe import AllocationSpec, Budgets, Menu
from lampq_engine.types import KINDS, Bits, Sensitivity

LAYERS = layers_of(4)
COSTS = CostModel(tuple(LAYERS), 40_000)
TABLE: Sensitivity = lampq_of(fisher_of(LAYERS), LAYERS)
QKV = "blocks.0.attn.qkv"


def program(**settings: object) -> Program:
    return Program(COSTS, TABLE, AllocationSpec(**settings))  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["mean_bits", "megabytes", "gbops"])
def test_a_price_is_the_slope_of_the_relaxed_frontier(name: str) -> None:
    one = program()
    low, high = one.least[name], one.most[name]
    middle = low + 0.4 * (high - low)
    price = one.prices(Budgets(**{name: middle}))[name]
    wide = 0.1 * (high - low)
    harms = [one.solve(Budgets(**{name: middle + step})).solution.harm for step in (-wide, 0, wide)]
    below, above = (harms[0] - harms[1]) / wide, (harms[1] - harms[2]) / wide
    assert above < price < below


def test_a_budget_that_does_not_bind_has_no_price() -> None:
    one = program()
    prices = one.prices(Budgets(mean_bits=3.0, megabytes=one.most["megabytes"]))
    assert prices["megabytes"] == 0
    assert prices["mean_bits"] > 0


def test_the_chosen_width_is_the_least_in_harm_and_price_together() -> None:
    """True of every layer but the few that whole bits keep off the relaxation's optimum."""
    one, budgets = program(), Budgets(mean_bits=4.0)
    here = one.solve(budgets)
    off = 0
    for layer in LAYERS:
        found = why(one, TABLE, budgets, here, layer.name)
        best = min(found.options, key=lambda option: option.total)
        off += best.bits != found.bits
        assert found.bits == here.bits[layer.name]
    assert off <= 3


def test_a_forced_step_is_what_pinning_would_do() -> None:
    one, budgets = program(), Budgets(mean_bits=3.5)
    here = one.solve(budgets)
    found = why(one, TABLE, budgets, here, QKV)
    for step in (*found.wider, *found.narrower):
        pinned = program(pins={QKV: step.to}).solve(budgets)
        assert step.forced == pytest.approx(pinned.solution.harm - here.solution.harm, rel=1e-6)
        assert step.forced >= 0
        assert step.harm == pytest.approx(TABLE.harm(QKV, step.to) - TABLE.harm(QKV, here.bits[QKV]))


def test_the_words_say_which_way_it_was_decided() -> None:
    one = program()
    tight, ample = Budgets(mean_bits=3.0), Budgets(mean_bits=8.0)
    said = " ".join(why(one, TABLE, tight, one.solve(tight), QKV).sentences)
    assert "other layers use it better" in said
    free = why(one, TABLE, ample, one.solve(ample), QKV)
    assert free.bits == Bits(8, 8)
    held = program(pins={QKV: Bits(4, 4)})
    assert "4/4 is the only pair" in why(held, TABLE, tight, held.solve(tight), QKV).sentences[0]
    assert "No budget binds" in why(one, TABLE, Budgets(), one.solve(Budgets()), QKV).sentences[0]


def test_tied_layers_are_explained_as_one() -> None:
    one, budgets = program(ties=("residual",)), Budgets(mean_bits=3.5)
    here = one.solve(budgets)
    found = why(one, TABLE, budgets, here, "blocks.1.mlp.fc2")
    assert found.layers == ("blocks.1.attn.proj", "blocks.1.mlp.fc2")
    assert found.options[0].harm == pytest.approx(sum(TABLE.harm(name, Bits(2, 2)) for name in found.layers))


def test_free_widths_have_a_step_for_each_side() -> None:
    harm = harm_of(LAYERS)
    cells = {
        name: {Bits(w, a): replace(row[Bits(w, w)], harm=row[Bits(w, 32)].harm + row[Bits(32, a)].harm * 1.3)
               for w in range(2, 9) for a in range(2, 9)}
        for name, row in harm.cells.items()
    }  # fmt: skip
    table = replace(harm, cells=cells)
    one = Program(COSTS, table, AllocationSpec(menus={kind: Menu(tied=False) for kind in KINDS}))
    budgets = Budgets(gbops=one.least["gbops"] + 0.3 * (one.most["gbops"] - one.least["gbops"]))
    here = one.solve(budgets)
    found = why(one, table, budgets, here, QKV)
    now = found.bits
    assert {step.to for step in found.wider} <= {Bits(now[0] + 1, now[1]), Bits(now[0], now[1] + 1)}


def test_room_and_range_of_each_budget() -> None:
    one, budgets = program(), Budgets(mean_bits=3.5, megabytes=1.0)
    here = one.solve(budgets)
    rooms = slacks(one, budgets, here)
    assert rooms["mean_bits"].binds
    assert rooms["mean_bits"].room == pytest.approx(3.5 - here.cost.mean_bits)
    assert rooms["gbops"].limit is None
    assert rooms["gbops"].room is None
    for room in rooms.values():
        assert room.least <= room.spent <= room.most


def test_flips_add_up_to_the_difference() -> None:
    one = program()
    first, second = (one.solve(Budgets(mean_bits=bits)) for bits in (3.0, 3.5))
    found = flips(first.bits, second.bits, costs=COSTS, sensitivity=TABLE)
    assert sum(flip.harm for flip in found) == pytest.approx(second.solution.harm - first.solution.harm)
    assert sum(flip.megabytes for flip in found) == pytest.approx(second.cost.megabytes - first.cost.megabytes)
    assert sum(flip.gbops for flip in found) == pytest.approx(second.cost.gbops - first.cost.gbops)
    assert all(first.bits[flip.layer.name] == flip.before != flip.after for flip in found)
    assert flips(first.bits, first.bits, costs=COSTS) == []
    assert math.isnan(flips(first.bits, second.bits, costs=COSTS)[0].harm)


def test_what_is_out_of_reach_and_where_another_budget_takes_over() -> None:
    held = program(pins={QKV: Bits(8, 8)})
    free = program()
    gbops = held.least["gbops"] + 0.3 * (held.most["gbops"] - held.least["gbops"])
    points = frontier(held, "mean_bits", others=Budgets(gbops=gbops), points=21)
    grey, pale = spans(points, "mean_bits", free.least["mean_bits"], held.most["mean_bits"])
    assert (grey.low, grey.feasible) == (free.least["mean_bits"], False)
    assert grey.high == pytest.approx(held.least["mean_bits"])
    assert pale.feasible
    assert "limited by GBOPs" in pale.reason
    nothing = frontier(held, "mean_bits", others=Budgets(gbops=0.01), points=3)
    (whole,) = spans(nothing, "mean_bits", 2.0, 8.0)
    assert (whole.low, whole.high, whole.feasible) == (2.0, 8.0, False)
    assert "No allocation meets the budget" in whole.reason


def test_the_bill_is_drawn_with_the_chosen_width_marked() -> None:
    one: Program = program()
    budgets = Budgets(mean_bits=3.5)
    found = why(one, TABLE, budgets, one.solve(budgets), QKV)
    figure = bill_bars(found)
    assert list(figure.data[0].x) == [str(option.bits.weights) for option in found.options]
    assert figure.layout.annotations[0].x == [option.bits for option in found.options].index(found.bits)
