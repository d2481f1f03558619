"""Making an allocation real: quantize, measure, pack, and write it down as a trial."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import nn

from lampq_engine.errors import InputError
from lampq_engine.evaluate import predict, score
from lampq_engine.files import key_of
from lampq_engine.journal import Report, silent
from lampq_engine.pack import write_packed
from lampq_engine.plain import to_plain
from lampq_engine.quantize import quantize_
from lampq_engine.recipe import Budgets, Recipe, SensitivitySpec
from lampq_engine.solve import check_recipe
from lampq_engine.steps.analyse import analyse, analyse_generated
from lampq_engine.steps.flips import keep_flips
from lampq_engine.steps.greedy import allocation_for
from lampq_engine.steps.loaded import Loaded, float_logits, versions
from lampq_engine.store import Study, Trial, write_trial
from lampq_engine.types import Allocation, Bits

UNIFORM_WIDTHS = (2, 3, 4, 6, 8)


def realised(study: Study, recipe: Recipe, loaded: Loaded) -> Recipe:
    """The recipe as it was carried out in this study: its model, data and weights filled in."""
    model = replace(study.model, hash=loaded.hash)
    return replace(recipe, model=model, data=study.data)


def trial_id(recipe: Recipe, *more: Any) -> str:
    """The name of a trial: the same request has the same name, so that asking twice costs nothing."""
    plain = to_plain(replace(recipe, title="", source=""))
    return key_of(plain, *more)[:12]


def build(loaded: Loaded, recipe: Recipe, bits: Mapping[str, Bits], *, report: Report = silent) -> nn.Module:
    """The float model with every layer quantized to `bits`, fitted on the recipe's calibration images."""
    model = loaded.copy()
    calibration = loaded.calibration(recipe.quantization.images)
    quantize_(model, loaded.layers, bits, calibration, spec=recipe.quantization, folds=loaded.folds, report=report)
    return model.eval()


def quantize(
    study: Study,
    recipe: Recipe,
    *,
    title: str = "",
    loaded: Loaded | None = None,
    report: Report = silent,
) -> Trial:
    """Solve, quantize, measure on the validation images, pack; an equal trial that is there already is returned."""
    if recipe.quantization.calibration == "generated":
        loaded = analyse_generated(study, recipe, loaded, report=report)
    loaded = loaded or analyse(study, spec=_spec_of(recipe), also=(recipe.sensitivity.metric,), report=report)
    check_recipe(study, recipe)
    recipe = realised(study, recipe, loaded)
    allocation = allocation_for(study, recipe, loaded, report=report)
    name = trial_id(recipe, to_plain(dict(allocation.bits)))
    if (found := finished(study, name)) is not None:
        return found
    start = time.perf_counter()
    report("quantize", 0, 1)
    model = build(loaded, recipe, allocation.bits, report=report)
    report("quantize", 1, 1)
    return measure(
        study,
        loaded,
        model,
        Trial(
            id=name,
            title=title or describe(recipe, allocation),
            stage="ptq",
            recipe=recipe,
            allocation=allocation,
            evaluation=study.float_evaluation,
            created=time.time(),
            control=control_of(recipe),
        ),
        start=start,
        report=report,
    )


def _spec_of(recipe: Recipe) -> SensitivitySpec:
    """The settings the study's metrics were made with, whatever metric the recipe then chooses."""
    return replace(recipe.sensitivity, metric="lampq")


def finished(study: Study, name: str) -> Trial | None:
    """The trial of this name if it is whole."""
    try:
        trial = study.trial(name)
    except InputError:
        return None
    return trial if trial.packed.is_file() else None


def measure(
    study: Study, loaded: Loaded, model: nn.Module, trial: Trial, *, start: float, report: Report = silent
) -> Trial:
    """Measure a quantized model on the validation images, pack it, and write the trial down, its record last."""
    reference = float_logits(study, loaded, "validation")
    measuring, images = time.perf_counter(), loaded.data.validation
    logits = predict(model, images, report=report)
    spent = time.perf_counter() - measuring
    evaluation = score(logits, images.labels, reference=reference, seconds=spent)
    size = write_packed(study.path / "trials" / trial.id / "packed.safetensors", model, trial.recipe)
    keep_flips(study, loaded, trial.id, logits, reference)
    cost = replace(trial.allocation.cost, megabytes=size / 1e6)
    done = replace(
        trial,
        evaluation=evaluation,
        allocation=replace(trial.allocation, cost=cost),
        predicted_megabytes=trial.allocation.cost.megabytes,
        seconds=time.perf_counter() - start,
        device=loaded.device_name,
        versions=versions(),
    )
    return write_trial(study, done)


def control_of(recipe: Recipe) -> str:
    """Which control a recipe is, if it is one."""
    if recipe.allocation.solver == "uniform":
        return "uniform"
    carries_nothing = recipe.allocation.solver == "ilp" and recipe.sensitivity.metric in ("random", "inverted")
    return recipe.sensitivity.metric if carries_nothing else ""


def describe(recipe: Recipe, allocation: Allocation) -> str:
    """A title that says metric and budget."""
    spec = recipe.allocation
    if spec.solver == "uniform":
        return f"Uniform {spec.uniform}"
    if spec.solver == "given":
        return f"Given, mean {allocation.cost.mean_bits:.2f} bits"
    names = {
        "lampq": "LampQ",
        "fisher": "Raw Fisher",
        "output": "Output Fisher",
        "harm": "Measured harm",
        "lrp": "Relevance",
        "mixqvit": "Mix-QViT",
        "nuclear": "Nuclear norm (VT-PTQ)",
        "hessian": "Hessian (HAWQ-V3)",
        "random": "Random",
        "inverted": "Inverted",
    }
    units = {
        "mean_bits": "mean bits",
        "mean_activation_bits": "mean activation bits",
        "megabytes": "MB",
        "gbops": "GBOPs",
    }
    budgets = ", ".join(f"{value:.4g} {units[name]}" for name, value in spec.budgets.given().items())
    if spec.solver == "greedy":
        return f"Greedy at {budgets or 'no budget'}"
    return f"{names[recipe.sensitivity.metric]} at {budgets or 'no budget'}"


def control_recipes(recipe: Recipe, widths: Sequence[int] = UNIFORM_WIDTHS) -> list[Recipe]:
    """The controls of a recipe: uniform widths, and random and inverted scores at its own budget."""
    spec = recipe.allocation
    found = []
    for width in widths:
        uniform = replace(spec, solver="uniform", uniform=Bits(width, width), pins={}, bits={}, budgets=Budgets())
        found.append(replace(recipe, allocation=uniform))
    if spec.solver == "ilp" and spec.budgets.given():
        for metric in ("random", "inverted"):
            found.append(replace(recipe, sensitivity=replace(recipe.sensitivity, metric=metric)))
    return found


def run_controls(
    study: Study,
    recipe: Recipe,
    *,
    widths: Sequence[int] = UNIFORM_WIDTHS,
    loaded: Loaded | None = None,
    report: Report = silent,
) -> list[Trial]:
    """Quantize and measure every control of a recipe."""
    loaded = loaded or analyse(study, spec=_spec_of(recipe), also=(), report=report)
    trials = []
    recipes = control_recipes(recipe, widths)
    for done, one in enumerate(recipes):
        trials.append(quantize(study, one, loaded=loaded, report=report))
        report("controls", done + 1, len(recipes))
    return trials
