"""Stages run again alone; the rewrite of values is exact; importance is what autograd says; sequences end whole."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import Tensor, nn

from lampq_engine.attention_folds import attentions, fold_values_, linears, value_rule
from lampq_engine.importance import FLOOR, importances
from lampq_engine.models import route_matmuls_, survey
from lampq_engine.quantize import folds_of, quantize_
from lampq_engine.quantized import quantized_layers
from lampq_engine.recipe import QuantizationSpec
from lampq_engine.stages import calls_of, inputs_of, outputs_of, stages_of
from lampq_engine.types import Bits

MODELS = {
    "vit": lambda: timm.create_model("vit_tiny_patch16_224", img_size=32, patch_size=8, depth=2, num_classes=5),
    "distilled": lambda: timm.create_model(
        "deit_tiny_distilled_patch16_224", img_size=32, patch_size=8, depth=2, num_classes=5
    ),
    "swin": lambda: timm.create_model(
        "swin_tiny_patch4_window7_224",
        img_size=64,
        window_size=4,
        embed_dim=24,
        depths=(2, 2),
        num_heads=(2, 4),
        num_classes=5,
    ),
}


def made(name: str) -> tuple[nn.Module, list, Tensor]:
    torch.manual_seed(0)
    model = MODELS[name]().eval()
    images = torch.randn(4, 3, *([64, 64] if name == "swin" else [32, 32]))
    route_matmuls_(model, images[:1])
    return model, survey(model, images[:1]), images


@pytest.mark.parametrize("name", MODELS)
def test_every_layer_has_its_stage_and_stages_run_alone(name: str) -> None:
    model, layers, images = made(name)
    stages = stages_of(layers)
    assert [layer.name for stage in stages for layer in stage.layers] == [layer.name for layer in layers]
    seen: dict[str, Tensor] = {}
    hooks = [
        model.get_submodule(stage.path).register_forward_hook(lambda _m, _x, y, p=stage.path: seen.update({p: y}))
        for stage in stages
    ]
    with torch.no_grad():
        model(images)
    for hook in hooks:
        hook.remove()
    for stage in stages:
        module, calls = model.get_submodule(stage.path), calls_of(model, stage.path, images, batch=2)
        torch.testing.assert_close(torch.cat(list(outputs_of(module, calls))), seen[stage.path], rtol=1e-4, atol=1e-5)
        for layer in stage.layers:
            inputs = inputs_of(module, model.get_submodule(layer.name), calls)
            assert len(inputs) == (2 if layer.is_matmul else 1)


@pytest.mark.parametrize("name", MODELS)
def test_the_rewrite_of_values_is_exact(name: str) -> None:
    model, layers, images = made(name)
    model = model.double()
    before = model(images.double())
    found = attentions(model, layers, images[:1])
    assert len(found) == sum(layer.kind == "context" for layer in layers)
    source = torch.Generator().manual_seed(1)
    for one in found:
        qkv, proj = linears(model, one)
        scale = torch.rand(proj.in_features, generator=source, dtype=torch.float64) + 0.5
        fold_values_(qkv, proj, scale, torch.randn(len(scale), generator=source, dtype=torch.float64))
    assert float((model(images.double()) - before).detach().abs().max()) < 1e-10


def test_the_rule_centres_the_context_and_levels_its_channels() -> None:
    source = torch.Generator().manual_seed(2)
    widths = torch.logspace(-1, 1, 12)
    values = torch.randn(3, 2, 30, 6, generator=source) * widths.view(2, 1, 6) + 4.0
    context = values.transpose(1, 2).flatten(2)
    scale, shift = value_rule(values, context, 4)
    folded = (context - shift) / scale
    torch.testing.assert_close(folded.mean((0, 1)), torch.zeros(12), rtol=0, atol=1e-4)
    spread = folded.std((0, 1))
    assert float(spread.max() / spread.min()) < 1.5


def test_importance_is_the_squared_gradient() -> None:
    """Oracle: autograd at the output of the first block's fc1, for the labels that were drawn."""
    model, _, images = made("vit")
    name = "blocks.0.mlp.fc1"
    found = importances(model, [name], images, seed=3, batch=4)[name]
    kept: list[Tensor] = []
    hook = model.get_submodule(name).register_forward_hook(lambda _m, _x, y: kept.append(y))
    logits = model(images)
    hook.remove()
    labels = torch.multinomial(logits.softmax(1), 1, generator=torch.Generator().manual_seed(3))[:, 0]
    (grad,) = torch.autograd.grad(nn.functional.cross_entropy(logits, labels, reduction="sum"), kept)
    tokens = grad.square().sum(-1).flatten()
    torch.testing.assert_close(found.tokens, (1 - FLOOR) * tokens / tokens.mean() + FLOOR)
    channels = grad.square().sum((0, 1))
    torch.testing.assert_close(found.channels, (1 - FLOOR) * channels / channels.mean() + FLOOR)


def test_the_last_block_hears_its_class_token_alone() -> None:
    model, _, images = made("vit")
    tokens = importances(model, ["blocks.1.mlp.fc2"], images)["blocks.1.mlp.fc2"].tokens.view(4, -1)
    torch.testing.assert_close(tokens[:, 1:], torch.full_like(tokens[:, 1:], FLOOR))
    assert (tokens[:, 0] > 1).all()


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("how", ["feedback", "both"])
def test_in_sequence_every_layer_is_wrapped(name: str, how: str) -> None:
    model, layers, images = made(name)
    folds = folds_of(model, layers, images[:1])
    spec = QuantizationSpec(compensate=how, importance="fisher", reconstruct=1, images=4)
    before = model(images).detach()
    quantize_(model, layers, {layer.name: Bits(8, 8) for layer in layers}, images, spec=spec, folds=folds)
    assert set(quantized_layers(model)) == {layer.name for layer in layers}
    assert float((model(images) - before).detach().abs().max()) < 0.2 * float(before.abs().max())
