"""The iterative bit update: Table 2, the pair rule, and the loop, against made-up models with known errors."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping

import numpy as np
import pytest

from lampq_engine.cost import CostModel
from lampq_engine.recipe import AllocationSpec, Budgets, Menu, UpdateSpec
from lampq_engine.types import KINDS, Bits, Layer
from lampq_engine.update import EXPECTED, RHO, Measured, degradation, gain, update_bits

SIZES = {"qkv": 3, "proj": 1, "fc1": 4, "fc2": 4}
LAYERS = [
    Layer(f"blocks.{b}.{kind}", kind, b, 100 * size, 10, 10, 1000 * size, 100)  # type: ignore[arg-type]
    for b in range(3)
    for kind, size in SIZES.items()
]
COSTS = CostModel(LAYERS, 1000)
NAMES = [layer.name for layer in LAYERS]
SPEC = AllocationSpec()
FREE = AllocationSpec(menus={kind: Menu(tied=False) for kind in KINDS})
STEPS = UpdateSpec(steps=50, patience=3)


def even(width: int) -> dict[str, Bits]:
    return dict.fromkeys(NAMES, Bits(width, width))


def model(weight: Mapping[str, float]):
    """A made-up model: a layer's error follows Table 2; accuracy falls with the weighted sum of all errors."""

    def measure(bits: Mapping[str, Bits]) -> Measured:
        errors = {n: weight[n] * (EXPECTED[b.weights] + EXPECTED[b.activations]) / 2 for n, b in bits.items()}
        return Measured(errors, 100 - 100 * sum(errors.values()), sum(errors.values()))

    return measure


def uneven(seed: int) -> dict[str, float]:
    source = np.random.default_rng(seed)
    return {name: float(np.exp(source.normal(0, 2))) for name in NAMES}


def run(bits, weight=None, *, spec=SPEC, update=STEPS, limits=None, measure=None):
    return update_bits(
        bits, costs=COSTS, spec=spec, update=update, limits=limits, measure=measure or model(weight or uneven(0))
    )


def min_max(x: np.ndarray, bits: int) -> np.ndarray:
    low, high = x.min(axis=1, keepdims=True), x.max(axis=1, keepdims=True)
    scale = (high - low) / (2**bits - 1)
    return np.round((x - low) / scale) * scale + low


@pytest.mark.parametrize("length", [384, 512])
def test_table_2_is_min_max_quantization_of_finite_normal_vectors(length: int) -> None:
    """Lemma 3: k(B) is the error of one product of independent normal W and X, both quantized; 5 % is its spread."""
    source = np.random.default_rng(0)
    w, x = (source.standard_normal((600, length)) for _ in range(2))
    errors = {b: float(((min_max(w, b) * min_max(x, b) - w * x) ** 2).mean()) for b in range(1, 9)}
    for bits, rho in RHO.items():
        assert errors[bits - 1] / errors[bits] == pytest.approx(rho, rel=0.05)


def test_expected_errors_are_the_first_row_of_table_2() -> None:
    table = [1.0, 1.209e-2, 1.835e-3, 3.903e-4, 9.093e-5, 2.199e-5, 5.339e-6, 1.324e-6]
    assert [EXPECTED[b] for b in range(1, 9)] == pytest.approx(table, rel=5e-3)


def test_gain_and_degradation_are_the_verbal_definitions() -> None:
    """Not the printed order: going up removes less than going down adds, and both are positive."""
    up, down = gain(0.5, Bits(4, 4), Bits(5, 5)), degradation(0.5, Bits(4, 4), Bits(3, 3))
    assert up == pytest.approx(0.5 * (1 - 1 / 4.29))
    assert down == pytest.approx(0.5 * (4.70 - 1))
    assert 0 < up < down


def test_unequal_widths_interpolate_and_float_costs_nothing() -> None:
    alone = gain(1.0, Bits(4, 4), Bits(4, 5))
    assert alone == pytest.approx((1 - 1 / 4.29) / 2)
    assert gain(1.0, Bits(32, 4), Bits(32, 32)) == 1.0
    assert degradation(0.0, Bits(32, 32), Bits(8, 8)) == math.inf
    assert gain(0.0, Bits(32, 32), Bits(32, 32)) == 0.0


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("spec", [SPEC, FREE], ids=["tied", "free"])
def test_accuracy_rises_with_every_accepted_pair_and_the_weighted_mean_never_does(seed, spec) -> None:
    weight = uneven(seed)
    bits, measured, steps = run(even(4), weight, spec=spec)
    accepted = [step for step in steps if step.accepted]
    assert accepted
    assert measured.top1 > model(weight)(even(4)).top1
    for step in accepted:
        assert step.after.beats(step.before)
        assert step.gain > step.degradation
    for before, after in itertools.pairwise(accepted):
        assert before.after == after.before
    for step in steps:
        assert step.mean_bits <= 4 + 1e-9
        assert COSTS.cost(step.bits).mean_bits == pytest.approx(step.mean_bits)
        assert COSTS.cost(step.bits).mean_activation_bits <= 4 + 1e-9
    assert bits == accepted[-1].bits


def test_the_first_pair_is_the_greatest_gain_and_the_least_degradation() -> None:
    weight = dict.fromkeys(NAMES, 1.0) | {"blocks.1.proj": 90.0, "blocks.2.proj": 0.01}
    _, _, steps = run(even(4), weight)
    assert (steps[0].up, steps[0].down) == ("blocks.1.proj", "blocks.2.proj")


