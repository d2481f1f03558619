"""The output-Fisher metric against its definition: one layer really quantized, one backward per image."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lampq_engine.data import load_dataset
from lampq_engine.fitting import Seen, wrap
from lampq_engine.models import load_model, preprocessing, route_matmuls_, survey
from lampq_engine.quantize import watch_inputs
from lampq_engine.quantized import Quantized, alone
from lampq_engine.recipe import QuantizationSpec
from lampq_engine.sensitivity import fisher_traces, output_fisher
from lampq_engine.types import Bits, Layer

SPEC = QuantizationSpec(fold="none", bias="keep", images=16)


def quantized(model: nn.Module, layer: Layer, bits: Bits, x: Tensor) -> Quantized:
    found: list[Quantized] = []

    def see(name: str, inputs: tuple[Tensor, ...]) -> None:
        found.append(wrap(Seen(model.get_submodule(name), layer, inputs, SPEC), bits))

    with torch.no_grad(), watch_inputs(model, [layer.name], see):
        model(x)
    return found[0]


def test_equals_half_the_square_of_the_first_order_change() -> None:
    """Oracle: g from autograd at the labels that the metric drew, dy from running the quantized layer."""
    model = load_model("builtin")
    config = preprocessing(model)
    data = load_dataset(
        "builtin", model_config=config, num_classes=10, calibration_images=16, validation_images=10, seed=0
    ).calibration
    route_matmuls_(model, data.batch([0]))
    layers = [layer for layer in survey(model, data.batch([0])) if layer.block == 3 or layer.kind == "patch"]
    found = output_fisher(model, layers, data, widths=(3, 8), quantization=SPEC, seed=5, batch=16)
    x = data.tensor()
    source = torch.Generator().manual_seed(5)
    for layer in layers:
        wrapped = {bits: quantized(model, layer, bits, x) for bits in (Bits(3, 32), Bits(32, 3))}
        module, seen = model.get_submodule(layer.name), {}
        hook = module.register_forward_hook(lambda _m, xs, out, seen=seen: seen.update(x=xs, y=out))
        logits = model(x)
        hook.remove()
        labels = torch.multinomial(logits.detach().softmax(1), 1, generator=source.manual_seed(5))[:, 0]
        (g,) = torch.autograd.grad(F.cross_entropy(logits, labels, reduction="sum"), seen["y"])
        for bits, one in wrapped.items():
            with torch.no_grad(), alone(model, layer.name, one):
                dy = one(*seen["x"]) - seen["y"]
            expected = float((g * dy).reshape(16, -1).sum(1).square().mean() / 2)
            assert found.cells[layer.name][bits].harm == pytest.approx(expected, rel=2e-3, abs=1e-12)


def test_harm_falls_with_bits_and_covers_matmuls() -> None:
    model = load_model("builtin")
    data = load_dataset(
        "builtin",
        model_config=preprocessing(model),
        num_classes=10,
        calibration_images=24,
        validation_images=10,
        seed=0,
    ).calibration
    route_matmuls_(model, data.batch([0]))
    layers = survey(model, data.batch([0]))
    found = output_fisher(model, layers, data, widths=(2, 4, 8), quantization=QuantizationSpec(images=16))
    assert set(found.cells) == {layer.name for layer in layers}
    falling = sum(
        row[Bits(2, 2)].harm > row[Bits(4, 4)].harm > row[Bits(8, 8)].harm >= 0 for row in found.cells.values()
    )
    assert falling >= 0.9 * len(layers)
    assert all(row[Bits(32, 32)].harm == 0.0 for row in found.cells.values())
    assert fisher_traces(model, layers[:2], data)  # the sweep leaves the model usable
