"""Contract of every quantizer: levels, idempotence, error falling with bits, straight-through gradients."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from lampq_engine.quantizers import (
    INPUT_FITS,
    Log,
    Quantizer,
    Twin,
    Uniform,
    fit_channels,
    fit_input,
    fit_log_context,
    fit_symmetric,
    fit_symmetric_weight,
    fit_tensor,
    fit_twin,
    fit_weight,
    values_of,
)


def probabilities() -> Tensor:
    return (torch.randn(4, 3, 20, 20, generator=torch.Generator().manual_seed(0)) * 3).softmax(-1)


def gaussian(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def after_gelu() -> Tensor:
    return torch.nn.functional.gelu(gaussian(64, 48) * 2)


FITS = {
    "weight": lambda bits: (fit_weight(gaussian(16, 48), bits), gaussian(16, 48)),
    "tensor": lambda bits: (fit_tensor(gaussian(64, 48), bits), gaussian(64, 48)),
    "gram": lambda bits: (fit_weight(gaussian(16, 48), bits, gram=torch.eye(48)), gaussian(16, 48)),
    "heads": lambda bits: (fit_tensor(gaussian(4, 3, 20, 8), bits, heads=3), gaussian(4, 3, 20, 8)),
    "context": lambda bits: (fit_log_context(probabilities(), gaussian(4, 3, 20, 8), bits), probabilities()),
    "gelu": lambda bits: (fit_input(gelu(), bits, name="adalog"), gelu()),
    "symmetric weight": lambda bits: (fit_symmetric_weight(gaussian(16, 48), bits), gaussian(16, 48)),
    "symmetric": lambda bits: (fit_symmetric(gaussian(64, 48), bits), gaussian(64, 48)),
    "symmetric output": lambda bits: (fit_symmetric(gaussian(64, 48), bits, "mse", torch.rand(48)), gaussian(64, 48)),
    "opt_m": lambda bits: (fit_twin(after_gelu(), bits), after_gelu()),
    "log_sqrt2": lambda bits: (fit_input(probabilities(), bits, name="log_sqrt2"), probabilities()),
    "auto": lambda bits: (fit_input(probabilities(), bits, name="auto"), probabilities()),
}


def gelu() -> Tensor:
    return torch.nn.functional.gelu(gaussian(64, 48))


def error(quantizer: Quantizer, x: Tensor) -> float:
    return float((quantizer(x) - x).square().mean())


@pytest.mark.parametrize("name", FITS)
@pytest.mark.parametrize("bits", [1, 2, 3, 4, 8])
def test_levels(name: str, bits: int) -> None:
    quantizer, x = FITS[name](bits)
    rounded = quantizer(x)
    if name in ("heads", "context"):
        rounded = rounded.transpose(0, 1)
    rows = rounded.flatten(1) if quantizer.scale.numel() > 1 else rounded.reshape(1, -1)
    assert max(len(row.unique()) for row in rows) <= 2**bits


@pytest.mark.parametrize("name", FITS)
def test_idempotent(name: str) -> None:
    quantizer, x = FITS[name](4)
    once = quantizer(x)
    torch.testing.assert_close(quantizer(once), once, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", FITS)
def test_error_falls_with_bits(name: str) -> None:
    errors = [error(*FITS[name](bits)) for bits in (2, 3, 4, 6, 8)]
    # A log grid stops improving once it reaches its smallest value: its steps stay sqrt(2) apart.
    slack = 1.0 + 1e-6
    assert all(wide <= narrow * slack for narrow, wide in itertools.pairwise(errors))


def test_opt_m_finds_the_best_ratio() -> None:
    """MPTQ-ViT 2.2 against brute force over m, and better than one uniform grid on values after GELU."""
    x = after_gelu()
    for bits in (3, 4, 6):
        found = fit_twin(x, bits, "minmax")
        step = 0.16997 / 2 ** (bits - 1)
        errors = {m: error(Twin(bits, torch.tensor(step), torch.tensor(float(m))), x) for m in range(-5, 25)}
        assert int(found.ratio) == min(errors, key=lambda m: errors[m])
        assert float(found.ratio) == int(found.ratio)
        assert error(fit_twin(x, bits), x) <= errors[int(found.ratio)]
    assert error(fit_twin(x, 4), x) < error(fit_symmetric(x, 4), x)


def test_twin_levels_follow_the_formula() -> None:
    twin = Twin(3, torch.tensor(0.04), torch.tensor(3.0))
    x = torch.tensor([-1.0, -0.09, -0.05, -0.01, 0.0, 0.1, 0.3, 0.5, 9.0])
    expected = torch.tensor([-0.12, -0.08, -0.04, 0.0, 0.0, 0.0, 0.32, 0.64, 0.96])
    torch.testing.assert_close(twin(x), expected)


def test_symmetric_levels_centre_on_zero() -> None:
    weight = gaussian(16, 48) + 0.5
    for fit in (fit_symmetric_weight(weight, 4), fit_symmetric(weight, 4)):
        assert (fit.zero == 8).all()
    assert float(fit_symmetric_weight(weight, 4, "minmax")(weight).abs().amax(1).sub(weight.abs().amax(1)).max()) < 1e-5


def test_uniform_error_falls_fourfold_per_bit() -> None:
    """Methods, acceptance test 2: for 4 bits and more, a bit divides the squared error by about 4."""
    x = torch.rand(4096, generator=torch.Generator().manual_seed(2))
    errors = [error(fit_tensor(x, bits, "minmax"), x) for bits in (4, 5, 6, 7)]
    for narrow, wide in itertools.pairwise(errors):
        assert narrow / wide == pytest.approx(4.2, rel=0.12)


def test_log_sqrt2_follows_the_formula() -> None:
    """RepQ-ViT's dequantization `s 2^-ceil(q/2) (1 + odd(q) (sqrt2 - 1))`, written out as it is printed."""
    x = probabilities().flatten()
    quantizer = Log(4, torch.tensor(0.9), torch.tensor(18.5))
    q = torch.round(-2 * torch.log2(x / 0.9)).clamp(min=0)
    odd = (q % 2 == 1).double()
    expected = 0.9 * 2.0 ** -torch.ceil(q / 2).double() * (1 + odd * (2**0.5 - 1))
    expected[q >= 15] = 0  # the last of the 16 codes is zero
    torch.testing.assert_close(quantizer(x).double(), expected, rtol=1e-5, atol=1e-7)


