"""The integer program against brute force, its properties, and what it says when a budget cannot be met."""

from __future__ import annotations

import itertools
import random
import re
from dataclasses import replace

import pytest

from lampq_engine.allocate import Program, _round_up, allocate, given, uniform
from lampq_engine.controls import decay, random_scores
from lampq_engine.cost import CostModel
from lampq_engine.errors import InputError
from lampq_engine.problem import UNITS, options
from lampq_engine.recipe import AllocationSpec, Budgets, Menu
from lampq_engine.types import KINDS, Bits, Cell, Kind, Layer, Sensitivity

WIDTHS = (2, 3, 4, 5, 6, 7, 8)
PAIRS = [Bits(w, a) for w in WIDTHS for a in WIDTHS]
LINEAR: tuple[Kind, ...] = ("qkv", "proj", "fc1", "fc2")


def layer(name: str, kind: Kind, weights: int, macs: int) -> Layer:
    return Layer(name, kind, 0, weights, 0 if weights == 0 else 8, 0, macs, 64)


def some_layers(source: random.Random, count: int) -> list[Layer]:
    sizes = [source.choice([100, 300, 400, 1000]) for _ in range(count)]
    found = [layer(f"l{i}", LINEAR[i % 4], size, size * source.randint(1, 9)) for i, size in enumerate(sizes)]
    return [*found, layer("matmul", "scores", 0, 5000)]


def some_table(source: random.Random, layers: list[Layer]) -> Sensitivity:
    """Harm that mostly falls with width, as measured tables do, and now and then does not."""
    cells = {}
    for one in layers:
        score, noise = source.lognormvariate(0, 1), source.choice([0.0, 0.05])
        cells[one.name] = {
            b: Cell(score * (3.0**-b.weights + 5.0**-b.activations) + noise * source.random()) for b in PAIRS
        }
    return Sensitivity("harm", "nats", 8, cells)


def menus(tied: bool, widths: tuple[int, ...]) -> dict[Kind, Menu]:
    return {kind: Menu(widths, widths, tied=tied) for kind in KINDS}


def brute_force(costs: CostModel, table: Sensitivity, spec: AllocationSpec, budgets: Budgets) -> float | None:
    """Least harm over every allocation there is."""
    rows = options(costs.layers, spec)
    best = None
    for picked in itertools.product(*rows.values()):
        bits = dict(zip(rows, picked, strict=True))
        cost = costs.cost(bits)
        if all(getattr(cost, b) <= limit * (1 + 1e-9) for b, limit in budgets.given().items()):
            harm = sum(table.harm(name, pair) for name, pair in bits.items())
            best = harm if best is None else min(best, harm)
    return best


def vit(blocks: int = 12, width: int = 192, tokens: int = 197) -> list[Layer]:
    shapes = {"qkv": (3 * width, width), "proj": (width, width), "fc1": (4 * width, width), "fc2": (width, 4 * width)}
    return [
        Layer(f"blocks.{b}.{k}", k, b, o * i, o, o, o * i * tokens, tokens * i)  # type: ignore[arg-type]
        for b in range(blocks)
        for k, (o, i) in shapes.items()
    ]


@pytest.fixture(scope="module")
def vit_program() -> Program:
    layers = vit()
    return Program(CostModel(layers, 1000), random_scores(layers, PAIRS, base=4, seed=1), AllocationSpec())