def test_a_pair_whose_gain_is_not_above_its_degradation_is_never_tried() -> None:
    calls = []

    def measure(bits: Mapping[str, Bits]) -> Measured:
        calls.append(bits)
        return Measured(dict.fromkeys(NAMES, 0.1), 50.0 + len(calls), 1.0)

    bits, measured, steps = run(even(4), measure=measure)
    assert (bits, steps, len(calls), measured.top1) == (even(4), [], 1, 51.0)


@pytest.mark.parametrize("patience", [0, 1, 4])
def test_what_does_not_help_is_reverted_and_patience_ends_it(patience: int) -> None:
    errors = {name: 10.0 ** (i % 4) for i, name in enumerate(NAMES)}
    bits, measured, steps = run(
        even(4), update=UpdateSpec(steps=9, patience=patience), measure=lambda _: Measured(errors, 70.0, 1.0)
    )
    assert bits == even(4)
    assert measured.top1 == 70.0
    assert len(steps) == patience + 1
    assert not any(step.accepted for step in steps)
    assert len({tuple(step.bits.items()) for step in steps}) == len(steps)
    net = [step.gain - step.degradation for step in steps]
    assert net == sorted(net, reverse=True)


def test_equal_accuracy_is_kept_if_the_loss_falls() -> None:
    weight = uneven(3)
    flat = lambda bits: Measured(model(weight)(bits).errors, 90.0, model(weight)(bits).loss)  # noqa: E731
    _, measured, steps = run(even(4), measure=flat)
    assert any(step.accepted for step in steps)
    assert measured.loss < flat(even(4)).loss


def test_steps_bound_the_pairs_and_zero_means_no_update() -> None:
    assert sum(step.accepted for step in run(even(4), update=UpdateSpec(steps=2))[2]) == 2
    assert run(even(4), update=UpdateSpec(steps=0))[::2] == (even(4), [])


def test_a_budget_with_room_is_used_but_never_exceeded() -> None:
    weight = dict.fromkeys(NAMES, 1.0) | {"blocks.1.fc1": 90.0, "blocks.2.proj": 0.01}
    _, _, tight = run(even(4), weight)
    _, _, roomy = run(even(4), weight, limits=Budgets(mean_bits=4.2))
    assert (roomy[0].up, roomy[0].down) == ("blocks.1.fc1", "blocks.2.proj")
    assert tight[0].down != "blocks.2.proj"  # one bit of fc1 is four of proj
    assert 4 < max(step.mean_bits for step in roomy) <= 4.2 + 1e-9


def test_every_given_budget_is_kept() -> None:
    weight = uneven(1)
    gbops = COSTS.cost(even(4)).gbops
    for step in run(even(4), weight, limits=Budgets(mean_bits=5, gbops=gbops))[2]:
        assert COSTS.cost(step.bits).gbops <= gbops * (1 + 1e-9)


def test_strict_paper_keeps_the_plain_mean_alone() -> None:
    weight = dict.fromkeys(NAMES, 1.0) | {"blocks.1.fc1": 90.0, "blocks.2.proj": 0.01}
    bits, _, steps = run(even(4), weight, update=UpdateSpec(steps=5, strict_paper=True))
    assert sum(b.weights for b in bits.values()) == 4 * len(bits)
    assert bits["blocks.1.fc1"] > Bits(4, 4)
    assert max(step.mean_bits for step in steps) > 4


def test_pinned_fixed_and_unmeasured_layers_stay_and_menus_are_kept() -> None:
    menus = {kind: Menu((3, 4, 6), (3, 4, 6)) for kind in KINDS} | {"proj": Menu((4,), (4,))}
    spec = AllocationSpec(menus=menus, pins={"blocks.0.qkv": Bits(4, 4)})  # type: ignore[arg-type]
    for seed in range(4):
        bits, _, _ = run(even(4), uneven(seed), spec=spec)
        assert {b for n, b in bits.items() if n.endswith("proj") or n == "blocks.0.qkv"} == {Bits(4, 4)}
        assert set(bits.values()) <= {Bits(3, 3), Bits(4, 4), Bits(6, 6)}


def test_fixed_weights_leave_the_activations_to_trade() -> None:
    spec = AllocationSpec(menus={kind: Menu((8,), (2, 3, 4, 5), tied=False) for kind in KINDS})
    bits, _, steps = run(dict.fromkeys(NAMES, Bits(8, 4)), uneven(2), spec=spec)
    assert any(step.accepted for step in steps)
    assert {b.weights for b in bits.values()} == {8}
    assert COSTS.cost(bits).mean_activation_bits <= 4 + 1e-9


def test_the_same_question_has_the_same_answer_and_no_state_is_measured_twice() -> None:
    seen = []
    weight = uneven(5)

    def measure(bits: Mapping[str, Bits]) -> Measured:
        seen.append(tuple(bits.items()))
        return model(weight)(bits)

    first = run(even(4), measure=measure)
    assert len(seen) == len(set(seen))
    assert run(even(4), weight) == first


def test_a_layer_whose_error_was_not_measured_stays() -> None:
    weight = uneven(0)

    def measure(bits: Mapping[str, Bits]) -> Measured:
        whole = model(weight)(bits)
        return Measured({n: e for n, e in whole.errors.items() if n.endswith("fc1")}, whole.top1, whole.loss)

    bits, _, _ = run(even(4), measure=measure)
    assert {b for n, b in bits.items() if not n.endswith("fc1")} == {Bits(4, 4)}
    assert bits != even(4)
