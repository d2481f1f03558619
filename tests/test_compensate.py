"""Compensation: regression and rounding with feedback against their definitions, and a block that learns."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from lampq_engine.compensate import compensated, damping, ridge, round_with_feedback
from lampq_engine.fitting import Seen, wrap
from lampq_engine.importance import Importance
from lampq_engine.quantized import Quantized
from lampq_engine.quantizers import fit_tensor, fit_weight
from lampq_engine.recipe import QuantizationSpec
from lampq_engine.reconstruct import reconstruct_
from lampq_engine.types import Bits, Layer

LAYER = Layer("op", "fc1", 0, 24 * 16, 16, 16, 0, 24)


def correlated(rows: int, width: int, seed: int = 0) -> Tensor:
    source = torch.Generator().manual_seed(seed)
    mixing = torch.randn(width, width, generator=source)
    return torch.randn(rows, width, generator=source) @ mixing / width**0.5 + 0.5


def test_ridge_is_the_least_squares_solution() -> None:
    """Oracle: `lstsq` on the stacked system that the two squares amount to."""
    x, y = correlated(200, 12).double(), correlated(200, 12, 1).double()
    weight, damp = torch.randn(5, 12).double(), 0.3
    found = ridge(weight, y.T @ y / 200, x.T @ y / 200, damp)
    left = torch.cat([y / 200**0.5, damp**0.5 * torch.eye(12).double()])
    right = torch.cat([x @ weight.T / 200**0.5, damp**0.5 * weight.T])
    torch.testing.assert_close(found, torch.linalg.lstsq(left, right).solution.T)


def test_feedback_stays_on_the_grid_and_beats_rounding_alone() -> None:
    x = correlated(400, 24)
    weight = torch.randn(16, 24, generator=torch.Generator().manual_seed(2))
    moment = x.T @ x / len(x)
    for bits in (2, 3, 4):
        quantizer = fit_weight(weight, bits)
        rounded = round_with_feedback(weight, quantizer, moment, 1e-3)
        torch.testing.assert_close(quantizer(rounded), rounded, rtol=1e-5, atol=1e-6)

        def error(w: Tensor, weight: Tensor = weight) -> float:
            return float(((w - weight) @ x.T).square().sum())

        assert error(rounded) < 0.9 * error(quantizer(weight))


def test_feedback_without_correlation_is_plain_rounding() -> None:
    weight = torch.randn(8, 10, generator=torch.Generator().manual_seed(3))
    quantizer = fit_weight(weight, 3)
    torch.testing.assert_close(round_with_feedback(weight, quantizer, torch.eye(10), 0.0), quantizer(weight))


def test_few_rows_are_damped_more() -> None:
    moment = torch.eye(10)
    assert damping(moment, 1000, None) == pytest.approx(0.02)
    assert damping(moment, 1000, torch.tensor([1.0] * 10 + [0.0] * 990)) == pytest.approx(1.01)


def linear() -> nn.Linear:
    torch.manual_seed(4)
    return nn.Linear(24, 16)


@pytest.mark.parametrize("how", ["ridge", "feedback", "both"])
def test_compensation_lowers_the_error_of_the_output(how: str) -> None:
    x = correlated(600, 24).view(6, 100, 24)
    op = linear().requires_grad_(False)
    wanted = op(x)
    plain = wrap(Seen(copy.deepcopy(op), LAYER, [x], QuantizationSpec()), Bits(3, 4))
    seen = Seen(op, LAYER, [x], QuantizationSpec())
    ours = compensated(seen, Bits(3, 4), x, how)
    assert float((ours(x) - wanted).square().sum()) < float((plain(x) - wanted).square().sum())
    assert ours.weight_quantizer is not None
    torch.testing.assert_close(ours.weight_quantizer(ours.weight), ours.weight, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close((ours(x) - wanted).mean((0, 1)), torch.zeros(16), rtol=0, atol=2e-2)


def test_a_weighted_token_is_heard() -> None:
    """What counts is the error where the weight is: the first token of each image."""
    x = correlated(600, 24).view(6, 100, 24)
    x[:, 0] += 2 * torch.randn(6, 24, generator=torch.Generator().manual_seed(5))
    tokens = torch.full((6, 100), 0.01)
    tokens[:, 0] = 50.0
    errors = []
    for importance in (None, Importance(tokens.flatten(), torch.ones(16))):
        op = linear().requires_grad_(False)
        wanted = op(x)
        found = wrap(Seen(op, LAYER, [x], QuantizationSpec(), importance), Bits(3, 3))
        errors.append(float((found(x) - wanted)[:, 0].square().sum()))
    assert errors[1] < errors[0]


def test_a_block_learns_to_put_out_what_the_float_block_does() -> None:
    x = correlated(640, 24).view(32, 20, 24)
    block = nn.Sequential(linear(), nn.GELU(), nn.Linear(16, 24)).requires_grad_(False)
    wanted = block(x)
    first, last = block[0], block[2]
    hidden = block[1](first(x))
    ours = nn.Sequential(
        Quantized(first, fit_weight(first.weight, 2), [fit_tensor(x, 3)]),
        nn.GELU(),
        Quantized(last, fit_weight(last.weight, 2), [fit_tensor(hidden, 3)]),
    )
    calls = [((part,), {}) for part in x.split(16)]
    even = Importance(torch.ones(640), torch.ones(24))
    before, after = reconstruct_(ours, calls, list(wanted.split(16)), even, epochs=20, learning_rate=1e-3)
    assert after < 0.8 * before
    measured = float((ours(x) - wanted).square().mean() / wanted.square().mean())
    assert measured == pytest.approx(after, rel=1e-4)
    assert not [name for name, _ in ours.named_parameters() if "log_step" in name]
