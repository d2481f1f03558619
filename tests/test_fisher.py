"""Fisher traces against autograd's own per-sample gradients."""

from __future__ import annotations

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lampq_engine.data import Images
from lampq_engine.models import route_matmuls_, survey
from lampq_engine.recipe import SensitivitySpec
from lampq_engine.sensitivity import fisher_sensitivity, fisher_traces, lampq_sensitivity
from lampq_engine.sensitivity.fisher import squared_norms
from lampq_engine.sensitivity.type_aware import TypeFactor, sampled_layers
from lampq_engine.types import Bits, Layer

VIT = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 2, "num_classes": 5}
SWIN = {"img_size": 64, "window_size": 4, "embed_dim": 16, "depths": (2, 2), "num_heads": (2, 4), "num_classes": 5}


def random_images(count: int, size: int) -> Images:
    pixels = torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(count) % 5
    names = tuple(f"image{i}" for i in range(count))
    return Images(names=names, labels=labels, contents=names, source=lambda i: pixels[i])


def model_of(name: str, settings: dict[str, object]) -> tuple[nn.Module, list[Layer], Images]:
    torch.manual_seed(0)
    model = timm.create_model(name, pretrained=False, **settings).eval()
    images = random_images(5, int(settings["img_size"]))  # type: ignore[call-overload]
    route_matmuls_(model, images.batch([0]))
    return model, list(survey(model, images.batch([0]))), images


def autograd_norms(model: nn.Module, name: str, images: Images) -> Tensor:
    """One backward per image: the definition."""
    weight, norms = model.get_parameter(f"{name}.weight"), []
    for x, y in images.batches(1):
        out = model(x)
        loss = F.cross_entropy(out, y)
        (grad,) = torch.autograd.grad(loss, weight)
        norms.append(grad.double().square().sum())
    return torch.stack(norms)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("deit_tiny_patch16_224", VIT),
        ("deit_tiny_distilled_patch16_224", VIT),
        ("swin_tiny_patch4_window7_224", SWIN),
    ],
)
def test_traces_equal_autograd(name: str, settings: dict[str, object]) -> None:
    model, layers, images = model_of(name, settings)
    traces = fisher_traces(model, layers, images, batch=3)
    assert set(traces) == {layer.name for layer in layers if layer.weights}
    for layer, trace in traces.items():
        torch.testing.assert_close(trace, autograd_norms(model, layer, images), rtol=1e-4, atol=1e-12)
    assert all(p.requires_grad and p.grad is None for p in model.parameters())


def test_batch_size_and_order_do_not_matter() -> None:
    model, layers, images = model_of("deit_tiny_patch16_224", VIT)
    whole = fisher_traces(model, layers, images, batch=5)
    single = fisher_traces(model, layers, images, batch=1)
    turned = fisher_traces(model, layers, images.subset([4, 3, 2, 1, 0]), batch=2)
    for name, trace in whole.items():
        torch.testing.assert_close(trace, single[name], rtol=1e-5, atol=1e-12)
        torch.testing.assert_close(trace, turned[name].flip(0), rtol=1e-5, atol=1e-12)


@pytest.mark.parametrize(("tokens", "inputs", "outputs"), [(3, 40, 50), (60, 8, 6)])
def test_both_forms_of_the_norm_agree(tokens: int, inputs: int, outputs: int) -> None:
    """Few tokens take the Gram identity, many the product; the definition by einsum decides."""
    x, g = torch.randn(4, tokens, inputs).double(), torch.randn(4, tokens, outputs).double()
    direct = torch.einsum("nto,nti->noi", g, x).square().sum((1, 2))
    torch.testing.assert_close(squared_norms(x, g), direct)


def test_sampled_labels_are_seeded_and_differ() -> None:
    model, layers, images = model_of("deit_tiny_patch16_224", VIT)
    one = fisher_traces(model, layers, images, labels="sampled", seed=1)
    again = fisher_traces(model, layers, images, labels="sampled", seed=1)
    empirical = fisher_traces(model, layers, images)
    assert all(torch.equal(one[n], again[n]) for n in one)
    assert any(not torch.allclose(one[n], empirical[n]) for n in one)


def test_table_decays_and_has_errors() -> None:
    model, layers, images = model_of("deit_tiny_patch16_224", VIT)
    traces = fisher_traces(model, layers, images)
    spec = SensitivitySpec(base=4.0)
    table = fisher_sensitivity(traces, layers, spec)
    name = layers[1].name
    trace = traces[name]
    assert table.raw[name] == pytest.approx(float(trace.mean()))
    assert table.raw_error[name] == pytest.approx(float(trace.std()) / 5**0.5)
    assert table.cells[name][Bits(3, 3)].harm == pytest.approx(table.raw[name] * 4.0**-3)
    assert table.cells[name][Bits(2, 4)].harm == pytest.approx(table.raw[name] * (4.0**-2 + 4.0**-4) / 2)


def test_type_factors_scale_their_type_only() -> None:
    model, layers, images = model_of("deit_tiny_patch16_224", VIT)
    traces = fisher_traces(model, layers, images)
    kinds = sorted({layer.kind for layer in layers if layer.weights})
    factors = [TypeFactor(kind, 2.0 if kind == "qkv" else 1.0, 0.0, 1.0, 1.0, ()) for kind in kinds]
    plain = fisher_sensitivity(traces, layers, SensitivitySpec())
    aware = lampq_sensitivity(traces, factors, layers, SensitivitySpec())
    for layer in layers:
        if layer.weights:
            ratio = aware.raw[layer.name] / plain.raw[layer.name]
            assert ratio == pytest.approx(2.0 if layer.kind == "qkv" else 1.0)


def test_sampled_layers_span_the_depth() -> None:
    layers = [Layer(f"b{i}", "qkv", i, 10, 1, 1, 10, 10) for i in range(12)]
    assert [layer.block for layer in sampled_layers(layers, "qkv", 3)] == [2, 6, 10]
    assert len(sampled_layers(layers, "qkv", 0)) == 12
    assert len(sampled_layers(layers, "qkv", 50)) == 12
