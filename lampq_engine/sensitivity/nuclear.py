"""VT-PTQ's metric: the nuclear norm of a module's features times the squared error that quantization makes there."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lampq_engine.data import Images
from lampq_engine.evaluate import device_of
from lampq_engine.fitting import Seen, wrap
from lampq_engine.journal import Report, silent
from lampq_engine.quantize import NO_FOLDS, Folds, fold_, watch_inputs
from lampq_engine.quantized import Quantized
from lampq_engine.recipe import QuantizationSpec
from lampq_engine.sensitivity.fisher import mean_and_error
from lampq_engine.sensitivity.type_aware import FOLD_BITS
from lampq_engine.tokens import token_grads
from lampq_engine.types import FLOAT_BITS, Bits, Cell, Layer, Sensitivity


@torch.no_grad()
def nuclear_sensitivity(
    model: nn.Module,
    layers: Sequence[Layer],
    images: Images,
    *,
    widths: Sequence[int],
    quantization: QuantizationSpec,
    folds: Folds = NO_FOLDS,
    batch: int = 8,
    report: Report = silent,
) -> Sensitivity:
    """`||Y||_* ||Y_hat - Y||^2` of every layer (Liu et al., NeurIPS 2021), mean and standard error over images.

    The norm is that of the attention map for the layers around it (qkv, proj, both matmuls) and of the layer's own
    output elsewhere; the paper scores whole MSA and MLP modules, and giving each layer its own error is our choice, as
    is adding the errors of weights and inputs. `model` is folded in place, which leaves its function.
    """
    count = min(quantization.images, len(images))
    calibration = images.batch(range(count)).to(device_of(model))
    fold_(model, folds, {layer.name: FOLD_BITS for layer in layers}, calibration, quantization)
    by_name = {layer.name: layer for layer in layers}
    fitted: dict[str, dict[int, Quantized]] = {name: {} for name in by_name}

    def fit(name: str, inputs: tuple[Tensor, ...]) -> None:
        seen = Seen(model.get_submodule(name), by_name[name], inputs, quantization)
        fitted[name] = {width: wrap(seen, Bits(width, width)) for width in widths}

    with watch_inputs(model, list(by_name), fit):
        model(calibration)
    norms, errors = dict[str, list[Tensor]](), dict[tuple[str, str, int], list[Tensor]]()
    maps = {layer.block: layer.name for layer in layers if layer.kind == "context"}

    def see(name: str, inputs: tuple[Tensor, ...]) -> None:
        layer, op = by_name[name], model.get_submodule(name)
        y = op.forward(*inputs)
        around = layer.kind in ("qkv", "proj", "scores", "context") and layer.block in maps
        if layer.kind == "context":
            norms.setdefault(name, []).append(_nuclear(inputs[0], size))
        elif not around:
            norms.setdefault(name, []).append(_nuclear(token_grads(op, y, size), size))
        for width in widths:
            for side, one in _halves(fitted[name][width], layer.is_matmul).items():
                gone = (Quantized.forward(one, *inputs) - y).reshape(size, -1).double().square().sum(1)
                errors.setdefault((name, side, width), []).append(gone.cpu())

    for done, (x, _) in enumerate(images.subset(range(count)).batches(batch)):
        size = len(x)
        with watch_inputs(model, list(by_name), see):
            model(x.to(device_of(model)))
        report("nuclear norms", min(count, (done + 1) * batch), count)
    cells, raw = dict[str, dict[Bits, Cell]](), dict[str, Tensor]()
    for layer in layers:
        owner = layer.name if layer.name in norms else maps[layer.block]
        raw[layer.name] = torch.cat(norms[owner])
        side = {key[1:]: torch.cat(parts) for key, parts in errors.items() if key[0] == layer.name}
        cells[layer.name] = _cells(raw[layer.name], side, widths)
    means, spread = mean_and_error(raw, layers, per_parameter=False)
    return Sensitivity("nuclear", "norm x squared error", count, cells, means, spread)


def _nuclear(matrices: Tensor, images: int) -> Tensor:
    """Mean sum of singular values of each image's matrices (..., rows, columns), (images,)."""
    norm = torch.linalg.svdvals(matrices.float()).sum(-1)
    return norm.reshape(images, -1).mean(1).double().cpu()


def _halves(whole: Quantized, is_matmul: bool) -> dict[str, Quantized]:
    """The layer with only its weight rounded, and with only its inputs rounded."""
    inputs: list[nn.Module] = list(whole.input_quantizers)
    if is_matmul:
        left, right = [inputs[0], None], [None, inputs[1]]
        return {"activations": Quantized(whole.op, None, left), "weights": Quantized(whole.op, None, right)}  # type: ignore[arg-type]
    return {
        "weights": Quantized(whole.op, whole.weight_quantizer, [None]),
        "activations": Quantized(whole.op, None, inputs),  # type: ignore[arg-type]
    }


def _cells(norm: Tensor, side: dict[tuple[str, int], Tensor], widths: Sequence[int]) -> dict[Bits, Cell]:
    cells, nothing = {}, torch.zeros_like(norm)
    for w in (*widths, FLOAT_BITS):
        for a in (*widths, FLOAT_BITS):
            harm = norm * (side.get(("weights", w), nothing) + side.get(("activations", a), nothing))
            error = float(harm.std()) / len(harm) ** 0.5 if len(harm) > 1 else 0.0
            cells[Bits(w, a)] = Cell(float(harm.mean()), error)
    return cells
