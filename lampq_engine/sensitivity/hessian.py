"""HAWQ-V3's metric: mean Hessian eigenvalue of a layer's weight, by Hutchinson, times its quantization error."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lampq_engine.data import Images
from lampq_engine.evaluate import device_of
from lampq_engine.journal import Report, silent
from lampq_engine.quantizers import fit_weight
from lampq_engine.sensitivity.capture import frozen
from lampq_engine.types import FLOAT_BITS, Bits, Cell, Layer, Sensitivity


def hessian_traces(
    model: nn.Module,
    layers: Sequence[Layer],
    images: Images,
    *,
    samples: int,
    seed: int = 0,
    batch: int = 8,
    report: Report = silent,
) -> dict[str, Tensor]:
    """Estimates of each layer's Hessian trace, (samples x batches,): `v^T H v` with random signs v, E = tr(H).

    All layers share one double backward; the terms between layers have mean zero. H is that of the mean cross-entropy.
    """
    source, device = torch.Generator().manual_seed(seed), device_of(model)
    names = [layer.name for layer in layers if layer.weights]
    weights = [model.get_submodule(name).get_parameter("weight") for name in names]
    found: dict[str, list[Tensor]] = {name: [] for name in names}
    total, done = samples * -(-len(images) // batch), 0
    with frozen(model), torch.enable_grad():
        for weight in weights:
            weight.requires_grad_(True)
        for x, y in images.batches(batch):
            out = model(x.to(device))
            loss = F.cross_entropy(out if isinstance(out, Tensor) else sum(out) / len(out), y.to(device))
            grads = torch.autograd.grad(loss, weights, create_graph=True)
            for one in range(samples):
                signs = [torch.randint(0, 2, w.shape, generator=source).to(w) * 2 - 1 for w in weights]
                inner = sum((g * v).sum() for g, v in zip(grads, signs, strict=True))
                products = torch.autograd.grad(inner, weights, retain_graph=one + 1 < samples)  # type: ignore[arg-type]
                for name, v, hv in zip(names, signs, products, strict=True):
                    found[name].append((v * hv).sum().detach().double().cpu())
                done += 1
                report("hessian traces", done, total)
    return {name: torch.stack(parts) for name, parts in found.items()}


@torch.no_grad()
def hessian_sensitivity(
    model: nn.Module, layers: Sequence[Layer], traces: dict[str, Tensor], images: int, widths: Sequence[int]
) -> Sensitivity:
    """`tr(H_i) / n_i  ||Q(W_i) - W_i||^2` at every width (HAWQ-V3 eq. for the ILP; methods of its `T_i`).

    A trace estimated below zero counts as (nearly) none. The paper ties both widths; at a pair of different ones the
    mean of the two widths' harms stands (our choice, equal to the paper where they are tied). Matmuls get no score.
    """
    raw, errors, cells = dict[str, float](), dict[str, float](), dict[str, dict[Bits, Cell]]()
    for layer in layers:
        if layer.name not in traces:
            continue
        estimates = traces[layer.name] / layer.weights
        raw[layer.name] = max(float(estimates.mean()), 1e-12)
        errors[layer.name] = float(estimates.std()) / len(estimates) ** 0.5 if len(estimates) > 1 else 0.0
        weight = model.get_submodule(layer.name).get_parameter("weight")
        gone = {w: float((fit_weight(weight, w)(weight) - weight).double().square().sum()) for w in widths}
        gone[FLOAT_BITS] = 0.0
        share = {Bits(w, a): (gone[w] + gone[a]) / 2 for w in gone for a in gone}
        cells[layer.name] = {bits: Cell(raw[layer.name] * s, errors[layer.name] * s) for bits, s in share.items()}
    return Sensitivity("hessian", "loss, nats", images, cells, raw, errors, notes={"trace": "mean eigenvalue"})
