"""A close look: one layer's weights, inputs and errors; one image and its attention before and after quantization."""

from __future__ import annotations

import base64
import copy
import io
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from lampq_engine.allocate import uniform
from lampq_engine.errors import InputError
from lampq_engine.files import once
from lampq_engine.fitting import Seen, wrap
from lampq_engine.fold_rules import repq
from lampq_engine.folds import fold_, modules_of
from lampq_engine.inspection import (
    Channel,
    ImageView,
    LayerView,
    Operand,
    WidthError,
    image_path,
    layer_of,
    layer_path,
    view_key,
)
from lampq_engine.journal import Report, silent
from lampq_engine.models import preprocessing
from lampq_engine.pack import load_packed
from lampq_engine.plain import to_plain
from lampq_engine.quantize import watch_inputs
from lampq_engine.quantized import Quantized
from lampq_engine.quantizers import Log, Uniform
from lampq_engine.recipe import AllocationSpec, QuantizationSpec, Recipe
from lampq_engine.steps.loaded import Loaded, load
from lampq_engine.steps.quantize import build
from lampq_engine.store import Study
from lampq_engine.types import FLOAT_BITS, Bits, Layer

BINS, WORST = 64, 12
WIDTHS = range(2, 9)
SAMPLE = 4096  # tokens that percentiles of a channel are taken from


@torch.no_grad()
def inspect_layer(
    study: Study, layer: str, bits: Bits, *, loaded: Loaded | None = None, report: Report = silent
) -> LayerView:
    """Look at one layer at chosen widths, quantized alone on the inputs of the float model; kept in the study."""
    if layer not in {one.name for one in study.costs.layers}:
        raise InputError(f"The model has no layer {layer!r}", expected=f"such as {study.costs.layers[0].name!r}")

    def make() -> dict[str, Any]:
        ready = loaded or load(study.model, study.data, report=report)
        one = next(found for found in ready.layers if found.name == layer)
        return to_plain(_layer(ready, one, bits, report))

    plain, _ = once(layer_path(study, layer, bits), view_key(study, layer, list(bits)), make)
    return layer_of(plain)


def _layer(loaded: Loaded, layer: Layer, bits: Bits, report: Report) -> LayerView:
    spec = QuantizationSpec()
    images = loaded.calibration(spec.images)
    seen: list[tuple[Tensor, ...]] = []
    with watch_inputs(loaded.model, [layer.name], lambda _, inputs: seen.append(inputs)):
        loaded.model(images)
    op, inputs = loaded.model.get_submodule(layer.name), seen[0]
    errors = []
    for done, width in enumerate(WIDTHS):
        errors.append(_errors(loaded, layer, op, inputs, width, spec))
        report("error against bits", done + 1, len(WIDTHS))
    folded, x = _folded(loaded, layer, op, inputs, bits.activations, spec)
    module = wrap(Seen(folded, layer, x, spec), bits)
    weight = None if layer.is_matmul else folded.get_parameter("weight").float()
    edges, counts, grid, worst = _weights(weight, module)
    names = ["left operand", "right operand"] if layer.is_matmul else ["input"]
    operands = [
        _operand(name, tensor, quantizer, isinstance(op, nn.Conv2d))
        for name, tensor, quantizer in zip(names, x, module.input_quantizers, strict=True)
    ]
    if folded is not op:
        operands.append(_operand("input before the fold", inputs[0], nn.Identity(), False))
    return LayerView(
        layer.name,
        bits,
        len(images),
        folded is not op,
        edges,
        counts,
        grid,
        worst,
        operands,
        errors,
    )


