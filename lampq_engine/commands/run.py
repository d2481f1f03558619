"""What each command does: build the request, call the engine, say the result as text and as plain data."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from lampq_engine import jobs as job_store
from lampq_engine.allocate import Program
from lampq_engine.commands.request import adjusted, data_spec, model_spec, read_recipe, settings, widths
from lampq_engine.commands.rows import Result, study_row, trial_result, trial_row
from lampq_engine.commands.text import allocation_text, evaluation_text, table
from lampq_engine.errors import InputError
from lampq_engine.files import write_bytes
from lampq_engine.journal import Report
from lampq_engine.plain import to_plain
from lampq_engine.recipe import GenerationSpec, Recipe, SensitivitySpec, TrainingSpec, UpdateSpec, to_toml
from lampq_engine.store import Study, create_study, discard_empty, list_studies, open_study


def studies(options: argparse.Namespace, report: Report) -> Result:
    rows = [study_row(study) for study in list_studies()]
    shown = [{name: value for name, value in row.items() if name != "problem"} for row in rows]
    problems = [row["problem"] for row in rows if "problem" in row]
    return Result("\n".join([table(shown) or "no studies yet; make one with `analyse`", *problems]), rows)


@contextmanager
def _created(recipe: Recipe, name: str = "") -> Iterator[Study]:
    """The study of a recipe; one made here is taken away again if its model or its data turn out to be of no use."""
    before = {study.name for study in list_studies()}
    study = create_study(recipe, name=name)
    try:
        yield study
    except Exception:
        if study.name not in before:
            discard_empty(study)
        raise


def analyse(options: argparse.Namespace, report: Report) -> Result:
    from lampq_engine.steps import LONG_METRICS
    from lampq_engine.steps import analyse as step

    spec = settings(SensitivitySpec(), options)
    with _created(Recipe(model=model_spec(options), data=data_spec(options)), options.study) as study:
        also = (*(() if options.quick else LONG_METRICS), *options.also)
        loaded = step(study, spec=spec, also=also, between=options.pass_on, report=report)
    found = study.float_evaluation
    lines = [f"study {study.name}: {len(loaded.layers)} layers, float {evaluation_text(found)}"]
    lines += [f"skipped {text}" for text in loaded.data.skipped]
    lines += [f"left in float (the model uses its weight without calling it): {name}" for name in loaded.bypassed]
    plain = {
        "study": study.name,
        "float": to_plain(found),
        "interval": found.interval,
        "metrics": list(study.metrics),
        **study.provenance,
    }
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


def explain(options: argparse.Namespace, report: Report) -> Result:
    from lampq_engine.explain import why
    from lampq_engine.solve import check_recipe, metric_of

    study, recipe = _request(options)
    check_recipe(study, recipe)
    metric, budgets = metric_of(study, recipe), recipe.allocation.budgets
    assert metric is not None
    if options.layer not in {layer.name for layer in study.costs.layers}:
        raise InputError(
            f"The model has no layer {options.layer!r}", expected=f"such as {study.costs.layers[0].name!r}"
        )
    program = Program(study.costs, metric, recipe.allocation)
    found = why(program, metric, budgets, program.solve(budgets), options.layer)
    return Result("\n".join([f"{options.layer} has {found.bits}", *found.sentences]), to_plain(found))


def inspect(options: argparse.Namespace, report: Report) -> Result:
    from lampq_engine.steps import inspect_image, inspect_layer

    study, bits = open_study(options.study), widths(options.bits)
    if not options.layer and options.image is None:
        raise InputError("There is nothing to look at", expected="--layer NAME, --image NUMBER, or both")
    views = []
    if options.layer:
        views.append(to_plain(inspect_layer(study, options.layer, bits, report=report)))
    if options.image is not None:
        views.append(to_plain(inspect_image(study, options.image, options.trial or str(bits), report=report)))
    seen = " and ".join(
        [options.layer] * bool(options.layer) + [f"image {options.image}"] * (options.image is not None)
    )
    return Result(f"looked at {seen}; kept in {study.path / 'inspections'}", views)


def frontier(options: argparse.Namespace, report: Report) -> Result:
    from lampq_engine.frontier import frontier as curve
    from lampq_engine.solve import check_recipe, metric_of

    if options.points < 2:
        raise InputError(f"--points is {options.points}", expected="2 or more, the two ends of the range")
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
    return trial_result(step(study, recipe, title=options.title, report=report), study)


def controls(options: argparse.Namespace, report: Report) -> Result:
    from lampq_engine.steps import run_controls

    study, recipe = _request(options)
    trials = run_controls(study, recipe, report=report)
    rows = [trial_row(trial, study) for trial in trials]
    return Result(table(rows), rows, trials[-1].id if trials else "")


def generate(options: argparse.Namespace, report: Report) -> Result:
    from lampq_engine import steps

    study = open_study(options.study)
    spec = settings(GenerationSpec(), options)
    loaded = steps.load(study.model, study.data, report=report)
    made = steps.generate(study, loaded, spec, report)
    first, last = made.curve[0], made.curve[-1]
    text = (
        f"{len(made.images)} images in {made.seconds:.0f} s, loss {first['loss']:.4g} to {last['loss']:.4g}, "
        f"patch entropy {first['entropy']:.4g} to {last['entropy']:.4g}; previews in {made.path}"
    )
    return Result(text, {"images": len(made.images), "seconds": made.seconds, "curve": made.curve})


def methods(options: argparse.Namespace, report: Report) -> Result:
    from lampq_engine.steps import compare_methods

    study, recipe = _request(options)
    budgets = options.at or [recipe.allocation.budgets.mean_bits or 4.0]
    done = compare_methods(study, recipe, budgets, greedy=options.greedy, report=report)
    rows = [
        {
            "method": entry.method,
            "engine": entry.engine,
            "mean bits": entry.mean_bits,
            **{k: v for k, v in trial_row(trial, study).items() if k in ("top1", "low", "high", "drop", "images")},
            "seconds": trial.seconds,
            "trial": trial.id,
        }
        for entry, trial in done
    ]
    return Result(table(rows), rows, done[-1][1].id)


def refine(options: argparse.Namespace, report: Report) -> Result:
    from lampq_engine.steps import refine as step

    study = open_study(options.study)
    update = settings(UpdateSpec(steps=10), options)
    return trial_result(step(study, study.trial(options.trial), update=update, report=report), study)


def finetune(options: argparse.Namespace, report: Report) -> Result:
    from lampq_engine.steps import finetune as step

    study = open_study(options.study)
    training = settings(TrainingSpec(epochs=6), options)
    return trial_result(step(study, study.trial(options.trial), training=training, report=report), study)


def run(options: argparse.Namespace, report: Report) -> Result:
    from lampq_engine import steps

    recipe = read_recipe(options.file)
    any_weights = replace(recipe, model=replace(recipe.model, hash=""))
    with nullcontext(open_study(options.study)) if options.study else _created(any_weights) as study:
        spec, metric = replace(recipe.sensitivity, metric="lampq"), recipe.sensitivity.metric
        if recipe.quantization.calibration == "generated":
            loaded = steps.load(study.model, study.data, report=report)
        else:
            loaded = steps.analyse(study, spec=spec, also=(metric,), report=report)
    plain = replace(recipe, update=UpdateSpec(), training=TrainingSpec())
    trial = steps.quantize(study, plain, title=recipe.title, loaded=loaded, report=report)
    if recipe.update.steps:
        trial = steps.refine(study, trial, update=recipe.update, loaded=loaded, report=report)
    if recipe.training.epochs:
        trial = steps.finetune(study, trial, training=recipe.training, loaded=loaded, report=report)
    return trial_result(trial, study)


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


def report(options: argparse.Namespace, report: Report) -> Result:
    from lampq_engine.report import as_html

    study, path = open_study(options.study), Path(options.to)
    if path.suffix.lower() not in (".html", ".htm"):
        raise InputError(f"--to is {options.to!r}", expected="a file name that ends in .html")
    text = as_html(study, options.trial)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, text.encode())
    return Result(f"{path} ({len(text) / 1e6:.1f} MB)", {"report": str(path)})


def delete(options: argparse.Namespace, report: Report) -> Result:
    from lampq_engine.remove import delete_study, delete_trial

    study = open_study(options.study)
    what = f"the trial {options.trial!r}" if options.trial else f"the study {study.name!r} with all its trials"
    if not options.yes:
        raise InputError(f"Deleting {what} cannot be undone", todo="Give --yes to do it")
    gone = delete_trial(study, options.trial) if options.trial else delete_study(study)
    return Result(f"deleted {gone}", {"deleted": str(gone)})


def export(options: argparse.Namespace, report: Report) -> Result:
    study = open_study(options.study)
    trial = study.trial(options.trial)
    if not trial.packed.is_file():
        raise InputError(f"The trial {trial.id} has no packed file", todo="Run it again")
    folder = Path(options.to)
    folder.mkdir(parents=True, exist_ok=True)
    packed = folder / f"{study.name}-{trial.id}.safetensors"
    write_bytes(packed, trial.packed.read_bytes())
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
    study = open_study(options.study)
    start = read_recipe(options.recipe) if options.recipe else Recipe(sensitivity=study.sensitivity_spec)
    return study, adjusted(start, options)