@pytest.mark.parametrize("seed", range(30))
def test_equals_brute_force_under_one_to_three_budgets(seed: int) -> None:
    source = random.Random(seed)
    tied = seed % 2 == 0
    layers = some_layers(source, 6 if tied else 3)
    table, costs = some_table(source, layers), CostModel(layers, 50)
    widths = (2, 4, 8) if tied else (2, 3, 5)
    spec = AllocationSpec(menus=menus(tied, widths), pins={"l1": Bits(4, 3)} if seed % 3 == 0 else {})
    program = Program(costs, table, spec)
    names = source.sample(sorted(UNITS), source.randint(1, 3))
    span = {b: program.most[b] - program.least[b] for b in names}
    budgets = Budgets(**{b: program.least[b] + span[b] * source.uniform(0.1, 0.9) for b in names})
    best = brute_force(costs, table, spec, budgets)
    if best is None:
        with pytest.raises(InputError):
            program.solve(budgets)
        return
    found = program.solve(budgets)
    assert found.solution.harm == pytest.approx(best, rel=1e-9)
    assert found.solution.status == "optimal"
    assert found.solution.bound == pytest.approx(best, rel=1e-6)
    assert 0 <= found.solution.gap < 1e-6
    assert found.cost == costs.cost(found.bits)
    assert all(getattr(found.cost, b) <= limit * (1 + 1e-9) for b, limit in budgets.given().items())
    assert all(found.bits[name] in row for name, row in options(layers, spec).items())


def test_equal_scores_per_parameter_give_one_width_to_all() -> None:
    layers = vit()
    table = Sensitivity("x", "", 1, {one.name: decay(float(one.weights), 0, PAIRS, 4.0) for one in layers})
    for width in (3, 5):
        found = allocate(CostModel(layers, 0), table, AllocationSpec(budgets=Budgets(mean_bits=width)))
        assert set(found.bits.values()) == {Bits(width, width)}
        assert found.cost.mean_bits == pytest.approx(width)
        assert found.solution.binding == ("mean_bits",)


def test_a_layer_that_matters_more_never_gets_fewer_bits() -> None:
    layers = vit(blocks=4)
    costs, spec = CostModel(layers, 0), AllocationSpec(budgets=Budgets(mean_bits=3.5))
    base = random_scores(layers, PAIRS, base=4, seed=3)
    for name in ("blocks.0.qkv", "blocks.2.proj", "blocks.3.fc2"):
        widths = []
        for factor in (0.01, 0.3, 1, 5, 80, 1000):
            cells = {**base.cells, name: decay(base.raw[name] * factor, 0, PAIRS, 4.0)}
            widths.append(allocate(costs, replace(base, cells=cells), spec).bits[name].weights)
        assert widths == sorted(widths)
        assert widths[0] < widths[-1]


def greedy(costs: CostModel, table: Sensitivity, target: float) -> float:
    """Raise the layer of greatest harm removed per weight by one bit for as long as the mean allows."""
    bits = dict.fromkeys((one.name for one in costs.layers), Bits(2, 2))
    while True:
        fits = []
        for one in costs.layers:
            now, up = bits[one.name], Bits(*(b + 1 for b in bits[one.name]))
            if now.weights < 8 and costs.cost(bits | {one.name: up}).mean_bits <= target + 1e-9:
                fits.append(((table.harm(one.name, now) - table.harm(one.name, up)) / one.weights, one.name, up))
        if not fits:
            return sum(table.harm(name, pair) for name, pair in bits.items())
        _, name, up = max(fits)
        bits[name] = up


@pytest.mark.parametrize("target", [2.5, 4.0, 6.3])
def test_exact_is_no_worse_than_greedy_and_close_to_it(target: float, vit_program: Program) -> None:
    problem = vit_program.problem
    table = random_scores(problem.costs.layers, PAIRS, base=4, seed=1)
    exact = vit_program.solve(Budgets(mean_bits=target)).solution.harm
    by_hand = greedy(problem.costs, table, target)
    assert exact <= by_hand * (1 + 1e-9)
    assert by_hand <= exact * 1.02


def test_more_budget_never_harms_more(vit_program: Program) -> None:
    harms = [vit_program.solve(Budgets(gbops=g)).solution.harm for g in (6, 9, 15, 30)]
    assert harms == sorted(harms, reverse=True)


def test_without_a_budget_everything_is_widest(vit_program: Program) -> None:
    found = vit_program.solve(Budgets())
    assert set(found.bits.values()) == {Bits(8, 8)}
    assert found.solution.binding == ()


def test_a_program_can_be_asked_again_in_any_order(vit_program: Program) -> None:
    first = vit_program.solve(Budgets(mean_bits=3))
    vit_program.solve(Budgets(gbops=20, megabytes=5))
    again = vit_program.solve(Budgets(mean_bits=3))
    assert again.bits == first.bits


