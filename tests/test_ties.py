"""Ties: the best tied allocation is that of brute force, tied layers are always equal, and what cannot be is said."""

from __future__ import annotations

import itertools
import random
from dataclasses import replace

import pytest

from lampq_engine.allocate import Program, uniform
from lampq_engine.commands.request import tie_of
from lampq_engine.controls import random_scores
from lampq_engine.cost import CostModel
from lampq_engine.errors import InputError
from lampq_engine.problem import UNITS, options
from lampq_engine.recipe import TIES, AllocationSpec, Budgets, Menu, Recipe, UpdateSpec, from_toml, to_toml
from lampq_engine.ties import groups
from lampq_engine.types import KINDS, Bits, Layer
from lampq_engine.update import Measured, update_bits

WIDTHS = (2, 4, 8)
PAIRS = [Bits(w, a) for w in WIDTHS for a in WIDTHS]
SIZES = {"qkv": 3, "proj": 1, "fc1": 4, "fc2": 4}


def layers(blocks: int = 2) -> list[Layer]:
    return [
        Layer(f"blocks.{b}.{kind}", kind, b, 100 * size, 10, 10, 1000 * size, 100)  # type: ignore[arg-type]
        for b in range(blocks)
        for kind, size in SIZES.items()
    ]


def spec_of(ties: tuple, *, tied: bool = True, pins: dict[str, Bits] | None = None) -> AllocationSpec:
    menus = {kind: Menu(WIDTHS, WIDTHS, tied=tied) for kind in KINDS}
    return AllocationSpec(menus=menus, ties=ties, pins=pins or {})


@pytest.mark.parametrize("seed", range(12))
def test_equals_brute_force_over_the_allocations_that_keep_the_ties(seed: int) -> None:
    source = random.Random(seed)
    found = layers(2 if seed % 2 else 1)
    table, costs = random_scores(found, PAIRS, base=4, seed=seed), CostModel(found, 50)
    rules = ("attention", "mlp", "residual", "block")
    own = tuple(layer.name for layer in source.sample(found, 2))
    ties = (own, source.choice(rules))
    spec = spec_of(ties, tied=seed % 2 == 1, pins={own[0]: Bits(4, 4)} if seed % 3 == 0 else None)
    program = Program(costs, table, spec)
    names = source.sample(sorted(UNITS), source.randint(1, 2))
    span = {b: program.most[b] - program.least[b] for b in names}
    budgets = Budgets(**{b: program.least[b] + span[b] * source.uniform(0.1, 0.9) for b in names})
    joined = groups(found, ties)
    rows = options(found, spec)
    best = None
    for picked in itertools.product(*(rows[group[0]] for group in joined)):
        bits = {name: pair for group, pair in zip(joined, picked, strict=True) for name in group}
        cost = costs.cost(bits)
        if all(getattr(cost, b) <= limit * (1 + 1e-9) for b, limit in budgets.given().items()):
            harm = sum(table.harm(name, pair) for name, pair in bits.items())
            best = harm if best is None else min(best, harm)
    if best is None:
        with pytest.raises(InputError):
            program.solve(budgets)
        return
    solved = program.solve(budgets)
    assert solved.solution.harm == pytest.approx(best, rel=1e-9)
    assert all(solved.bits[name] == solved.bits[group[0]] for group in joined for name in group)
    assert list(solved.bits) == [layer.name for layer in found]
    assert solved.cost == costs.cost(solved.bits)


def test_a_tie_costs_harm_and_never_saves_any() -> None:
    found = layers(4)
    table, costs = random_scores(found, PAIRS, base=4, seed=1), CostModel(found, 50)
    harms = [
        Program(costs, table, spec_of(ties)).solve(Budgets(mean_bits=4)).solution.harm
        for ties in ((), ("residual",), ("residual", "attention"), ("block",))
    ]
    assert harms == sorted(harms)
    assert harms[0] < harms[-1]


def test_ties_join_through_a_common_layer_and_rules_hold_in_every_block() -> None:
    found = layers(2)
    assert groups(found, ("residual",)) == [
        ("blocks.0.qkv",),
        ("blocks.0.proj", "blocks.0.fc2"),
        ("blocks.0.fc1",),
        ("blocks.1.qkv",),
        ("blocks.1.proj", "blocks.1.fc2"),
        ("blocks.1.fc1",),
    ]
    joined = groups(found, ("attention", "residual", ("blocks.0.qkv", "blocks.1.qkv")))
    assert max(joined, key=len) == tuple(f"blocks.{b}.{k}" for b in (0, 1) for k in ("qkv", "proj", "fc2"))
    assert sorted(itertools.chain(*joined)) == sorted(layer.name for layer in found)


def test_a_pin_holds_the_whole_tie_and_a_fixed_mate_fixes_it() -> None:
    found = layers(1)
    spec = spec_of(("attention",), pins={"blocks.0.proj": Bits(4, 4)})
    rows = options(found, spec)
    assert rows["blocks.0.qkv"] == (Bits(4, 4),)
    assert rows["blocks.0.fc1"] == tuple(Bits(b, b) for b in WIDTHS)
    assert uniform(found, replace(spec, uniform=Bits(8, 8)))["blocks.0.qkv"] == Bits(4, 4)


def test_ties_that_cannot_be_kept_are_said_so() -> None:
    found = layers(1)
    with pytest.raises(InputError, match=r"no widths in common: blocks.0.qkv may take 2/2; blocks.0.proj may take 8/8"):
        options(found, spec_of(("attention",), pins={"blocks.0.qkv": Bits(2, 2), "blocks.0.proj": Bits(8, 8)}))
    with pytest.raises(InputError, match="names the layer 'nothing'"):
        options(found, spec_of((("blocks.0.qkv", "nothing"),)))


@pytest.mark.parametrize("ties", [("sideways",), (("one",),), ((1, 2),)])
def test_a_tie_that_is_none_is_refused(ties: tuple) -> None:
    with pytest.raises(InputError, match=r"allocation\.ties"):
        AllocationSpec(ties=ties)


def test_ties_go_through_toml_and_the_command_line() -> None:
    recipe = Recipe(allocation=AllocationSpec(ties=("residual", ("blocks.0.attn.qkv", "blocks.0.attn.proj"))))
    assert from_toml(to_toml(recipe)) == recipe
    assert tie_of("blocks.0.attn.qkv = blocks.0.attn.proj") == ("blocks.0.attn.qkv", "blocks.0.attn.proj")
    assert [tie_of(name) for name in TIES] == list(TIES)
    with pytest.raises(InputError, match="'resid' is not a tie"):
        tie_of("resid")


def test_the_bit_update_moves_tied_layers_together() -> None:
    found = layers(2)
    costs, spec = CostModel(found, 0), spec_of(("attention",))
    start = {layer.name: Bits(4, 4) for layer in found}
    errors = {layer.name: 0.5 if layer.kind in ("qkv", "proj") and layer.block == 0 else 0.001 for layer in found}
    tops = itertools.count()
    bits, _, steps = update_bits(
        start,
        costs=costs,
        spec=spec,
        update=UpdateSpec(steps=3),
        limits=Budgets(mean_bits=6),
        measure=lambda _: Measured(errors, float(next(tops)), 1.0),
    )
    assert steps
    assert bits["blocks.0.qkv"] == bits["blocks.0.proj"] == Bits(8, 8)
    for step in steps:
        assert all(step.bits[f"blocks.{b}.qkv"] == step.bits[f"blocks.{b}.proj"] for b in (0, 1))
