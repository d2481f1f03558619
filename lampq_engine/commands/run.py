"""What each command does: build the request, call the engine, say the result as text and as plain data."""

from __future__ import annotations

import argparse
import shutil
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from lampq_engine import jobs as job_store
from lampq_engine.allocate import Program
from lampq_engine.commands.request import data_spec, model_spec, recipe_of, settings
from lampq_engine.commands.text import allocation_text, evaluation_text, table
from lampq_engine.errors import InputError
from lampq_engine.files import write_bytes
from lampq_engine.journal import Report
from lampq_engine.plain import to_plain
from lampq_engine.recipe import Recipe, SensitivitySpec, TrainingSpec, UpdateSpec, to_toml
from lampq_engine.store import Study, Trial, create_study, list_studies, open_study


@dataclass(frozen=True)
class Result:
    """What a command has to say: text for people, plain data for programs, the trial it made."""

    text: str
    plain: Any
    trial: str = ""


def studies(options: argparse.Namespace, report: Report) -> Result:
    rows = [
        {"study": s.name, "model": s.model.name, "data": s.data.source, "trials": len(s.trials())}
        for s in list_studies()
    ]
    return Result(table(rows) or "no studies yet; make one with `analyse`", rows)


def analyse(options: argparse.Namespace, report: Report) -> Result:
    from lampq_engine.steps import analyse as step

    study = create_study(Recipe(model=model_spec(options), data=data_spec(options)), name=options.study)
    spec = settings(SensitivitySpec(), options)
    loaded = step(study, spec=spec, harm=not options.no_harm, report=report)
    found = study.float_evaluation
    lines = [f"study {study.name}: {len(loaded.layers)} layers, float {evaluation_text(found)}"]
    lines += [f"skipped {text}" for text in loaded.data.skipped]
    lines += [f"left in float (the model uses its weight without calling it): {name}" for name in loaded.bypassed]
    plain = {"study": study.name, "float": to_plain(found), "metrics": list(study.metrics), **study.provenance}
    return Result("\n".join(lines), plain)


def sensitivity(options: argparse.Namespace, report: Report) -> Result:
    found = open_study(options.study).sensitivity(options.metric)
    order = sorted(found.raw, key=lambda name: -found.raw[name])
    rows = [{"layer": n, found.unit: found.raw[n], "error": found.raw_error.get(n, 0.0)} for n in order]
    return Result(table(rows), {"metric": found.metric, "unit": found.unit, "images": found.images, "rows": rows})


def allocate(options: argparse.Namespace, report: Report) -> Result:
    from lampq_engine.solve import solve

    study, recipe = _request(options)
    found = solve(study, recipe)
    return Result(allocation_text(found), to_plain(found))


def frontier(options: argparse.Namespace, report: Report) -> Result:
    from lampq_engine.frontier import frontier as curve
    from lampq_engine.solve import check_recipe, metric_of

    study, recipe = _request(options)
    check_recipe(study, recipe)
    metric = metric_of(study, recipe)
    assert metric is not None
    program = Program(study.costs, metric, recipe.allocation)
    others = replace(recipe.allocation.budgets, **{options.along: None})
    points = curve(program, options.along, others=others, points=options.points)
    rows = [_point_row(options.along, point) for point in points]
    return Result(table(rows), rows)


def _point_row(along: str, point: Any) -> dict[str, Any]:
    found = point.allocation
    if found is None:
        return {along: point.budget, "harm": None, "status": point.reason}
    return {along: point.budget, "harm": found.solution.harm, "status": found.solution.status, **to_plain(found.cost)}


def quantize(options: argparse.Namespace, report: Report) -> Result:
    from lampq_engine.steps import quantize as step

    study, recipe = _request(options)
    return _trial_result(step(study, recipe, title=options.title, control=options.control, report=report), study)


def controls(options: argparse.Namespace, report: Report) -> Result:
    from lampq_engine.steps import run_controls

    study, recipe = _request(options)
    trials = run_controls(study, recipe, report=report)
    rows = [trial_row(trial, study) for trial in trials]
    return Result(table(rows), rows, trials[-1].id if trials else "")


def refine(options: argparse.Namespace, report: Report) -> Result:
    from lampq_engine.steps import refine as step

    study = open_study(options.study)
    update = settings(UpdateSpec(steps=10), options)
    return _trial_result(step(study, study.trial(options.trial), update=update, report=report), study)


def finetune(options: argparse.Namespace, report: Report) -> Result:
    from lampq_engine.steps import finetune as step

    study = open_study(options.study)
    training = settings(TrainingSpec(epochs=10), options)
    return _trial_result(step(study, study.trial(options.trial), training=training, report=report), study)