def test_search_beats_the_whole_range() -> None:
    x = gaussian(32, 64) ** 3
    for bits in (2, 3, 4):
        assert error(fit_weight(x, bits), x) < error(fit_weight(x, bits, "minmax"), x)
        assert error(fit_tensor(x, bits), x) < error(fit_tensor(x, bits, "minmax"), x)


def test_weight_search_is_near_the_best_grid() -> None:
    """Against brute force over 200 x 200 ranges of one row, the search is within 3 %."""
    row = gaussian(1, 256)
    found = error(fit_weight(row, 2), row)
    low, high = float(row.min()), float(row.max())
    best = float("inf")
    for a in torch.linspace(0.05, 1.1, 60).tolist():
        for b in torch.linspace(0.05, 1.1, 60).tolist():
            scale = (b * high - a * low) / 3
            for zero in torch.arange(0, 3.5, 0.5):
                one = Uniform(2, torch.tensor(scale), zero)
                best = min(best, error(one, row))
    assert found <= 1.03 * best


def test_output_search_minimises_the_output_error() -> None:
    """Weighted by what reads each channel, the range has the lesser output error than the tensor's own."""
    weight, x = gaussian(8, 32) * torch.linspace(0.01, 3, 32), gaussian(512, 32) ** 3
    by_output = fit_tensor(x, 3, channels=weight.square().sum(0))
    by_tensor = fit_tensor(x, 3)

    def output_error(quantizer: Uniform) -> float:
        return float(((quantizer(x) - x) @ weight.T).square().sum())

    assert output_error(by_output) <= output_error(by_tensor)


def test_gram_search_minimises_the_error_of_the_output() -> None:
    """Oracle: the output error over all tokens, computed without the Gram matrix."""
    weight, x = gaussian(8, 32), gaussian(256, 32) * torch.linspace(0.1, 4, 32)
    by_output, alone = fit_weight(weight, 3, gram=x.T @ x), fit_weight(weight, 3)

    def output_errors(quantizer: Uniform) -> Tensor:
        return ((quantizer(weight) - weight) @ x.T).square().sum(1)

    assert (output_errors(by_output) <= output_errors(alone) * (1 + 1e-4)).all()


