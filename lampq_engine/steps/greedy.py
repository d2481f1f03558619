"""Greedy MP on the model itself: each step measured as the KL of the quantized model from the float one."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from lampq_engine.evaluate import divergence, predict
from lampq_engine.files import key_of, once
from lampq_engine.greedy import by_table, greedy
from lampq_engine.journal import Report, silent
from lampq_engine.plain import to_plain
from lampq_engine.problem import options
from lampq_engine.quantize import fold_
from lampq_engine.recipe import Recipe
from lampq_engine.records import allocation_of
from lampq_engine.sensitivity import FOLD_BITS, fit_variants
from lampq_engine.solve import metric_of, solve
from lampq_engine.steps.loaded import Loaded
from lampq_engine.store import Study
from lampq_engine.types import FLOAT_BITS, Allocation, Bits


def allocation_for(study: Study, recipe: Recipe, loaded: Loaded, *, report: Report = silent) -> Allocation:
    """The allocation of a recipe; a greedy one that measures the model is descended here, and kept in the study."""
    spec = recipe.allocation
    if spec.solver != "greedy":
        return solve(study, recipe)
    if spec.greedy == "metric":
        table = metric_of(study, recipe)
        assert table is not None
        return greedy(loaded.costs, by_table(loaded.costs, table, spec), spec, report=report)
    key = key_of(loaded.key, to_plain(spec), to_plain(recipe.quantization))
    path = study.path / "greedy" / f"{key}.json"
    return allocation_of(once(path, key, lambda: to_plain(_descended(recipe, loaded, report)))[0])


@torch.no_grad()
def _descended(recipe: Recipe, loaded: Loaded, report: Report) -> Allocation:
    spec, quantization = recipe.allocation, recipe.quantization
    model, images = loaded.copy(), loaded.data.calibration
    few = images.subset(range(min(spec.greedy_images, len(images))))
    reference = predict(model, few)
    calibration = loaded.calibration(quantization.images)
    allowed = options(loaded.layers, spec)
    widths = {width for row in allowed.values() for pair in row for width in pair} - {FLOAT_BITS}
    fold_(model, loaded.folds, {layer.name: FOLD_BITS for layer in loaded.layers}, calibration, quantization)
    variants = fit_variants(model, loaded.layers, calibration, sorted(widths), quantization)
    report("greedy, fitted", 1, 1)
    state: dict[str, Bits] = {}

    def performance(bits: Mapping[str, Bits]) -> float:
        changed = {name: pair for name, pair in bits.items() if state.get(name) != pair}
        variants.set_(model, changed)
        state.update(changed)
        return float(divergence(reference, predict(model, few)).mean())

    return greedy(loaded.costs, performance, spec, report=report)