def _folded(
    loaded: Loaded, layer: Layer, op: nn.Module, inputs: tuple[Tensor, ...], width: int, spec: QuantizationSpec
) -> tuple[nn.Module, tuple[Tensor, ...]]:
    """The layer and its inputs after the fold of the norm before it, as a recipe by default makes it."""
    pair = next((pair for pair in loaded.folds.norms if layer.name in pair.linears), None)
    if pair is None or width == FLOAT_BITS:
        return op, inputs
    norm, linears = modules_of(loaded.model, pair)
    norm, linears = copy.deepcopy(norm), copy.deepcopy(linears)
    scale, shift = repq(inputs[0], width, "mse")
    fold_(norm, linears, scale, shift)
    return linears[pair.linears.index(layer.name)], ((inputs[0] - shift) / scale,)


def _errors(
    loaded: Loaded, layer: Layer, op: nn.Module, inputs: tuple[Tensor, ...], width: int, spec: QuantizationSpec
) -> WidthError:
    folded, x = _folded(loaded, layer, op, inputs, width, spec)
    module = wrap(Seen(folded, layer, x, spec), Bits(width, width))
    weight = 0.0
    if module.weight_quantizer is not None:
        weight = _relative(module.weight_quantizer(module.weight), module.weight)
    rounded = [(q(one), one) for q, one in zip(module.input_quantizers, x, strict=True)]
    entering = sum(_relative(*pair) for pair in rounded) / len(rounded)
    return WidthError(width, weight, entering, _relative(module(*x), op(*inputs)))


def _relative(rounded: Tensor, exact: Tensor) -> float:
    """`||rounded - exact||^2 / ||exact||^2`."""
    return float((rounded - exact).square().sum() / exact.square().sum().clamp(min=1e-30))