def test_pins_hold_and_fixed_kinds_stay_on_their_menu() -> None:
    layers = [*vit(blocks=2), layer("head", "head", 1920, 1920), layer("qk", "scores", 0, 7000)]
    spec = AllocationSpec(budgets=Budgets(mean_bits=3), pins={"blocks.1.fc1": Bits(7, 3), "qk": Bits(32, 32)})
    found = allocate(CostModel(layers, 0), random_scores(layers, PAIRS, base=4, seed=0), spec)
    assert (found.bits["blocks.1.fc1"], found.bits["qk"], found.bits["head"]) == (Bits(7, 3), Bits(32, 32), Bits(8, 8))
    assert found.cost.mean_bits <= 3 + 1e-9


def test_two_budgets_bind_where_each_alone_would_not_do(vit_program: Program) -> None:
    alone = vit_program.solve(Budgets(mean_bits=4))
    both = vit_program.solve(Budgets(mean_bits=4, gbops=alone.cost.gbops * 0.9))
    assert both.solution.harm > alone.solution.harm
    assert "gbops" in both.solution.binding


def budgets_printed(sentence: str) -> Budgets:
    reach = re.search(r"at least (.*?)\. (Raise|$)", sentence)
    assert reach
    pairs = [part.rsplit(" ", 2)[:2] for part in reach[1].split(", ")]
    return Budgets(**{name.lower().replace(" ", "_"): float(value) for name, value in pairs})


ASKS = [
    Budgets(mean_bits=1.5),
    Budgets(mean_bits=1, gbops=0.5),
    Budgets(megabytes=0.1, mean_bits=7.77777),
    Budgets(mean_bits=2.00001, mean_activation_bits=1.2, megabytes=0.3, gbops=4.19999),
    Budgets(gbops=1e-3),
]


@pytest.mark.parametrize("ask", ASKS, ids=str)
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "free"])
def test_an_infeasible_budget_is_answered_with_one_that_works_as_printed(ask: Budgets, tied: bool) -> None:
    layers = vit(blocks=3)
    spec = AllocationSpec(menus=menus(tied, WIDTHS), pins={"blocks.1.fc1": Bits(5, 3)})
    program = Program(CostModel(layers, 123456), random_scores(layers, PAIRS, base=4, seed=1), spec)
    with pytest.raises(InputError, match=r"^No allocation meets the budget .* Raise the budget, widen a") as error:
        program.solve(ask)
    near = budgets_printed(str(error.value))
    assert set(near.given()) == set(ask.given())
    found = program.solve(near)
    for name, limit in near.given().items():
        assert getattr(found.cost, name) <= limit * (1 + 1e-9)
        if name not in found.solution.binding:  # what was not raised is printed as it was asked
            assert limit >= ask.given()[name]


def test_budgets_that_only_conflict_together_are_raised_together() -> None:
    layers = vit(blocks=1)
    menu = {**menus(False, (2, 8)), "qkv": Menu((2,), (8,)), "proj": Menu((8,), (2,))}
    table = random_scores(layers, PAIRS, base=4, seed=1)
    program = Program(CostModel(layers, 0), table, AllocationSpec(menus=menu))
    ask = Budgets(mean_bits=program.least["mean_bits"], mean_activation_bits=program.least["mean_activation_bits"])
    assert program.solve(ask).solution.status == "optimal"
    with pytest.raises(InputError):
        program.solve(replace(ask, mean_bits=program.least["mean_bits"] * 0.98))


def test_the_least_mean_prints_as_a_person_would_write_it(vit_program: Program) -> None:
    with pytest.raises(InputError, match=r"Expected at least mean bits 2 bits\. "):
        vit_program.solve(Budgets(mean_bits=1))


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (2.0000000004, 2.0),
        (2.001, 2.001),
        (2.0011, 2.002),
        (4.1840001, 4.185),
        (0.0123456, 0.01235),
        (99.999, 100.0),
        (12345.6, 12350.0),
        (9999.5, 10000.0),
        (0.3, 0.3),
        (6.2e-7, 6.2e-7),
    ],
)
def test_four_digits_that_still_meet_the_budget(value: float, shown: float) -> None:
    assert _round_up(value) == shown
    assert float(f"{_round_up(value):.4g}") >= value * (1 - 1e-9)


