"""Making a model's layers take their bit-widths: one wrapper for linear, convolution and matmul."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from lampq_engine.fold_rules import FOLD_RULES
from lampq_engine.folds import Pair, fold_, modules_of
from lampq_engine.quantizers import (
    LogSqrt2,
    Quantizer,
    Twin,
    Uniform,
    fit_input,
    fit_output,
    fit_symmetric,
    fit_symmetric_weight,
    fit_tensor,
    fit_twin,
    fit_weight,
)
from lampq_engine.recipe import QuantizationSpec
from lampq_engine.types import FLOAT_BITS, Bits, Layer


class Quantized(nn.Module):
    """A linear layer, convolution or matmul whose weight and inputs are rounded before it runs.

    `shift` (O,), where there is one, is added to the layer's bias: the bias correction.
    """

    shift: Tensor | None

    def __init__(self, op: nn.Module, weight: Uniform | None, inputs: Sequence[Quantizer | None]) -> None:
        super().__init__()
        self.op = op
        self.weight_quantizer = weight
        self.input_quantizers = nn.ModuleList([nn.Identity() if q is None else q for q in inputs])
        self.register_buffer("shift", None, persistent=False)

    def forward(self, *inputs: Tensor) -> Tensor:
        rounded = tuple(q(x) for q, x in zip(self.input_quantizers, inputs, strict=True))
        changed = {} if self.weight_quantizer is None else {"weight": self.weight_quantizer(self.op.weight)}
        if self.shift is not None:
            changed["bias"] = self.op.get_parameter("bias") + self.shift
        return functional_call(self.op, changed, rounded) if changed else self.op(*rounded)

    def settle_(self) -> None:
        """Make the corrected bias the bias."""
        if self.shift is not None:
            with torch.no_grad():
                self.op.get_parameter("bias").add_(self.shift)
            self.shift = None

    @property
    def weight(self) -> Tensor:
        """The float weight behind the quantizer."""
        return self.op.weight  # type: ignore[return-value]

    @property
    def bias(self) -> Tensor | None:
        return self.op.bias  # type: ignore[return-value]


def quantizers_of(model: nn.Module) -> Iterator[Quantizer]:
    """Every fitted quantizer of a model."""
    return (module for module in model.modules() if isinstance(module, Uniform | LogSqrt2 | Twin))


def quantized_layers(model: nn.Module) -> dict[str, Quantized]:
    """The wrapped layers of a model, by the name of the layer they wrap."""
    return {name: module for name, module in model.named_modules() if isinstance(module, Quantized)}


def input_widths(layer: Layer, bits: Bits) -> tuple[int, ...]:
    """Widths of a layer's inputs: one for a weight layer; for a matmul its left, then its right operand."""
    return (bits.activations, bits.weights) if layer.is_matmul else (bits.activations,)


def wrap(op: nn.Module, layer: Layer, bits: Bits, inputs: Sequence[Tensor], spec: QuantizationSpec) -> Quantized:
    """Fit the quantizers of one layer on its weight and its float inputs, and wrap it."""
    search = "minmax" if spec.range == "minmax" else "mse"
    if layer.is_matmul:
        return Quantized(op, None, fit_operands(layer, bits, inputs, spec, search))
    assert isinstance(op.weight, Tensor)
    fit = fit_weight if spec.grid == "asymmetric" else fit_symmetric_weight
    weight = None if bits.weights == FLOAT_BITS else fit(op.weight, bits.weights, search)
    x = inputs[0]
    if bits.activations == FLOAT_BITS:
        fitted: Quantizer | None = None
    elif layer.kind == "fc2" and spec.gelu == "opt_m":
        fitted = fit_twin(x, bits.activations, search)
    elif spec.grid == "symmetric":
        by_output = spec.range == "output" and isinstance(op, nn.Linear)
        fitted = fit_symmetric(x, bits.activations, search, op.weight if by_output else None)
    elif spec.range == "output" and isinstance(op, nn.Linear):
        fitted = fit_output(x, bits.activations, op.weight)
    else:
        fitted = fit_tensor(x, bits.activations, search)
    module = Quantized(op, weight, [fitted])
    if spec.bias == "correct" and op.bias is not None:
        module.shift = mean_error(module, x)
    return module


def fit_operands(
    layer: Layer, bits: Bits, inputs: Sequence[Tensor], spec: QuantizationSpec, search: str
) -> list[Quantizer | None]:
    """Fit a quantizer to both operands of a matmul; None where one stays in float."""
    plain = "symmetric" if spec.grid == "symmetric" else "uniform"
    names = [spec.softmax if layer.kind == "context" else plain, plain]
    widths = (bits.activations, bits.weights)
    return [
        None if width == FLOAT_BITS else fit_input(x, width, name=name, search=search)
        for x, width, name in zip(inputs, widths, names, strict=True)
    ]


@torch.no_grad()
def mean_error(module: Quantized, x: Tensor) -> Tensor:
    """What quantization takes from the mean of each output channel on `x`, (O,): empirical bias correction.

    Nagel et al. 2019, section 4.2, with the inputs quantized as well (our choice).
    """
    before, after = module.op.forward(x), Quantized.forward(module, x)
    channel = 1 if isinstance(module.op, nn.Conv2d) else before.dim() - 1
    return (before - after).mean([d for d in range(before.dim()) if d != channel])


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
        norm, linears = modules_of(model, readers[name])
        fold_(norm, linears, scale, shift)


@torch.no_grad()
def quantize_(
    model: nn.Module,
    layers: Sequence[Layer],
    bits: Mapping[str, Bits],
    images: Tensor,
    *,
    spec: QuantizationSpec,
    pairs: Sequence[Pair] = (),
) -> None:
    """Quantize a float model in place: fold, fit every quantizer on `images` (N, C, H, W) in one forward, wrap.

    Quantizers are fitted on float inputs, layer by layer in parallel, as RepQ-ViT does. A layer at 32/32 stays.
    """
    fold_norms_(model, pairs, {name: pair.activations for name, pair in bits.items()}, images, spec)
    chosen = {layer.name: layer for layer in layers if bits[layer.name] != Bits(FLOAT_BITS, FLOAT_BITS)}
    wrapped: dict[str, Quantized] = {}

    def see(name: str, inputs: tuple[Tensor, ...]) -> None:
        wrapped[name] = wrap(model.get_submodule(name), chosen[name], bits[name], inputs, spec)

    with watch_inputs(model, list(chosen), see):
        model(images)
    for name, module in wrapped.items():
        module.settle_()
        model.set_submodule(name, module)


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
        wrapped[name] = wrap(op.op, chosen[name], bits[name], inputs, spec)

    with watch_inputs(model, list(chosen), see):
        model(images)
    for name, module in wrapped.items():
        module.settle_()
        model.set_submodule(name, module)


@contextmanager
def alone(model: nn.Module, name: str, module: Quantized) -> Iterator[None]:
    """The model with one layer quantized and everything else in float, for a while."""
    model.set_submodule(name, module)
    try:
        yield
    finally:
        model.set_submodule(name, module.op)