def _weights(weight: Tensor | None, module: Quantized) -> tuple[list[float], list[int], list[float], list[Channel]]:
    """Histogram of a weight, the levels of its channel of median range, and the channels of greatest error."""
    if weight is None:
        return [], [], [], []
    rows = weight.flatten(1)
    counts, edges = np.histogram(rows.cpu().numpy(), bins=BINS)
    quantizer = module.weight_quantizer
    if not isinstance(quantizer, Uniform):
        return edges.tolist(), counts.tolist(), [], []
    lost = (quantizer(module.weight).flatten(1) - rows).square().sum(1)
    scale, zero = quantizer.step.flatten(), quantizer.zero.flatten()
    ranges = rows.amax(1) - rows.amin(1)
    middle = int(ranges.argsort()[len(ranges) // 2])
    levels = (torch.arange(quantizer.levels + 1, device=scale.device) - zero[middle]) * scale[middle]
    order = lost.argsort(descending=True)[:WORST].tolist()
    whole, own = float(lost.sum()) or 1.0, rows.square().sum(1).clamp(min=1e-30)
    worst = [
        Channel(
            i,
            float(rows[i].min()),
            float(rows[i].max()),
            float(scale[i]),
            float(lost[i] / own[i]),
            float(lost[i]) / whole,
        )
        for i in order
    ]
    return edges.tolist(), counts.tolist(), levels.tolist(), worst


def _operand(name: str, x: Tensor, quantizer: nn.Module, convolution: bool) -> Operand:
    """Range of every channel of an input, and that of its quantizer: of all heads where each has its own."""
    rows = (x.movedim(1, -1) if convolution else x).flatten(0, -2).float()
    some = rows[:: max(1, len(rows) // SAMPLE)]
    bounds = torch.quantile(some, torch.tensor([0.01, 0.99], device=some.device), dim=0)
    low: float | None = None
    high: float | None = None
    if isinstance(quantizer, Uniform):
        step, zero = quantizer.step, quantizer.zero
        low, high = float((-zero * step).min()), float(((quantizer.levels - zero) * step).max())
    elif isinstance(quantizer, Log):
        low, high = -float(quantizer.shift.max()), float((quantizer.scale - quantizer.shift).max())
    ends = [_short(end) for end in (rows.amin(0), bounds[0], bounds[1], rows.amax(0))]
    return Operand(name, ends[0], ends[1], ends[2], ends[3], low, high)


def _short(values: Tensor) -> list[float]:
    return [float(f"{value:.4g}") for value in values.tolist()]


@torch.no_grad()
def inspect_image(
    study: Study, image: int, what: str, *, loaded: Loaded | None = None, report: Report = silent
) -> ImageView:
    """Look at one calibration image and every block's attention on it, before and after quantization; kept.

    `what` is a pair of widths that every searched layer takes, such as `4/4`, or the id of a trial.
    """

    def make() -> dict[str, Any]:
        ready = loaded or load(study.model, study.data, report=report)
        if not 0 <= image < len(ready.data.calibration):
            raise InputError(
                f"There is no calibration image {image}", expected=f"0 to {len(ready.data.calibration) - 1}"
            )
        report("quantize")
        return to_plain(_image(ready, image, what, _after(study, ready, what)))

    plain, _ = once(image_path(study, image, what), view_key(study, image, what), make)
    return ImageView(**plain)


def _after(study: Study, loaded: Loaded, what: str) -> nn.Module:
    """The quantized model to compare with."""
    if "/" not in what:
        return load_packed(study.trial(what).packed).to(loaded.device)
    pair = Bits(*map(int, what.split("/")))
    spec = AllocationSpec(solver="uniform", uniform=pair)
    return build(loaded, replace(Recipe(), allocation=spec), uniform(loaded.layers, spec))


def _image(loaded: Loaded, image: int, what: str, quantized: nn.Module) -> ImageView:
    calibration = loaded.data.calibration
    x = calibration.batch([image]).to(loaded.device)
    contexts = [layer for layer in loaded.layers if layer.kind == "context"]
    before, first = _attention(loaded.model, contexts, x)
    after, second = _attention(quantized, contexts, x)
    return ImageView(
        image,
        calibration.names[image],
        what,
        _png(x[0], preprocessing(loaded.model)),
        int(calibration.labels[image]),
        first,
        second,
        [str(layer.block) for layer in contexts],
        [[old, new] for old, new in zip(before, after, strict=True)],
    )


def _attention(model: nn.Module, contexts: Sequence[Layer], x: Tensor) -> tuple[list[list[list[float]]], list[float]]:
    """How much attention each patch gets in every block, and the prediction: its class and probability."""
    maps: dict[str, list[list[float]]] = {}

    def see(name: str, inputs: tuple[Tensor, ...]) -> None:
        module, shares = model.get_submodule(name), inputs[0]
        if isinstance(module, Quantized):
            shares = module.input_quantizers[0](shares)
        maps[name] = _received(shares.float())

    with watch_inputs(model, [layer.name for layer in contexts], see):
        chances = model(x).softmax(-1)[0]
    top = int(chances.argmax())
    return [maps[layer.name] for layer in contexts], [float(top), float(chances[top])]


def _received(shares: Tensor) -> list[list[float]]:
    """Attention shares (B, heads, queries, keys) as a picture that sums to 1.

    With a class token: what it gives to each patch; without one: what each patch gets from all. Windows are laid side
    by side in their order (a shifted window is not shifted back).
    """
    mean = shares.mean(1)
    windows, keys = mean.shape[0], mean.shape[-1]
    extra = next((n for n in range(keys) if math.isqrt(keys - n) ** 2 == keys - n), 0)
    given = mean[:, 0, extra:] if extra else mean.mean(1)
    side, across = math.isqrt(given.shape[-1]), math.isqrt(windows)
    if across * across != windows:
        picture = given.mean(0).view(side, side)
    else:
        picture = given.view(across, across, side, side).permute(0, 2, 1, 3).reshape(across * side, across * side)
    picture = picture / picture.sum().clamp(min=1e-12)
    return [_short(row) for row in picture]


def _png(x: Tensor, config: dict[str, Any]) -> str:
    """A preprocessed image as it looks, base64 of a PNG."""
    mean, spread = (torch.tensor(config[name], device=x.device).view(-1, 1, 1) for name in ("mean", "std"))
    pixels = ((x * spread + mean).clamp(0, 1) * 255).byte().permute(1, 2, 0).cpu().numpy()
    file = io.BytesIO()
    Image.fromarray(pixels.squeeze()).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()