@pytest.mark.parametrize("seed", range(3))
def test_rounding_up_is_never_below_nor_far_above(seed: int) -> None:
    source = random.Random(seed)
    for _ in range(300):
        value = 10 ** source.uniform(-6, 6)
        assert value <= float(f"{_round_up(value):.4g}") <= value * 1.0011


def test_a_pin_of_no_such_layer_is_named() -> None:
    spec = AllocationSpec(pins={"blocks.0.attn": Bits(4, 4)})
    with pytest.raises(
        InputError,
        match=r"names 1 layers that this model does not have, first 'blocks.0.attn'. Expected names such as 'blocks.0",
    ):
        options(vit(blocks=1), spec)


def test_a_width_without_a_score_is_named() -> None:
    layers = vit(blocks=1)
    table = random_scores(layers, PAIRS, base=4, seed=0)
    with pytest.raises(InputError, match=r"The metric 'random' has no score of blocks.0.qkv at 1/1 bits. Remove"):
        allocate(CostModel(layers, 0), table, AllocationSpec(menus=menus(True, (1, 2))))


def test_no_sensitivities_no_program() -> None:
    with pytest.raises(InputError, match=r"no sensitivities to minimise. Analyse the study first\."):
        allocate(CostModel(vit(blocks=1), 0), None, AllocationSpec())


def test_uniform_moves_only_what_has_a_choice() -> None:
    layers = [*vit(blocks=1), layer("head", "head", 1920, 1920)]
    spec = AllocationSpec(solver="uniform", uniform=Bits(3, 4), pins={"blocks.0.qkv": Bits(6, 6)})
    bits = uniform(layers, spec)
    assert (bits["blocks.0.qkv"], bits["blocks.0.fc1"], bits["head"]) == (Bits(6, 6), Bits(3, 4), Bits(8, 8))
    assert allocate(CostModel(layers, 0), None, spec).solution.status == "given"


def test_given_widths_must_name_every_layer_and_no_other() -> None:
    layers = vit(blocks=1)
    costs, bits = CostModel(layers, 0), dict.fromkeys((one.name for one in layers), Bits(4, 4))
    assert allocate(costs, None, AllocationSpec(solver="given", bits=bits)).cost.mean_bits == pytest.approx(4)
    some = {name: pair for name, pair in bits.items() if not name.endswith("fc2")}
    with pytest.raises(InputError, match=r"gives no widths for 1 layers, first 'blocks.0.fc2'"):
        allocate(costs, None, AllocationSpec(solver="given", bits=some))
    with pytest.raises(InputError, match=r"does not have, first 'blocks.9.fc1'"):
        allocate(costs, None, AllocationSpec(solver="given", bits=bits | {"blocks.9.fc1": Bits(4, 4)}))


def test_a_given_allocation_has_its_predicted_harm() -> None:
    layers = vit(blocks=1)
    table = random_scores(layers, PAIRS, base=4, seed=0)
    bits = dict.fromkeys((one.name for one in layers), Bits(4, 4))
    harm = given(CostModel(layers, 0), bits, table).solution.harm
    assert harm == pytest.approx(sum(table.raw.values()) / 4**4)


def test_dominated_choices_are_left_out_and_unscored_layers_take_the_cheapest() -> None:
    layers = [*vit(blocks=1), layer("qk", "scores", 0, 7000)]
    program = Program(
        CostModel(layers, 0), random_scores(layers, PAIRS, base=4, seed=0), AllocationSpec(menus=menus(True, WIDTHS))
    )
    assert program.problem.choices["qk"] == (Bits(2, 2),)
    assert len(program.problem.choices["blocks.0.qkv"]) == 7
