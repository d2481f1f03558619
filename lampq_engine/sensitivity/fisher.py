"""Exact per-sample Fisher traces of every weight, at the cost of one backward sweep.

LampQ's tr(F_i) of its type-aware metric: the mean over images of the squared norm of the gradient of the negative
log-likelihood with respect to the layer's weight matrix.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lampq_engine.controls import decay
from lampq_engine.data import Images
from lampq_engine.evaluate import device_of
from lampq_engine.journal import Report, silent
from lampq_engine.recipe import SensitivitySpec
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
        return left.mul_(right).sum((1, 2))
    return torch.bmm(grads.transpose(1, 2), inputs).square_().sum((1, 2))


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
    source, device = torch.Generator().manual_seed(seed), device_of(model)
    done = 0
    with _frozen(model), _capture(model, weighted, parts) as size:
        for x, y in images.batches(batch):
            size[0] = len(x)
            with torch.enable_grad():
                out = model(x.to(device))
                logits = out if isinstance(out, Tensor) else sum(out) / len(out)
                target = y if labels == "empirical" else _sample(logits, source)
                F.cross_entropy(logits, target.to(device), reduction="sum").backward()
            done += len(x)
            report("fisher", done, len(images))
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


def _sample(logits: Tensor, source: torch.Generator) -> Tensor:
    return torch.multinomial(logits.detach().softmax(1).cpu(), 1, generator=source)[:, 0]


@contextmanager
def _frozen(model: nn.Module) -> Iterator[None]:
    """Eval mode and no parameter gradients for a while."""
    training, wanted = model.training, [(p, p.requires_grad) for p in model.parameters()]
    model.eval()
    for parameter, _ in wanted:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        model.train(training)
        for parameter, requires in wanted:
            parameter.requires_grad_(requires)


@contextmanager
def _capture(model: nn.Module, names: Sequence[str], parts: dict[str, list[Tensor]]) -> Iterator[list[int]]:
    """Watch each layer's input and the gradient of its output; append the norms of a batch when they are known.

    Yields a one-element list in which the caller keeps the number of images of the current batch.
    """
    size = [0]

    def watch(name: str) -> None:
        module = model.get_submodule(name)

        def forward(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            # A leaf at the first layer starts the graph, since no parameter does.
            output.requires_grad_() if not output.requires_grad else None
            x = _tokens(module, inputs[0].detach(), size[0])
            output.register_hook(lambda grad: _keep(name, x, grad))

        stack.callback(module.register_forward_hook(forward).remove)

    def _keep(name: str, x: Tensor, grad: Tensor) -> None:
        module = model.get_submodule(name)
        with torch.no_grad():
            g = grad.flatten(2).transpose(1, 2) if isinstance(module, nn.Conv2d) else _rows(grad, size[0])
            parts[name].append(squared_norms(x, g).double().cpu())

    with ExitStack() as stack:
        for name in names:
            watch(name)
        yield size


def _tokens(module: nn.Module, x: Tensor, images: int) -> Tensor:
    """A layer's input as (images, tokens, features); a convolution's as its patches."""
    if isinstance(module, nn.Conv2d):
        patches = F.unfold(x, module.kernel_size, module.dilation, _padding(module), module.stride)  # type: ignore[arg-type]
        return patches.transpose(1, 2)
    return _rows(x, images)


def _rows(x: Tensor, images: int) -> Tensor:
    """(images, tokens, features): Swin's windows come batch-major, so that a reshape joins those of one image."""
    return x.reshape(images, -1, x.shape[-1])


def _padding(module: nn.Conv2d) -> tuple[int, ...]:
    return module.padding if isinstance(module.padding, tuple) else (0, 0)
