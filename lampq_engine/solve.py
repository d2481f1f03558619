"""From a study and a recipe to an allocation; no model is loaded."""

from __future__ import annotations

from lampq_engine.allocate import allocate, options
from lampq_engine.controls import inverted
from lampq_engine.errors import InputError
from lampq_engine.recipe import Recipe
from lampq_engine.store import Study
from lampq_engine.types import Allocation, Sensitivity


def metric_of(study: Study, recipe: Recipe) -> Sensitivity | None:
    """The sensitivity that a recipe's solver minimises, read from the study."""
    metric = recipe.sensitivity.metric
    if recipe.quantization.calibration == "generated":
        study = study.zero_shot
    wanted = "lampq" if metric == "inverted" else metric
    if wanted not in study.metrics:
        if recipe.allocation.solver not in ("ilp", "greedy"):
            return None
        raise InputError(
            f"The study {study.name!r} has no sensitivity {wanted!r}",
            expected=f"one of {', '.join(study.metrics) or 'none yet'}",
            todo="Analyse the study first, to the end",
        )
    table = study.sensitivity(wanted)
    return inverted(table) if metric == "inverted" else table


def solve(study: Study, recipe: Recipe) -> Allocation:
    """The allocation that a recipe asks for in a study; no model is loaded."""
    check_recipe(study, recipe)
    return allocate(study.costs, metric_of(study, recipe), recipe.allocation)


def check_recipe(study: Study, recipe: Recipe) -> None:
    """`InputError` if the recipe was made for another model: other weights, or layers this one does not have."""
    if recipe.model.hash and study.has("analysis.json") and recipe.model.hash != study.provenance["weights_hash"]:
        raise InputError(
            f"The recipe was made for another model: {recipe.model.name}, weights {recipe.model.hash}",
            expected=f"a recipe for {study.model.name}, weights {study.provenance['weights_hash']}",
            todo="Choose the study of that model, or remove `hash` and the layer names from the recipe",
        )
    options(study.costs.layers, recipe.allocation)
