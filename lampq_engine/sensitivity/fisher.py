"""Exact per-sample Fisher traces of every weight, at the cost of one backward sweep.

LampQ's tr(F_i) of its type-aware metric: the mean over images of the squared norm of the gradient of the negative
log-likelihood with respect to the layer's weight matrix.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lampq_engine.controls import decay
from lampq_engine.data import Images
from lampq_engine.journal import Report, silent
from lampq_engine.recipe import SensitivitySpec
from lampq_engine.sensitivity.capture import sweep
from lampq_engine.tokens import token_grads, tokens
from lampq_engine.types import FLOAT_BITS, Bits, Layer, Sensitivity

WIDTHS = (1, 2, 3, 4, 5, 6, 7, 8, FLOAT_BITS)
PAIRS = tuple(Bits(w, a) for w in WIDTHS for a in WIDTHS)


def squared_norms(inputs: Tensor, grads: Tensor) -> Tensor:
    """`||G_n^T X_n||_F^2` for each sample n, (N,); inputs X (N, T, I), output gradients G (N, T, O).

    By the Gram identity `sum((G G^T) * (X X^T))` where tokens are fewer than the weight's sides make worthwhile,
    else by the product itself; both are exact, and neither keeps a weight gradient.
    """
    tokens, wide, high = inputs.shape[1], inputs.shape[2], grads.shape[2]
    if tokens * (wide + high) < wide * high:
        left, right = torch.bmm(grads, grads.transpose(1, 2)), torch.bmm(inputs, inputs.transpose(1, 2))
        return torch.linalg.vecdot(left.flatten(1), right.flatten(1))
    return torch.linalg.vector_norm(torch.bmm(grads.transpose(1, 2), inputs), dim=(1, 2)).square_()


def fisher_traces(
    model: nn.Module,
    layers: Sequence[Layer],
    images: Images,
    *,
    labels: str = "empirical",
    seed: int = 0,
    batch: int = 16,
    report: Report = silent,
) -> dict[str, Tensor]:
    """Squared gradient norm of each weight for each image: layer -> (images,) float64.

    `labels`: the data's (`empirical`), or drawn from the model's own prediction (`sampled`, unbiased for the true
    Fisher information). Parameters get no gradient and are left as they were.
    """
    weighted = [layer.name for layer in layers if layer.weights]
    parts: dict[str, list[Tensor]] = {name: [] for name in weighted}

    def see(name: str, inputs: tuple[Tensor, ...], grad: Tensor, count: int) -> None:
        module = model.get_submodule(name)
        norms = squared_norms(tokens(module, inputs[0], count), token_grads(module, grad, count))
        parts[name].append(norms.double().cpu())

    sweep(model, weighted, images, see, labels=labels, seed=seed, batch=batch, report=report, stage="fisher")
    return {name: torch.cat(part) for name, part in parts.items()}


def fisher_sensitivity(traces: dict[str, Tensor], layers: Sequence[Layer], spec: SensitivitySpec) -> Sensitivity:
    """The raw Fisher metric: mean trace of each layer, falling by `spec.base` with every bit."""
    raw, errors = mean_and_error(traces, layers, per_parameter=spec.per_parameter)
    cells = {name: decay(raw[name], errors[name], PAIRS, spec.base) for name in raw}
    count = len(next(iter(traces.values())))
    return Sensitivity("fisher", "squared gradient norm", count, cells, raw, errors, notes={"labels": spec.fisher})


def mean_and_error(
    traces: dict[str, Tensor], layers: Sequence[Layer], *, per_parameter: bool
) -> tuple[dict[str, float], dict[str, float]]:
    """Mean trace of each layer and its standard error over images."""
    size = {layer.name: layer.weights if per_parameter else 1 for layer in layers}
    raw = {name: float(t.mean()) / size[name] for name, t in traces.items()}
    spread = {name: float(t.std()) if len(t) > 1 else 0.0 for name, t in traces.items()}
    return raw, {name: spread[name] / len(t) ** 0.5 / size[name] for name, t in traces.items()}