def run(options: argparse.Namespace, report: Report) -> Result:
    from lampq_engine import steps

    recipe = recipe_of(options.file)
    study = (
        open_study(options.study)
        if options.study
        else create_study(replace(recipe, model=replace(recipe.model, hash="")))
    )
    harm = recipe.sensitivity.metric == "harm"
    loaded = steps.analyse(study, spec=replace(recipe.sensitivity, metric="lampq"), harm=harm, report=report)
    plain = replace(recipe, update=UpdateSpec(), training=TrainingSpec())
    trial = steps.quantize(study, plain, title=recipe.title, loaded=loaded, report=report)
    if recipe.update.steps:
        trial = steps.refine(study, trial, update=recipe.update, loaded=loaded, report=report)
    if recipe.training.epochs:
        trial = steps.finetune(study, trial, training=recipe.training, loaded=loaded, report=report)
    return _trial_result(trial, study)


def compare(options: argparse.Namespace, report: Report) -> Result:
    study = open_study(options.study)
    found = study.float_evaluation
    start = {
        "trial": "float",
        "title": "Float model",
        "top1": found.top1,
        "low": found.interval[0],
        "high": found.interval[1],
        "images": found.images,
        "mean_bits": 32.0,
    }
    rows = [start, *sorted((trial_row(t, study) for t in study.trials()), key=lambda row: -row["top1"])]
    return Result("\n".join([table(rows), *study.damaged()]), rows)


def export(options: argparse.Namespace, report: Report) -> Result:
    study = open_study(options.study)
    trial = study.trial(options.trial)
    if not trial.packed.is_file():
        raise InputError(f"The trial {trial.id} has no packed file", todo="Run it again")
    folder = Path(options.to)
    folder.mkdir(parents=True, exist_ok=True)
    packed = shutil.copyfile(trial.packed, folder / f"{study.name}-{trial.id}.safetensors")
    recipe = folder / f"{study.name}-{trial.id}.toml"
    write_bytes(recipe, to_toml(trial.recipe).encode())
    return Result(f"{packed}\n{recipe}", {"packed": str(packed), "recipe": str(recipe)})


def verify(options: argparse.Namespace, report: Report) -> Result:
    from lampq_engine.steps import verify as step

    found = step(Path(options.file), open_study(options.study).data, report=report)
    text = f"{found.path}: {found.megabytes:.4f} MB, {evaluation_text(found.evaluation)}"
    return Result(text, {**asdict(found), "interval": found.evaluation.interval})


def jobs(options: argparse.Namespace, report: Report) -> Result:
    rows = [
        {"job": job.id, "title": job.info["title"], **asdict(job.status())}
        for job in job_store.list_jobs(open_study(options.study))
    ]
    return Result(table(rows) or "no jobs", rows)


def cancel(options: argparse.Namespace, report: Report) -> Result:
    job = job_store.open_job(open_study(options.study), options.job)
    job.cancel()
    return Result(f"asked job {job.id} to stop", {"job": job.id})


def resume(options: argparse.Namespace, report: Report) -> Result:
    study = open_study(options.study)
    job = job_store.resume(study, job_store.open_job(study, options.job))
    return Result(f"started job {job.id}", {"job": job.id})


def _request(options: argparse.Namespace) -> tuple[Study, Recipe]:
    return open_study(options.study), recipe_of(options.recipe, options)


def trial_row(trial: Trial, study: Study) -> dict[str, Any]:
    """One line of a comparison: what was measured, how far from float, at what cost."""
    found, cost = trial.evaluation, trial.allocation.cost
    low, high = found.interval
    return {
        "trial": trial.id,
        "title": trial.title,
        "stage": trial.stage,
        "top1": found.top1,
        "low": low,
        "high": high,
        "drop": study.float_evaluation.top1 - found.top1,
        "images": found.images,
        "kl": found.kl,
        "mean_bits": cost.mean_bits,
        "megabytes": cost.megabytes,
        "gbops": cost.gbops,
        "control": trial.control,
    }


def _trial_result(trial: Trial, study: Study) -> Result:
    row = trial_row(trial, study)
    text = (
        f"trial {trial.id} ({trial.title}): {evaluation_text(trial.evaluation)}, {row['drop']:.2f} points below "
        f"float, {row['mean_bits']:.3f} mean bits, {row['megabytes']:.4f} MB, {row['gbops']:.4f} GBOPs"
    )
    return Result(
        text,
        {
            **row,
            "predicted_megabytes": trial.predicted_megabytes,
            "bits": to_plain(dict(trial.allocation.bits)),
            "solution": to_plain(trial.allocation.solution),
            "seconds": trial.seconds,
            "device": trial.device,
            "versions": dict(trial.versions),
            "history": list(trial.history),
        },
        trial.id,
    )
