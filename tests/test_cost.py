"""What widths cost, against sums done by hand."""

from __future__ import annotations

import pytest

from lampq_engine.cost import SCALE_BYTES, CostModel, layer_bops, layer_bytes
from lampq_engine.types import Bits, Cost, Evaluation, Layer, blocks, in_mean, wilson

QKV = Layer("blocks.0.attn.qkv", "qkv", 0, weights=3 * 4 * 4, channels=12, bias=12, macs=48 * 5, inputs=20)
PROJ = Layer("blocks.0.attn.proj", "proj", 0, weights=16, channels=4, bias=4, macs=16 * 5, inputs=20)
SCORES = Layer("blocks.0.attn.qk", "scores", 0, weights=0, channels=0, bias=0, macs=100, inputs=40)
HEAD = Layer("head", "head", None, weights=40, channels=10, bias=10, macs=40, inputs=4)
MODEL = CostModel((QKV, PROJ, SCORES, HEAD), fixed_bytes=1000)
BITS = {QKV.name: Bits(3, 4), PROJ.name: Bits(5, 5), SCORES.name: Bits(8, 4), HEAD.name: Bits(8, 8)}


@pytest.mark.parametrize(
    ("layer", "bits", "expected"),
    [
        (QKV, Bits(3, 4), 48 * 3 // 8 + 12 * SCALE_BYTES + 8),
        (QKV, Bits(3, 32), 48 * 3 // 8 + 12 * SCALE_BYTES),
        (QKV, Bits(32, 32), 48 * 4),
        (QKV, Bits(32, 8), 48 * 4 + 8),
        (Layer("odd", "fc1", 0, 3, 1, 0, 3, 3), Bits(3, 8), 2 + SCALE_BYTES + 8),  # 9 bits take two bytes
        (SCORES, Bits(8, 4), 16),
        (SCORES, Bits(32, 4), 8),
        (SCORES, Bits(32, 32), 0),
    ],
)
def test_bytes_of_one_layer(layer: Layer, bits: Bits, expected: int) -> None:
    assert layer_bytes(layer, bits) == expected


def test_bit_operations_count_both_operands() -> None:
    assert layer_bops(QKV, Bits(3, 4)) == 240 * 12
    assert layer_bops(SCORES, Bits(8, 4)) == 100 * 32


def test_cost_of_an_allocation_by_hand() -> None:
    cost = MODEL.cost(BITS)
    assert cost.mean_bits == pytest.approx((48 * 3 + 16 * 5) / 64)  # the head and the matmul do not count
    assert cost.mean_activation_bits == pytest.approx((48 * 4 + 16 * 5) / 64)
    assert cost.megabytes == pytest.approx((1000 + 18 + 8 + 10 + 8 + 16 + 40 + 8 + 26 * SCALE_BYTES) / 1e6)
    assert cost.gbops == pytest.approx((240 * 12 + 80 * 25 + 100 * 32 + 40 * 64) / 1e9)


def test_cost_is_the_constant_plus_the_terms() -> None:
    total = dict(MODEL.constant)
    for layer in MODEL.layers:
        for name, term in MODEL.terms(layer, BITS[layer.name]).items():
            total[name] += term
    assert MODEL.cost(BITS) == Cost(**total)


def test_layers_left_out_stay_in_float() -> None:
    cost = MODEL.cost({})
    assert cost.mean_bits == cost.mean_activation_bits == 32
    assert cost.megabytes == pytest.approx((1000 + 4 * (48 + 16 + 40)) / 1e6)


def test_tied_widths_have_equal_means() -> None:
    cost = MODEL.cost({QKV.name: Bits(3, 3), PROJ.name: Bits(7, 7)})
    assert cost.mean_bits == cost.mean_activation_bits


def test_a_model_without_block_layers_has_no_mean_but_no_error() -> None:
    assert CostModel((HEAD,), 0).cost({"head": Bits(4, 4)}).mean_bits == 0


def test_mean_bits_are_over_the_linear_layers_of_the_blocks() -> None:
    assert [in_mean(layer) for layer in MODEL.layers] == [True, True, False, False]
    assert blocks(MODEL.layers) == [0]


def test_wilson_interval() -> None:
    assert wilson(0.5, 100) == pytest.approx((40.38, 59.62), abs=0.01)
    assert wilson(0.0, 0) == (0.0, 100.0)
    assert wilson(1.0, 10) == pytest.approx((72.25, 100.0), abs=0.01)
    assert wilson(0.0, 10)[0] == 0.0
    assert Evaluation(100, 50.0, 90.0, 1.0).interval == pytest.approx((40.38, 59.62), abs=0.01)
