"""Folds: exact in float64 on ViT, DeiT and Swin; refused where a rewrite would change the model."""

from __future__ import annotations

import copy

import pytest
import timm
import torch
from torch import nn

from lampq_engine.fold_rules import FOLD_RULES, clipped, repq, sq_b
from lampq_engine.folds import Pair, fold_, modules_of, norm_pairs
from lampq_engine.models import route_matmuls_, survey
from lampq_engine.quantizers import fit_tensor
from lampq_engine.recipe import QuantizationSpec


def random_model(name: str, **settings: object) -> tuple[nn.Module, torch.Tensor]:
    torch.manual_seed(0)
    model = timm.create_model(name, pretrained=False, num_classes=5, **settings).eval()
    size = settings.get("img_size", 32)
    image = torch.randn(1, 3, size, size)  # type: ignore[arg-type]
    route_matmuls_(model, image)
    return model, image


SMALL = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 2}
SWIN = {"img_size": 64, "patch_size": 4, "window_size": 4, "embed_dim": 16, "depths": (2, 2), "num_heads": (2, 4)}


@pytest.mark.parametrize("rule", FOLD_RULES)
@pytest.mark.parametrize(
    ("name", "settings", "pairs"),
    [
        ("vit_tiny_patch16_224", SMALL, 4),
        ("deit_tiny_distilled_patch16_224", SMALL, 4),
        ("deit3_small_patch16_224", SMALL, 4),
        ("swin_tiny_patch4_window7_224", SWIN, 9),  # two per block and one per reduction
    ],
)
def test_fold_is_exact_in_float64(name: str, settings: dict[str, object], pairs: int, rule: str) -> None:
    model, image = random_model(name, **settings)
    layers = survey(model, image)
    found = norm_pairs(model, layers, image)
    assert len(found) == pairs
    model, image = copy.deepcopy(model).double(), image.double()
    with torch.no_grad():
        before = model(image)
        for pair in found:
            norm, linears = modules_of(model, pair)
            x = torch.randn(2, 7, norm.normalized_shape[-1], dtype=torch.float64) * 3
            scale, shift = FOLD_RULES[rule](norm(x), 4, [linear.weight for linear in linears], QuantizationSpec())
            fold_(norm, linears, scale.double(), shift.double())
        after = model(image)
    assert float((before - after).abs().max()) <= 1e-12 * float(before.abs().max())


def test_post_norm_is_refused() -> None:
    """SwinV2 normalises after attention, into the residual stream: the usual rule by names would break it."""
    settings = SWIN | {"img_size": 64, "window_size": 4}
    model, image = random_model("swinv2_tiny_window8_256", **settings)
    layers = survey(model, image)
    found = norm_pairs(model, layers, image)
    assert all("norm1" not in pair.norm and "norm2" not in pair.norm for pair in found)


def test_repq_equalises_channels() -> None:
    """After the fold one 4-bit range fits all channels: the error is a fraction of the per-tensor one."""
    source = torch.Generator().manual_seed(0)
    spread = torch.logspace(-1, 1, 24)
    x = torch.randn(400, 24, generator=source) * spread + torch.randn(24, generator=source) * spread
    scale, shift = repq(x, 4)
    folded = (x - shift) / scale
    plain = fit_tensor(x, 4)(x) - x
    ours = (fit_tensor(folded, 4)(folded) - folded) * scale
    narrow = spread < 1
    assert float(ours[:, narrow].square().mean()) < 0.1 * float(plain[:, narrow].square().mean())


def test_clipped_saturates_extreme_channels_only() -> None:
    """One channel of 50 times the spread stretches RepQ-ViT's common scale; the clipped rule bounds it."""
    x = torch.randn(2000, 24, generator=torch.Generator().manual_seed(0))
    x[:, 5] *= 50
    scale, _ = clipped(x, 4, spread=2.0)
    plain, _ = repq(x, 4)
    assert float(plain[5]) / float(plain.median()) > 30
    assert float(scale[5]) / float(scale.median()) < 0.6 * float(plain[5]) / float(plain.median())
    others = [c for c in range(24) if c != 5]
    torch.testing.assert_close(scale[others] / scale[others].mean(), plain[others] / plain[others].mean())
    torch.testing.assert_close(clipped(x, 4, spread=1e6)[0], plain)


@pytest.mark.parametrize("strength", [0.3, 0.5, 0.8])
def test_sq_b_centres_channels_and_follows_the_formula(strength: float) -> None:
    """MPTQ-ViT 2.1: after the fold the mean of every channel is 0, and eps is SmoothQuant's on centred values."""
    source = torch.Generator().manual_seed(0)
    x = torch.randn(400, 24, generator=source) * torch.logspace(-1, 1, 24) + torch.randn(24, generator=source) * 5
    weights = [torch.randn(8, 24, generator=source), torch.randn(6, 24, generator=source)]
    scale, shift = sq_b(x, weights, strength)
    assert float(((x - shift) / scale).mean(0).abs().max()) < 1e-4
    reach = (x - x.mean(0)).abs().amax(0)
    weight = torch.maximum(weights[0].abs().amax(0), weights[1].abs().amax(0))
    torch.testing.assert_close(scale, reach**strength / weight ** (1 - strength))


@pytest.mark.parametrize("rule", FOLD_RULES)
def test_every_rule_leaves_constant_channels_alone(rule: str) -> None:
    x = torch.randn(100, 6, generator=torch.Generator().manual_seed(0))
    x[:, 3] = 0.25
    scale, shift = FOLD_RULES[rule](x, 4, [torch.ones(2, 6)], QuantizationSpec())
    assert float(scale[3]) == 1.0
    assert torch.isfinite(shift).all()
    assert (scale > 0).all()


def test_constant_channels_are_left_alone() -> None:
    """DeiT-Tiny has two LayerNorm gammas of exactly 0; a fold must not divide by their range."""
    x = torch.randn(100, 6, generator=torch.Generator().manual_seed(0))
    x[:, 3] = 0.25
    scale, shift = repq(x, 4)
    assert float(scale[3]) == 1.0
    assert float(shift[3]) == 0.0
    assert torch.isfinite(scale).all()
    assert (scale > 0).all()


def test_fold_gives_a_bias_where_none_is() -> None:
    norm, linear = nn.LayerNorm(4).double(), nn.Linear(4, 3, bias=False).double()
    x = torch.randn(5, 4, dtype=torch.float64)
    with torch.no_grad():
        before = linear(norm(x))
        fold_(norm, [linear], torch.tensor([0.5, 2.0, 1.0, 3.0]).double(), torch.tensor([1.0, -1.0, 0.0, 2.0]).double())
        torch.testing.assert_close(linear(norm(x)), before)


def test_pair_is_a_value() -> None:
    assert Pair("norm", ("a",)) == Pair("norm", ("a",))
