"""From a study's name to its layers, float accuracy and sensitivities, each written as soon as it is known."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from safetensors.torch import load_file, save
from torch import Tensor

from lampq_engine.controls import random_scores
from lampq_engine.errors import InputError
from lampq_engine.evaluate import score
from lampq_engine.files import key_of, once, write_bytes, write_json
from lampq_engine.journal import Report, silent
from lampq_engine.plain import to_plain
from lampq_engine.recipe import QuantizationSpec, Recipe, SensitivitySpec
from lampq_engine.records import sensitivity_plain
from lampq_engine.sensitivity import (
    TypeFactor,
    fisher_sensitivity,
    fisher_traces,
    hessian_sensitivity,
    hessian_traces,
    lampq_sensitivity,
    lrp_sensitivity,
    measured_harm,
    mixqvit_sensitivity,
    nuclear_sensitivity,
    output_fisher,
    type_factors,
)
from lampq_engine.sensitivity.fisher import PAIRS
from lampq_engine.steps.explain import relevance_of
from lampq_engine.steps.generate import zero_shot
from lampq_engine.steps.loaded import Loaded, float_logits, load, versions
from lampq_engine.store import Study
from lampq_engine.types import Bits, Sensitivity

HARM_WIDTHS = (2, 3, 4, 5, 6, 7, 8)
LEAST_IMAGES = 8
LONG_METRICS = ("output", "harm")


def analyse(
    study: Study,
    *,
    spec: SensitivitySpec | None = None,
    quantization: QuantizationSpec | None = None,
    also: Collection[str] = LONG_METRICS,
    between: Callable[[], None] = lambda: None,
    loaded: Loaded | None = None,
    report: Report = silent,
) -> Loaded:
    """Survey, float accuracy, Fisher and type factors of a study, and the longer metrics named in `also`.

    What is there already is kept. `between` is called now and then during the longer metrics, which nobody has to
    wait for: other work may run then.

    Without `spec` the settings of its last analysis hold, so that a later step never measures anything anew unasked.
    Returns the loaded model and data, so that a caller can go on with them.
    """
    spec, quantization = spec or study.sensitivity_spec, quantization or QuantizationSpec()
    loaded = loaded or load(study.model, study.data, report=report)
    if len(loaded.data.calibration) < LEAST_IMAGES:
        raise InputError(
            f"There are {len(loaded.data.calibration)} calibration images",
            expected=f"at least {LEAST_IMAGES}",
            todo="Add images or lower the number of validation images",
        )
    _record(study, loaded, spec)
    logits = float_logits(study, loaded, "validation", report=report)
    once(study.path / "float.json", loaded.key, lambda: to_plain(score(logits, loaded.data.validation.labels)))
    _sensitivities(study, loaded, spec, quantization, report)

    def patient(stage: str, done: int = 0, total: int = 0, **values: Any) -> None:
        report(stage, done, total, **values)
        between()

    _long_metrics(study, loaded, spec, quantization, also, patient)
    return loaded


def analyse_generated(study: Study, recipe: Recipe, loaded: Loaded | None = None, *, report: Report = silent) -> Loaded:
    """The study's model with generated images to calibrate on, and the recipe's metric measured on those alone.

    Only the float accuracy is measured on real images, those of validation. What is measured lies beside the images,
    in the study's folder `generated`, and never stands in for what was measured on real images.
    """
    loaded = loaded or load(study.model, study.data, report=report)
    spec = replace(recipe.sensitivity, metric="lampq")
    if not study.has("layers.json"):
        _record(study, loaded, spec)
    logits = float_logits(study, loaded, "validation", report=report)
    once(study.path / "float.json", loaded.key, lambda: to_plain(score(logits, loaded.data.validation.labels)))
    made = zero_shot(study, loaded, recipe.generation, report)
    if recipe.allocation.solver in ("ilp", "greedy"):
        _sensitivities(study.zero_shot, made, spec, QuantizationSpec(), report)
        _long_metrics(study.zero_shot, made, spec, QuantizationSpec(), (recipe.sensitivity.metric,), report)
    return made


def _record(study: Study, loaded: Loaded, spec: SensitivitySpec) -> None:
    """What the study is made of: layers, images, hashes, settings, versions."""
    layers = {
        "layers": [to_plain_layer(layer) for layer in loaded.layers],
        "fixed_bytes": loaded.costs.fixed_bytes,
        "bypassed": list(loaded.bypassed),
    }
    once(study.path / "layers.json", key_of(loaded.key, layers), lambda: layers)
    data = loaded.data
    write_json(
        study.path / "images.json",
        {"calibration": data.calibration.names, "validation": data.validation.names, "skipped": data.skipped},
    )
    provenance = {
        "weights_hash": loaded.hash,
        "images_hash": key_of(data.calibration.hash, data.validation.hash),
        "counts": {"calibration": len(data.calibration), "validation": len(data.validation)},
        "skipped": list(data.skipped),
        "seed": data.seed,
        "sensitivity": to_plain(spec),
        "device": loaded.device_name,
        "versions": versions(),
    }
    write_json(study.path / "analysis.json", provenance)


def to_plain_layer(layer: Any) -> dict[str, Any]:
    """A layer as plain data; an absent block is kept as null."""
    return {name: getattr(layer, name) for name in layer.__dataclass_fields__}


def _sensitivities(
    study: Study,
    loaded: Loaded,
    spec: SensitivitySpec,
    quantization: QuantizationSpec,
    report: Report,
) -> None:
    layers, images = loaded.layers, loaded.data.calibration
    key = key_of(loaded.key, to_plain(spec), to_plain(quantization))

    def keep(name: str, make: Callable[[], Sensitivity]) -> None:
        once(study.path / "sensitivity" / f"{name}.json", key, lambda: sensitivity_plain(make()))

    traces = _traces(study, loaded, spec, report)
    keep("fisher", lambda: fisher_sensitivity(traces, layers, spec))

    def type_aware() -> Sensitivity:
        factors: list[TypeFactor] = type_factors(
            loaded.copy(),
            layers,
            traces,
            images,
            spec=spec,
            quantization=quantization,
            folds=loaded.folds,
            report=report,
        )
        return lampq_sensitivity(traces, factors, layers, spec)

    keep("lampq", type_aware)
    keep("random", lambda: random_scores(layers, PAIRS, base=spec.base, seed=spec.seed))


def _long_metrics(
    study: Study,
    loaded: Loaded,
    spec: SensitivitySpec,
    quantization: QuantizationSpec,
    also: Collection[str],
    report: Report,
) -> None:
    layers, images = loaded.layers, loaded.data.calibration
    key = key_of(loaded.key, to_plain(spec), to_plain(quantization))

    def keep(name: str, make: Callable[[], Sensitivity]) -> None:
        once(study.path / "sensitivity" / f"{name}.json", key, lambda: sensitivity_plain(make()))

    if "output" in also:
        keep(
            "output",
            lambda: output_fisher(
                loaded.copy(),
                layers,
                images,
                widths=HARM_WIDTHS,
                quantization=quantization,
                folds=loaded.folds,
                seed=spec.seed,
                report=report,
            ),
        )
    few = images.subset(range(min(spec.harm_images, len(images))))
    if "harm" in also:
        pairs_of_bits = [Bits(b, b) for b in HARM_WIDTHS]
        keep(
            "harm",
            lambda: measured_harm(
                loaded.copy(),
                layers,
                few,
                pairs_of_bits=pairs_of_bits,
                quantization=quantization,
                folds=loaded.folds,
                report=report,
            ),
        )

    if "lrp" in also:
        keep("lrp", lambda: lrp_sensitivity(relevance_of(study, loaded, spec, report), spec.base))
    if "mixqvit" in also:
        keep(
            "mixqvit",
            lambda: mixqvit_sensitivity(
                loaded.copy(),
                layers,
                images.subset(range(min(spec.varied_images, len(images)))),
                relevance_of(study, loaded, spec, report),
                baseline=spec.baseline_bits,
                widths=HARM_WIDTHS,
                quantization=quantization,
                folds=loaded.folds,
                report=report,
            ),
        )
    if "nuclear" in also:
        keep(
            "nuclear",
            lambda: nuclear_sensitivity(
                loaded.copy(),
                layers,
                few,
                widths=HARM_WIDTHS,
                quantization=quantization,
                folds=loaded.folds,
                report=report,
            ),
        )
    if "hessian" in also:
        samples, seed = spec.hessian_samples, spec.seed
        traces = partial(hessian_traces, loaded.copy(), layers, few, samples=samples, seed=seed, report=report)
        keep("hessian", lambda: hessian_sensitivity(loaded.model, layers, traces(), len(few), HARM_WIDTHS))


def _traces(study: Study, loaded: Loaded, spec: SensitivitySpec, report: Report) -> dict[str, Tensor]:
    """Per-image traces, kept in the study for standard errors and resampling."""
    key = key_of(loaded.key, spec.fisher, spec.seed)
    path = study.path / "sensitivity" / f"traces-{key}.safetensors"
    names = [layer.name for layer in loaded.layers if layer.weights]
    try:
        found: dict[str, Tensor] = load_file(path)
        if set(found) == set(names):
            return {name: found[name] for name in names}
    except Exception:
        pass
    traces = fisher_traces(
        loaded.model, loaded.layers, loaded.data.calibration, labels=spec.fisher, seed=spec.seed, report=report
    )
    write_bytes(path, save({name: trace.to(torch.float64).contiguous() for name, trace in traces.items()}))
    return traces