def test_a_histogram_stands_for_the_tensor() -> None:
    """Oracle: the weighted squared error over every element."""
    x, channels, tokens = gaussian(64, 48), torch.rand(48), torch.rand(64)
    values = values_of(x, channels, tokens)
    quantizer = fit_tensor(x, 4)
    exact = float(((quantizer(x) - x).square() * channels * tokens[:, None]).sum())
    binned = float((quantizer(values.at) - values.at).square() @ values.weight)
    assert binned == pytest.approx(exact, rel=0.02)


def test_log_with_base_two_is_the_log2_quantizer() -> None:
    """Methods, acceptance test 2: AdaLog at Q = 37 is log2."""
    x = probabilities().flatten()
    k = torch.round(-torch.log2(x / 0.8)).clamp(0, 15)
    expected = torch.where(k >= 15, torch.zeros(()), 0.8 * 2.0**-k)
    torch.testing.assert_close(Log(4, torch.tensor(0.8), torch.tensor(37.0))(x), expected)


def test_a_base_for_the_context_beats_one_for_the_probabilities() -> None:
    x, v = probabilities(), gaussian(4, 3, 20, 8) + 2.0

    def context_error(quantizer: Quantizer) -> float:
        return float(((quantizer(x) - x) @ v).square().sum())

    assert context_error(fit_log_context(x, v, 3)) < context_error(fit_input(x, 3, name="adalog"))


def test_constant_and_empty_ranges_survive() -> None:
    for x in (torch.zeros(8, 8), torch.full((8, 8), 3.0), torch.full((8, 8), -2.0)):
        for bits in (1, 2, 8):
            assert torch.isfinite(fit_weight(x, bits)(x)).all()
            torch.testing.assert_close(fit_tensor(x, bits)(x), x, rtol=1e-5, atol=1e-6)


def test_dead_channels_have_scale_zero() -> None:
    x = gaussian(64, 4)
    x[:, 2] = 1.5
    scale, low = fit_channels(x, 4)
    assert float(scale[2]) == 0.0
    assert float(low[2]) == pytest.approx(1.5)


@pytest.mark.parametrize("name", INPUT_FITS)
def test_gradient_passes_straight_through(name: str) -> None:
    x = probabilities().requires_grad_()
    quantizer = fit_input(x, 4, name=name)
    quantizer(x).sum().backward()
    assert x.grad is not None
    assert {round(g, 5) for g in x.grad.unique().tolist()} <= {0.0, 1.0}
    assert float(x.grad.mean()) > 0.2


def test_lsq_gradients_equal_composed_autograd() -> None:
    """Oracle: the same formula from autograd's own pieces, rounding detached; scaled as LSQ scales."""
    x = gaussian(6, 40)
    scale = torch.full((6, 1), 0.3, requires_grad=True)
    zero = torch.tensor([[3.0], [2.5], [0.0], [7.0], [4.0], [3.5]])
    ours, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    weights = gaussian(6, 40) * 0.5

    from lampq_engine.quantizers import fake_quantize

    (fake_quantize(ours, scale, zero, 7) * weights).sum().backward()
    grad_scale, scale.grad = scale.grad, None
    position = (theirs / scale + zero).clamp(0, 7)
    rounded = position + (position.round() - position).detach()
    ((rounded - zero) * scale * weights).sum().backward()
    assert ours.grad is not None
    assert theirs.grad is not None
    assert grad_scale is not None
    assert scale.grad is not None
    torch.testing.assert_close(ours.grad, theirs.grad)
    torch.testing.assert_close(grad_scale * (40 * 7) ** 0.5, scale.grad, rtol=1e-4, atol=1e-5)


def test_learned_step_bakes_in() -> None:
    quantizer = fit_tensor(gaussian(16, 16), 4)
    quantizer.learn_()
    assert quantizer.log_step is not None
    with torch.no_grad():
        quantizer.log_step.fill_(0.1)
    before = quantizer(gaussian(4, 16)).detach()
    quantizer.bake_()
    torch.testing.assert_close(quantizer(gaussian(4, 16)), before)
    assert not list(quantizer.parameters())
