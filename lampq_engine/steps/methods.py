"""Every published system at the same budgets on one study: with one engine, and each with its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from lampq_engine.files import read_json, write_json
from lampq_engine.journal import Report, silent
from lampq_engine.recipe import Budgets, QuantizationSpec, Recipe
from lampq_engine.steps.analyse import analyse
from lampq_engine.steps.loaded import Loaded
from lampq_engine.steps.quantize import quantize
from lampq_engine.store import Study, Trial
from lampq_engine.types import Bits

MPTQ = QuantizationSpec(grid="symmetric", fold="sq_b", gelu="opt_m")
MIX = QuantizationSpec(fold="clipped", softmax="log_sqrt2")
METRICS = {
    "LampQ": "lampq",
    "Mix-QViT": "mixqvit",
    "LRP-QViT": "lrp",
    "VT-PTQ": "nuclear",
    "HAWQ-V3": "hessian",
    "Control: random": "random",
    "Control: inverted": "inverted",
}
OWN = {"Mix-QViT": MIX, "LRP-QViT": MIX}  # LampQ's own engine is the recipe's; MPTQ-ViT's is its solver's below
ENGINES = ("same", "own")


@dataclass(frozen=True)
class Entry:
    """One method at one budget: the engine it ran on, and its recipe."""

    method: str
    engine: str  # `same`: the recipe's for everyone; `own`: the paper's
    mean_bits: float
    recipe: Recipe


def entries(base: Recipe, budgets: Sequence[float], *, greedy: bool = True) -> list[Entry]:
    """Methods x budgets x engines, for mean weight and activation bits; controls on the recipe's engine.

    Uniform widths stand beside the budgets that are whole numbers.
    """
    found = []
    for mean in budgets:
        spec = replace(base.allocation, solver="ilp", budgets=Budgets(mean_bits=mean, mean_activation_bits=mean))
        for method, metric in METRICS.items():
            one = replace(base.sensitivity, metric=metric, baseline_bits=max(2, round(mean)))
            recipe = replace(base, sensitivity=one, allocation=spec)
            found.append(Entry(method, "same", mean, recipe))
            if method in OWN:
                found.append(Entry(method, "own", mean, replace(recipe, quantization=OWN[method])))
        if greedy:
            descent = replace(base, allocation=replace(spec, solver="greedy"))
            found.append(Entry("MPTQ-ViT", "same", mean, descent))
            found.append(Entry("MPTQ-ViT", "own", mean, replace(descent, quantization=MPTQ)))
        if mean == int(mean):
            width = Bits(int(mean), int(mean))
            uniform = replace(base, allocation=replace(spec, solver="uniform", uniform=width, budgets=Budgets()))
            found.append(Entry("Control: uniform", "same", mean, uniform))
            found.append(Entry("MPTQ-ViT, one width", "own", mean, replace(uniform, quantization=MPTQ)))
    return found


def compare_methods(
    study: Study,
    base: Recipe,
    budgets: Sequence[float],
    *,
    greedy: bool = True,
    loaded: Loaded | None = None,
    report: Report = silent,
) -> list[tuple[Entry, Trial]]:
    """Quantize and measure every entry; which trial is whose is kept in the study after each, so that it resumes."""
    asked, done = entries(base, budgets, greedy=greedy), list[tuple[Entry, Trial]]()
    for number, entry in enumerate(asked):
        spec = replace(entry.recipe.sensitivity, metric="lampq")
        loaded = analyse(study, spec=spec, also=(entry.recipe.sensitivity.metric,), loaded=loaded, report=report)
        title = f"{entry.method}, mean {entry.mean_bits:g} bits, {entry.engine} engine"
        trial = quantize(study, entry.recipe, title=title, loaded=loaded, report=report)
        done.append((entry, trial))
        _remember(study, entry, trial)
        report("methods", number + 1, len(asked))
    return done


def _remember(study: Study, entry: Entry, trial: Trial) -> None:
    path = study.path / "methods.json"
    rows = read_json(path)["rows"] if path.is_file() else []
    row = {"method": entry.method, "engine": entry.engine, "mean_bits": entry.mean_bits, "trial": trial.id}
    write_json(path, {"rows": [other for other in rows if other["trial"] != trial.id] + [row]})
