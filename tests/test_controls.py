"""The controls: harm by width alone, scores that know nothing, and the ranking upside down."""

from __future__ import annotations

import pytest

from lampq_engine.controls import decay, inverted, random_scores
from lampq_engine.types import Bits, Cell, Layer, Sensitivity

PAIRS = [Bits(w, a) for w in (2, 4, 8) for a in (2, 4, 8)]
LAYERS = [Layer(f"l{i}", "fc1", i, 10, 1, 0, 10, 10) for i in range(5)] + [Layer("qk", "scores", 0, 0, 0, 0, 10, 10)]


def test_decay_is_lampqs_rule_where_widths_are_tied() -> None:
    cells = decay(5.0, 0.5, PAIRS, 4.0)
    for b in (2, 4, 8):
        assert cells[Bits(b, b)].harm == pytest.approx(5.0 * 4.0**-b)
        assert cells[Bits(b, b)].error == pytest.approx(0.5 * 4.0**-b)
    mixed = cells[Bits(2, 8)].harm
    assert mixed == pytest.approx((cells[Bits(2, 2)].harm + cells[Bits(8, 8)].harm) / 2)


def test_decay_of_a_half_left_in_float_is_the_other_half() -> None:
    cells = decay(1.0, 0.0, [Bits(4, 32), Bits(32, 4), Bits(4, 4)], 4.0)
    assert cells[Bits(4, 32)].harm + cells[Bits(32, 4)].harm == pytest.approx(cells[Bits(4, 4)].harm)


def test_random_scores_depend_on_the_seed_alone() -> None:
    first, again, other = (random_scores(LAYERS, PAIRS, base=4, seed=s) for s in (0, 0, 1))
    assert first == again
    assert first.raw != other.raw
    assert set(first.cells) == {f"l{i}" for i in range(5)}
    assert all(score > 0 for score in first.raw.values())
    assert first.harm("qk", Bits(4, 4)) == 0


def test_inverted_turns_the_ranking_upside_down_and_keeps_the_scores() -> None:
    table = random_scores(LAYERS, PAIRS, base=4, seed=0)
    upside = inverted(table)
    before = sorted(table.raw, key=lambda name: table.raw[name])
    after = sorted(upside.raw, key=lambda name: upside.raw[name])
    assert after == before[::-1]
    assert sorted(upside.raw.values()) == sorted(table.raw.values())
    assert upside.harm(before[0], Bits(4, 4)) == table.harm(before[-1], Bits(4, 4))
    assert (upside.metric, upside.notes["inverted_from"]) == ("inverted", "random")
    assert inverted(upside).cells == table.cells


def test_inverted_needs_no_raw_scores() -> None:
    cells = {"a": {Bits(4, 4): Cell(1.0)}, "b": {Bits(4, 4): Cell(2.0)}}
    upside = inverted(Sensitivity("harm", "nats", 8, cells))
    assert (upside.harm("a", Bits(4, 4)), upside.harm("b", Bits(4, 4)), upside.raw) == (2.0, 1.0, {})


def test_a_pair_that_was_not_scored_is_the_sum_of_its_halves() -> None:
    row = {Bits(4, 32): Cell(1.0), Bits(32, 2): Cell(0.25), Bits(3, 3): Cell(9.0)}
    table = Sensitivity("harm", "nats", 8, {"a": row})
    assert table.harm("a", Bits(4, 2)) == 1.25
    assert table.harm("a", Bits(3, 3)) == 9.0
    assert table.harm("a", Bits(32, 32)) == table.harm("elsewhere", Bits(1, 1)) == 0.0
    with pytest.raises(KeyError):
        table.harm("a", Bits(5, 5))
