"""LampQ's type-aware Fisher metric: Omega_i = alpha_t tr(F_i), with alpha_t from measured accuracy drops.

LampQ (AAAI 2026), Algorithm 1 lines 1 to 10. The number of sampled layers, their width, and the base by which harm
falls with bits are open in the paper; they are settings here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn

from lampq_engine.controls import decay
from lampq_engine.data import Images
from lampq_engine.evaluate import device_of, predict
from lampq_engine.fitting import Seen, wrap
from lampq_engine.journal import Report, silent
from lampq_engine.quantize import NO_FOLDS, Folds, fold_, watch_inputs
from lampq_engine.quantized import alone
from lampq_engine.recipe import QuantizationSpec, SensitivitySpec
from lampq_engine.sensitivity.fisher import PAIRS, mean_and_error
from lampq_engine.types import Bits, Kind, Layer, Sensitivity

LEAST_DROP = 0.05  # accuracy points: a drop of less, or a rise, on a small set still means some harm
FOLD_BITS = 4  # activation width that folds are fitted at when layers are quantized one at a time


@dataclass(frozen=True)
class TypeFactor:
    """alpha_t of one type: points of accuracy lost per unit of Fisher trace, over the layers that were sampled."""

    kind: Kind
    alpha: float
    error: float  # standard error, from the paired differences over images
    drop: float  # A(t): mean accuracy drop in points
    trace: float  # mean trace of the sampled layers
    layers: tuple[str, ...]


def sampled_layers(layers: Sequence[Layer], kind: Kind, probes: int) -> list[Layer]:
    """mu layers of one type, spread evenly over depth (the middle of each of mu stretches); 0: all of them."""
    same = [layer for layer in layers if layer.kind == kind and layer.weights]
    if probes == 0 or probes >= len(same):
        return same
    return [same[int((i + 0.5) * len(same) / probes)] for i in range(probes)]


def type_factors(
    model: nn.Module,
    layers: Sequence[Layer],
    traces: Mapping[str, Tensor],
    images: Images,
    *,
    spec: SensitivitySpec,
    quantization: QuantizationSpec,
    folds: Folds = NO_FOLDS,
    report: Report = silent,
) -> list[TypeFactor]:
    """alpha_t for every kind of weight layer: quantize mu layers alone to beta bits and measure the accuracy drop.

    The paper has four types; patch embedding, head and Swin's reductions get a factor in the same way (our choice).
    `model` is folded in place, which leaves its function as it is.
    """
    kinds = sorted({layer.kind for layer in layers if layer.weights}, key=lambda k: [x.kind for x in layers].index(k))
    chosen = {kind: sampled_layers(layers, kind, spec.probes) for kind in kinds}
    every = [layer for group in chosen.values() for layer in group]
    calibration = images.batch(range(min(quantization.images, len(images)))).to(device_of(model))
    fold_(model, folds, {layer.name: FOLD_BITS for layer in layers}, calibration, quantization)
    hits = {"": _hits(model, images)}
    wrapped = {}
    bits = Bits(spec.probe_bits, spec.probe_bits)
    by_name = {layer.name: layer for layer in every}

    def see(name: str, inputs: tuple[Tensor, ...]) -> None:
        wrapped[name] = wrap(Seen(model.get_submodule(name), by_name[name], inputs, quantization), bits)

    with torch.no_grad(), watch_inputs(model, list(by_name), see):
        model(calibration)
    for done, name in enumerate(by_name):
        with alone(model, name, wrapped[name]):
            hits[name] = _hits(model, images)
        report("type factors", done + 1, len(by_name))
    return [_factor(kind, group, hits, traces) for kind, group in chosen.items()]


def _hits(model: nn.Module, images: Images) -> Tensor:
    return 100.0 * (predict(model, images).argmax(1) == images.labels).double()


def _factor(kind: Kind, group: Sequence[Layer], hits: Mapping[str, Tensor], traces: Mapping[str, Tensor]) -> TypeFactor:
    drops = torch.stack([hits[""] - hits[layer.name] for layer in group]).mean(0)  # per image, over the sampled layers
    trace = float(torch.stack([traces[layer.name].mean() for layer in group]).mean())
    drop, error = float(drops.mean()), float(drops.std()) / len(drops) ** 0.5
    safe = max(trace, 1e-30)
    return TypeFactor(
        kind, max(drop, LEAST_DROP) / safe, error / safe, drop, trace, tuple(layer.name for layer in group)
    )


def lampq_sensitivity(
    traces: dict[str, Tensor], factors: Sequence[TypeFactor], layers: Sequence[Layer], spec: SensitivitySpec
) -> Sensitivity:
    """Omega_i at every pair of widths, gamma^-B Omega_i, with first-order errors of trace and alpha together."""
    raw, errors = mean_and_error(traces, layers, per_parameter=spec.per_parameter)
    by_kind = {factor.kind: factor for factor in factors}
    kind_of = {layer.name: layer.kind for layer in layers}
    omega, omega_error = {}, {}
    for name, trace in raw.items():
        factor = by_kind[kind_of[name]]
        omega[name] = factor.alpha * trace
        omega_error[name] = ((factor.alpha * errors[name]) ** 2 + (factor.error * trace) ** 2) ** 0.5
    cells = {name: decay(omega[name], omega_error[name], PAIRS, spec.base) for name in omega}
    notes = {"factors": [asdict(factor) for factor in factors], "probe_bits": spec.probe_bits, "base": spec.base}
    count = len(next(iter(traces.values())))
    return Sensitivity("lampq", "accuracy points", count, cells, omega, omega_error, notes=notes)
