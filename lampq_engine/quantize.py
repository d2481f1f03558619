"""Making a model's layers take their bit-widths: folds first, then every layer fitted and wrapped."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lampq_engine.attention_folds import Attention, attentions, fold_values_, linears, value_rule
from lampq_engine.fitting import Seen, wrap
from lampq_engine.fold_rules import FOLD_RULES
from lampq_engine.folds import Pair, modules_of, norm_pairs
from lampq_engine.folds import fold_ as fold_norm_
from lampq_engine.importance import importances
from lampq_engine.journal import Report, silent
from lampq_engine.quantized import Quantized, place_
from lampq_engine.recipe import QuantizationSpec
from lampq_engine.sequence import quantize_in_sequence_
from lampq_engine.types import FLOAT_BITS, Bits, Layer


@dataclass(frozen=True)
class Folds:
    """What of a model can be rewritten exactly: its (norm, linears) pairs and its attentions."""

    norms: tuple[Pair, ...] = ()
    attentions: tuple[Attention, ...] = ()


NO_FOLDS = Folds()


def folds_of(model: nn.Module, layers: Sequence[Layer], example: Tensor) -> Folds:
    """Everything that can be rewritten in a model, each rewrite proven on a float64 copy."""
    return Folds(tuple(norm_pairs(model, layers, example)), tuple(attentions(model, layers, example)))


@contextmanager
def watch_inputs(
    model: nn.Module, names: Sequence[str], see: Callable[[str, tuple[Tensor, ...]], Any]
) -> Iterator[None]:
    """Call `see(name, inputs)` whenever one of the named modules is about to run.

    What `see` runs is its own business: neither the routing of attention's matmuls nor this watch applies to it.
    """
    seeing: list[str] = []

    def hook(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def call(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            if not seeing:
                seeing.append(name)
                with torch._C.DisableTorchFunction():
                    see(name, inputs)
                seeing.clear()

        return call

    hooks = [model.get_submodule(name).register_forward_pre_hook(hook(name)) for name in names]
    try:
        yield
    finally:
        for handle in hooks:
            handle.remove()


@torch.no_grad()
def fold_(model: nn.Module, folds: Folds, widths: Mapping[str, int], images: Tensor, spec: QuantizationSpec) -> None:
    """Rewrite norms and attention by the rules of the recipe, at the activation widths given; float ones stay."""
    fold_norms_(model, folds.norms, widths, images, spec)
    if spec.values == "fold":
        fold_attentions_(model, folds.attentions, widths, images, "minmax" if spec.range == "minmax" else "mse")


@torch.no_grad()
def fold_norms_(
    model: nn.Module, pairs: Sequence[Pair], widths: Mapping[str, int], images: Tensor, spec: QuantizationSpec
) -> None:
    """Fold every pair by the rule of the recipe, at the activation width of its linear layers; float ones stay."""
    if spec.fold == "none":
        return
    readers = {pair.linears[0]: pair for pair in pairs}
    rules: dict[str, tuple[Tensor, Tensor]] = {}

    def see(name: str, inputs: tuple[Tensor, ...]) -> None:
        width = min(widths.get(linear, FLOAT_BITS) for linear in readers[name].linears)
        if width != FLOAT_BITS:
            weights = [linear.weight for linear in modules_of(model, readers[name])[1]]
            rules[name] = FOLD_RULES[spec.fold](inputs[0], width, weights, spec)

    with watch_inputs(model, list(readers), see):
        model(images)
    for name, (scale, shift) in rules.items():
        norm, readers_of = modules_of(model, readers[name])
        fold_norm_(norm, readers_of, scale, shift)


@torch.no_grad()
def fold_attentions_(
    model: nn.Module, found: Sequence[Attention], widths: Mapping[str, int], images: Tensor, search: str
) -> None:
    """Rewrite the values of every attention whose product with them or whose projection rounds its inputs."""
    values: dict[str, Tensor] = {}
    context: dict[str, Tensor] = {}
    of_context, of_proj = {one.context: one for one in found}, {one.proj: one for one in found}

    def see(name: str, inputs: tuple[Tensor, ...]) -> None:
        if name in of_context:
            values[name] = inputs[1]
        else:
            context[of_proj[name].context] = inputs[0]

    with watch_inputs(model, [*of_context, *of_proj], see):
        model(images)
    for name, one in of_context.items():
        width = min(widths.get(name, FLOAT_BITS), widths.get(one.proj, FLOAT_BITS))
        if width != FLOAT_BITS:
            fold_values_(*linears(model, one), *value_rule(values[name], context[name], width, search))


@torch.no_grad()
def quantize_(
    model: nn.Module,
    layers: Sequence[Layer],
    bits: Mapping[str, Bits],
    images: Tensor,
    *,
    spec: QuantizationSpec,
    folds: Folds = NO_FOLDS,
    report: Report = silent,
) -> None:
    """Quantize a float model in place: fold, fit every quantizer on `images` (N, C, H, W), wrap.

    Quantizers are fitted on float inputs, layer by layer in parallel, as RepQ-ViT and AdaLog do; with compensation or
    reconstruction they are fitted in sequence, each on what the layers before it make of the images. A layer at
    32/32 stays.
    """
    fold_(model, folds, {name: pair.activations for name, pair in bits.items()}, images, spec)
    chosen = [layer for layer in layers if bits[layer.name] != Bits(FLOAT_BITS, FLOAT_BITS)]
    if spec.compensate == "none" and spec.reconstruct == 0:
        _in_parallel_(model, chosen, bits, images, spec)
    else:
        quantize_in_sequence_(model, chosen, bits, images, spec=spec, report=report)


def _in_parallel_(
    model: nn.Module,
    layers: Sequence[Layer],
    bits: Mapping[str, Bits],
    images: Tensor,
    spec: QuantizationSpec,
) -> None:
    heard = importances(model, [layer.name for layer in layers], images) if spec.importance == "fisher" else {}
    wrapped: dict[str, Quantized] = {}
    by_name = {layer.name: layer for layer in layers}

    def see(name: str, inputs: tuple[Tensor, ...]) -> None:
        seen = Seen(model.get_submodule(name), by_name[name], inputs, spec, heard.get(name))
        wrapped[name] = wrap(seen, bits[name])

    with watch_inputs(model, list(by_name), see):
        model(images)
    place_(model, wrapped)


@torch.no_grad()
def refit_(
    model: nn.Module, layers: Sequence[Layer], bits: Mapping[str, Bits], images: Tensor, spec: QuantizationSpec
) -> None:
    """Give some layers of a quantized model new widths, fitted on their weights and inputs as these are now."""
    chosen = {layer.name: layer for layer in layers if layer.name in bits}
    wrapped: dict[str, Quantized] = {}

    def see(name: str, inputs: tuple[Tensor, ...]) -> None:
        op = model.get_submodule(name)
        assert isinstance(op, Quantized)
        wrapped[name] = wrap(Seen(op.op, chosen[name], inputs, spec), bits[name])

    with watch_inputs(model, list(chosen), see):
        model(images)
    place_(model, wrapped)
