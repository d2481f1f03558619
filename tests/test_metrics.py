"""The published metrics against their definitions: nuclear norm, Hessian trace, Mix-QViT's product."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lampq_engine.data import Images, load_dataset
from lampq_engine.evaluate import divergence, predict
from lampq_engine.models import load_model, preprocessing, route_matmuls_, survey
from lampq_engine.quantize import quantize_
from lampq_engine.quantizers import fit_weight
from lampq_engine.recipe import QuantizationSpec
from lampq_engine.sensitivity import (
    fit_variants,
    hessian_sensitivity,
    hessian_traces,
    importance,
    mixqvit_sensitivity,
    nuclear_sensitivity,
    relevance,
)
from lampq_engine.types import Bits, Layer

SPEC = QuantizationSpec(fold="none", bias="keep", images=8)


@pytest.fixture(scope="module")
def builtin() -> tuple[nn.Module, list[Layer], Images]:
    model = load_model("builtin")
    data = load_dataset(
        "builtin", model_config=preprocessing(model), num_classes=10, calibration_images=8, validation_images=10, seed=0
    ).calibration
    route_matmuls_(model, data.batch([0]))
    return model, list(survey(model, data.batch([0]))), data


def test_hessian_trace_is_the_trace(builtin: tuple[nn.Module, list[Layer], Images]) -> None:
    """Oracle: the exact trace of the head's Hessian, row by row of a double backward."""
    model, layers, data = builtin
    head = next(layer for layer in layers if layer.kind == "head")
    found = hessian_traces(model, [head], data, samples=200, batch=8)[head.name]
    weight = model.get_submodule(head.name).get_parameter("weight")
    weight.requires_grad_(True)
    loss = F.cross_entropy(model(data.tensor()), data.labels)
    (grad,) = torch.autograd.grad(loss, weight, create_graph=True)
    flat = grad.flatten()
    exact = sum(
        float(torch.autograd.grad(flat[i], weight, retain_graph=True)[0].flatten()[i]) for i in range(len(flat))
    )
    error = float(found.std()) / len(found) ** 0.5
    assert abs(float(found.mean()) - exact) < 4 * error
    table = hessian_sensitivity(model, [head], {head.name: found}, 8, (2, 4))
    gone = float((fit_weight(weight, 4)(weight) - weight).detach().square().sum())
    assert table.cells[head.name][Bits(4, 4)].harm == pytest.approx(table.raw[head.name] * gone, rel=1e-4)
    assert table.raw[head.name] == pytest.approx(float(found.mean()) / head.weights)


def test_nuclear_is_norm_times_error(builtin: tuple[nn.Module, list[Layer], Images]) -> None:
    model, layers, data = builtin
    layer = next(layer for layer in layers if layer.kind == "fc1")
    found = nuclear_sensitivity(model, [layer], data, widths=(3, 8), quantization=replace(SPEC, range="mse"))
    module, seen = model.get_submodule(layer.name), {}
    hook = module.register_forward_hook(lambda _m, xs, out: seen.update(x=xs[0], y=out))
    with torch.no_grad():
        model(data.tensor())
    hook.remove()
    norm = torch.stack([torch.linalg.matrix_norm(y, "nuc") for y in seen["y"].detach()])
    assert found.raw[layer.name] == pytest.approx(float(norm.mean()), rel=1e-4)
    weight = module.get_parameter("weight").detach()
    off = F.linear(seen["x"], fit_weight(weight, 3)(weight) - weight).detach()
    expected = float((norm * off.square().sum((1, 2))).mean())
    assert found.cells[layer.name][Bits(3, 32)].harm == pytest.approx(expected, rel=1e-3)


def test_variants_equal_quantizing_anew(builtin: tuple[nn.Module, list[Layer], Images]) -> None:
    """A layer set to other widths is the layer quantized to them: the same logits, bias corrected or not."""
    model, layers, data = builtin
    x = data.tensor()
    bits = {layer.name: Bits(4, 6) for layer in layers}
    for bias, close in (("keep", 1e-5), ("correct", 0.05)):
        spec = QuantizationSpec(fold="none", bias=bias, images=8)
        anew, ours = copy.deepcopy(model), copy.deepcopy(model)
        quantize_(anew, layers, bits, x, spec=spec)
        fit_variants(ours, layers, x, (4, 6), spec).set_(ours, bits)
        with torch.no_grad():
            a, b = anew(x), ours(x)
        assert float((a - b).abs().max()) <= close * float(a.abs().max())


def test_mixqvit_is_share_times_change(builtin: tuple[nn.Module, list[Layer], Images]) -> None:
    """Oracle: the whole model quantized at the baseline, then one layer refitted at another width."""
    model, layers, data = builtin
    found = relevance(model, layers, data)
    ours = copy.deepcopy(model)
    table = mixqvit_sensitivity(ours, layers, data, found, baseline=4, widths=(2, 4, 8), quantization=SPEC)
    one = next(layer for layer in layers if layer.kind == "fc2")
    reference, kl = predict(model, data), {}
    for bits in (Bits(2, 4), Bits(4, 4), Bits(8, 4)):
        anew = copy.deepcopy(model)
        quantize_(anew, layers, {layer.name: Bits(4, 4) for layer in layers}, data.tensor(), spec=SPEC)
        changed = copy.deepcopy(model)
        quantize_(changed, layers, {one.name: bits, **{n.name: Bits(32, 32) for n in layers if n != one}},
                  data.tensor(), spec=SPEC)  # fmt: skip
        anew.set_submodule(one.name, changed.get_submodule(one.name))
        kl[bits] = float(divergence(reference, predict(anew, data)).mean())
    share = importance(found)[0][one.name]
    row = table.cells[one.name]
    expected = share * (kl[Bits(2, 4)] - kl[Bits(8, 4)])
    assert row[Bits(2, 8)].harm - row[Bits(8, 8)].harm == pytest.approx(expected, rel=1e-3, abs=1e-9)
    assert min(cell.harm for cell in row.values()) >= 0.0
    assert set(table.cells) == {layer.name for layer in layers}
