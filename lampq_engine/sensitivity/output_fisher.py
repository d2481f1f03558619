"""Second-order harm of a layer's actual quantization error, through the Fisher information of its output.

A small change dy of a layer's output moves the model's prediction, to second order, by a KL divergence of
`1/2 E[(g . dy)^2]`, with g the gradient of the log-likelihood at labels drawn from the model. dy is the real error of
that layer at the widths in question, so that no base and no type factor is needed, and weight and activation widths
may differ (our choice; the argument is the Fisher form of HAWQ's and BRECQ's).

Nothing is run again per width: with dW the weight's error and dX the input's, `g . dy` is `<G^T X, dW> + <G W, dX>`
(their product is left out), two inner products with what one backward sweep has at hand.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from lampq_engine.data import Images
from lampq_engine.evaluate import device_of
from lampq_engine.fitting import Seen
from lampq_engine.journal import Report, silent
from lampq_engine.quantize import NO_FOLDS, Folds, fold_, watch_inputs
from lampq_engine.quantizers import Quantizer
from lampq_engine.recipe import QuantizationSpec
from lampq_engine.sensitivity.capture import sweep
from lampq_engine.sensitivity.type_aware import FOLD_BITS
from lampq_engine.tokens import token_grads, tokens
from lampq_engine.types import FLOAT_BITS, Bits, Cell, Layer, Sensitivity


@dataclass
class _Errors:
    """Of one layer: its quantizers at each width, and `g . dy` of each side, width and image as they are seen."""

    weights: dict[int, Tensor | Quantizer] = field(default_factory=dict)  # dW, or the quantizer of the right operand
    activations: dict[int, Quantizer] = field(default_factory=dict)
    moved: dict[tuple[str, int], list[float]] = field(default_factory=dict)

    def see(self, side: str, width: int, product: Tensor) -> None:
        # numbers, not tensors: thousands of small tensors that stay between large ones that go fragment the heap
        self.moved.setdefault((side, width), []).extend(product.tolist())


def output_fisher(
    model: nn.Module,
    layers: Sequence[Layer],
    images: Images,
    *,
    widths: Sequence[int],
    quantization: QuantizationSpec,
    folds: Folds = NO_FOLDS,
    seed: int = 0,
    batch: int = 8,
    report: Report = silent,
) -> Sensitivity:
    """Predicted KL of every layer at every pair of widths, mean and standard error over images; one backward sweep.

    `model` is folded in place, which leaves its function as it is.
    """
    calibration = images.batch(range(min(quantization.images, len(images)))).to(device_of(model))
    fold_(model, folds, {layer.name: FOLD_BITS for layer in layers}, calibration, quantization)
    errors = _fit(model, layers, calibration, widths, quantization)
    centred = quantization.bias == "correct"

    def see(name: str, inputs: tuple[Tensor, ...], grad: Tensor, count: int) -> None:
        module, seen = model.get_submodule(name), errors[name]
        if len(inputs) == 2:
            _see_matmul(seen, inputs, grad, count)
        else:
            _see_linear(seen, module, inputs[0], grad, count, centred=centred and module.bias is not None)

    names = [layer.name for layer in layers]
    sweep(model, names, images, see, labels="sampled", seed=seed, batch=batch, report=report, stage="output fisher")
    cells = {name: _cells(errors[name], widths) for name in names}
    lowest = Bits(min(widths), min(widths))
    return Sensitivity(
        "output",
        "KL, nats",
        len(images),
        cells,
        raw={name: row[lowest].harm for name, row in cells.items()},
        raw_error={name: row[lowest].error for name, row in cells.items()},
        notes={"raw_at": str(lowest), "labels": "sampled"},
    )


@torch.no_grad()
def _fit(
    model: nn.Module, layers: Sequence[Layer], calibration: Tensor, widths: Sequence[int], spec: QuantizationSpec
) -> dict[str, _Errors]:
    by_name, errors = {layer.name: layer for layer in layers}, {layer.name: _Errors() for layer in layers}

    def see(name: str, inputs: tuple[Tensor, ...]) -> None:
        seen = Seen(model.get_submodule(name), by_name[name], inputs, spec)
        for width in widths:
            quantizers, weight = seen.fit_inputs(Bits(width, width)), seen.fit_weight(Bits(width, width))
            errors[name].activations[width] = quantizers[0]  # type: ignore[assignment]
            if weight is None:
                errors[name].weights[width] = quantizers[1]  # type: ignore[assignment]
            else:
                errors[name].weights[width] = (weight(seen.weight) - seen.weight).flatten(1)

    with watch_inputs(model, list(by_name), see):
        model(calibration)
    return errors


def _see_linear(seen: _Errors, module: nn.Module, inputs: Tensor, grad: Tensor, count: int, *, centred: bool) -> None:
    """`<G^T X, dW>` and `<G W, dX>` of every image; bias correction takes the mean of X and of dX out."""
    g = token_grads(module, grad, count)
    x = tokens(module, inputs, count)
    whole = torch.einsum("nto,nti->noi", g, x - x.mean((0, 1)) if centred else x)
    for width, change in seen.weights.items():
        assert isinstance(change, Tensor)
        seen.see("weights", width, torch.einsum("noi,oi->n", whole, change))
    weight = module.get_parameter("weight").flatten(1)
    back = g @ weight
    for width, quantizer in seen.activations.items():
        moved = tokens(module, quantizer(inputs), count) - x
        seen.see("activations", width, (back * (moved - moved.mean((0, 1)) if centred else moved)).sum((1, 2)))


def _see_matmul(seen: _Errors, inputs: tuple[Tensor, ...], grad: Tensor, count: int) -> None:
    """The same for a product of two activations A B: `<G B^T, dA>` and `<A^T G, dB>`."""
    left, right = inputs
    to_left, to_right = grad @ right.transpose(-1, -2), left.transpose(-1, -2) @ grad
    for width, quantizer in seen.activations.items():
        seen.see("activations", width, ((quantizer(left) - left) * to_left).reshape(count, -1).sum(1))
    for width, right_quantizer in seen.weights.items():
        assert not isinstance(right_quantizer, Tensor)
        seen.see("weights", width, ((right_quantizer(right) - right) * to_right).reshape(count, -1).sum(1))


def _cells(seen: _Errors, widths: Sequence[int]) -> dict[Bits, Cell]:
    """Half the mean square of the two sides' sum, at every pair of widths; 32 is the side left in float."""
    moved = {key: torch.tensor(numbers, dtype=torch.float64) for key, numbers in seen.moved.items()}
    nothing = torch.zeros_like(next(iter(moved.values())))
    cells = {}
    for w in (*widths, FLOAT_BITS):
        for a in (*widths, FLOAT_BITS):
            total = moved.get(("weights", w), nothing) + moved.get(("activations", a), nothing)
            harm = total.square() / 2
            error = float(harm.std()) / len(harm) ** 0.5 if len(harm) > 1 else 0.0
            cells[Bits(w, a)] = Cell(float(harm.mean()), error)
    return cells
