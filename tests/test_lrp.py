"""Relevance propagation: conserved through ViT, DeiT and Swin, and equal to its rules written out by hand."""

from __future__ import annotations

import pytest
import timm
import torch
import torch.nn.functional as F
from test_folds import SMALL, SWIN
from torch import nn

from lampq_engine.data import Images, load_dataset
from lampq_engine.models import load_model, preprocessing, route_matmuls_, survey
from lampq_engine.sensitivity import lrp_sensitivity, relevance
from lampq_engine.sensitivity.lrp import _Rules
from lampq_engine.types import Bits


def images(size: int, count: int = 3) -> Images:
    x = torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(0))
    labels = torch.zeros(count, dtype=torch.long)
    return Images(tuple(map(str, range(count))), labels, ("",) * count, lambda i: x[i])


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("vit_tiny_patch16_224", SMALL),
        ("deit_tiny_distilled_patch16_224", SMALL),
        ("deit3_small_patch16_224", SMALL),
        ("swin_tiny_patch4_window7_224", SWIN),
    ],
)
def test_relevance_is_conserved(name: str, settings: dict[str, object]) -> None:
    torch.manual_seed(0)
    model = timm.create_model(name, pretrained=False, num_classes=5, **settings).eval()
    data = images(settings["img_size"])  # type: ignore[arg-type]
    route_matmuls_(model, data.batch([0]))
    layers = survey(model, data.batch([0]))
    before = model(data.tensor())
    found = relevance(model, layers, data, batch=2)
    assert len(found.totals) == sum(1 for layer in layers if layer.kind == "qkv")
    for total in found.totals.values():
        torch.testing.assert_close(total, torch.ones_like(total), rtol=0, atol=1e-3)
    assert set(found.layers) == {layer.name for layer in layers}
    assert found.maps.shape[0] == 3
    torch.testing.assert_close(model(data.tensor()), before)  # the model is as it was
    assert torch.equal(found.predicted, before.argmax(1))


def test_builtin_is_conserved_and_images_do_not_mix() -> None:
    model = load_model("builtin")
    data = load_dataset(
        "builtin",
        model_config=preprocessing(model),
        num_classes=10,
        calibration_images=8,
        validation_images=10,
        seed=0,
    ).calibration
    route_matmuls_(model, data.batch([0]))
    layers = survey(model, data.batch([0]))
    whole = relevance(model, layers, data, batch=8)
    assert whole.lost < 1e-3
    alone = relevance(model, layers, data.subset([3]))
    for name in whole.layers:
        torch.testing.assert_close(whole.layers[name][3:4], alone.layers[name], rtol=1e-3, atol=1e-4)
    table = lrp_sensitivity(whole, 4.0)
    assert sum(table.raw.values()) == pytest.approx(1.0)
    row = table.cells[layers[1].name]
    assert row[Bits(2, 2)].harm == pytest.approx(4 * row[Bits(3, 3)].harm)


def test_linear_rule_is_z_plus() -> None:
    """Oracle: the rule as a double loop over inputs and outputs."""
    torch.manual_seed(0)
    layer, x, r = nn.Linear(9, 4).requires_grad_(False), torch.randn(1, 9, requires_grad=True), torch.rand(1, 4)
    with _Rules():
        layer(x).backward(r)
    w = layer.weight.detach()
    expected = torch.zeros(9)
    for k in range(4):
        z = [max(0.0, float(x.detach()[0, j] * w[k, j])) for j in range(9)]
        for j in range(9):
            expected[j] += z[j] / sum(z) * r[0, k]
    assert x.grad is not None
    torch.testing.assert_close(x.grad[0], expected, rtol=1e-4, atol=1e-6)


def test_sum_and_product_rules_share_relevance() -> None:
    torch.manual_seed(0)
    a, b, r = torch.randn(2, 3, 4, requires_grad=True), torch.randn(2, 3, 4, requires_grad=True), torch.rand(2, 3, 4)
    with _Rules():
        (a + b).backward(r)
    assert a.grad is not None
    assert b.grad is not None
    parts = [(t.detach() * r / (a + b).detach()).flatten(1).sum(1).abs() for t in (a, b)]
    share = parts[0] / (parts[0] + parts[1])
    torch.testing.assert_close(a.grad.flatten(1).sum(1), share * r.flatten(1).sum(1), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close((a.grad + b.grad).flatten(1).sum(1), r.flatten(1).sum(1), rtol=1e-4, atol=1e-5)
    q, k, s = torch.randn(2, 3, 4, requires_grad=True), torch.randn(2, 4, 3, requires_grad=True), torch.rand(2, 3, 3)
    with _Rules():
        F.softmax(q @ k, dim=-1).backward(s)
    assert q.grad is not None
    assert k.grad is not None
    for grad in (q.grad, k.grad):
        torch.testing.assert_close(grad.flatten(1).sum(1), s.flatten(1).sum(1) / 2, rtol=1e-3, atol=1e-4)
