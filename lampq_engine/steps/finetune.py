"""Quantization-aware training of a trial: a new trial, whose training resumes where it was cut off."""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping
from dataclasses import replace

from torch import nn

from lampq_engine.allocate import given
from lampq_engine.data import Images, load_dataset
from lampq_engine.errors import InputError
from lampq_engine.evaluate import evaluate
from lampq_engine.files import key_of
from lampq_engine.finetune import finetune_
from lampq_engine.journal import Report, silent
from lampq_engine.models import preprocessing
from lampq_engine.plain import to_plain
from lampq_engine.quantize import refit_
from lampq_engine.quantized import quantized_layers
from lampq_engine.recipe import Recipe, TrainingSpec
from lampq_engine.solve import metric_of
from lampq_engine.steps.analyse import analyse
from lampq_engine.steps.loaded import Loaded, float_logits
from lampq_engine.steps.quantize import build, finished, measure, trial_id
from lampq_engine.steps.refine import reconstruction_errors
from lampq_engine.store import Study, Trial
from lampq_engine.types import FLOAT_BITS, Bits
from lampq_engine.update import Measured, update_bits


def training_images(study: Study, loaded: Loaded, limit: int) -> Images:
    """Every image of the study's calibration source that is not a validation image; at most `limit` unless it is 0."""
    data = study.data
    pool = load_dataset(
        data.source,
        model_config=preprocessing(loaded.model),
        num_classes=int(getattr(loaded.model, "num_classes", 0)),
        calibration_images=0,
        validation_images=data.validation_images,
        seed=data.seed,
        calibration_source=data.calibration_source,
    ).calibration
    held_out = set(loaded.data.validation.contents)
    allowed = [i for i, content in enumerate(pool.contents) if content not in held_out]
    return pool.subset(allowed[:limit] if limit else allowed)


def finetune(
    study: Study, trial: Trial, *, training: TrainingSpec, loaded: Loaded | None = None, report: Report = silent
) -> Trial:
    """Train a quantized trial with learned step sizes against the float teacher; measured and packed like any other."""
    if trial.stage == "qat":
        raise InputError(
            f"The trial {trial.title!r} has been trained already",
            expected="a trial that was quantized or refined",
            todo="Train its parent with more epochs",
        )
    if trial.recipe.quantization.calibration == "generated":
        raise InputError(
            f"The trial {trial.title!r} is calibrated on generated images and would train on real ones",
            expected="a trial that may see real images",
            todo="Train one whose recipe calibrates on real images",
        )
    loaded = loaded or analyse(study, also=(), report=report)
    recipe = replace(trial.recipe, training=training)
    name = trial_id(recipe, trial.id, "finetune")
    if (found := finished(study, name)) is not None:
        return found
    start = time.perf_counter()
    report("quantize", 0, 1)
    model = build(loaded, recipe, trial.allocation.bits)
    images = training_images(study, loaded, training.images)
    history = finetune_(
        model,
        teacher=loaded.model,
        training=images,
        validation=loaded.data.validation,
        reference=float_logits(study, loaded, "validation"),
        spec=training,
        folder=study.path / "trials" / name,
        key=key_of(loaded.key, images.hash, to_plain(recipe)),
        report=report,
        on_epoch=lambda epoch: trade_bits_(model, study, loaded, recipe, trial.allocation.bits, report=report),
    )
    bits = bits_of(model, trial.allocation.bits)
    return measure(
        study,
        loaded,
        model,
        replace(
            trial,
            id=name,
            title=f"{trial.title}, QAT {training.epochs} epochs",
            stage="qat",
            control="",
            recipe=recipe,
            parent=trial.id,
            allocation=given(loaded.costs, bits, metric_of(study, trial.recipe)),
            created=time.time(),
            history=tuple(history),
        ),
        start=start,
        report=report,
    )


def trade_bits_(
    model: nn.Module, study: Study, loaded: Loaded, recipe: Recipe, bits: Mapping[str, Bits], *, report: Report
) -> None:
    """Let one pair of layers of a model in training trade a bit if accuracy on the calibration images rises.

    The two layers' quantizers are fitted anew on the weights as trained so far (our choice); all others stay.
    """
    now = bits_of(model, bits)
    images = loaded.calibration(recipe.quantization.images)
    tried: dict[str, nn.Module] = {}

    def measure_state(state: Mapping[str, Bits]) -> Measured:
        changed = {name: pair for name, pair in state.items() if pair != now[name]}
        other = copy.deepcopy(model).eval()
        refit_(other, loaded.layers, changed, images, recipe.quantization)
        tried[key_of(to_plain(dict(state)))] = other
        found = evaluate(other, loaded.data.calibration, split="calibration")
        return Measured(reconstruction_errors(loaded.model, other, images), found.top1, found.loss)

    final, _, _ = update_bits(
        now,
        costs=loaded.costs,
        spec=recipe.allocation,
        update=replace(recipe.update, steps=1, patience=0),
        limits=recipe.allocation.budgets,
        measure=measure_state,
        report=report,
    )
    best = tried[key_of(to_plain(dict(final)))]
    for name in (name for name, pair in final.items() if pair != now[name]):
        model.set_submodule(name, best.get_submodule(name))


def bits_of(model: nn.Module, bits: Mapping[str, Bits]) -> dict[str, Bits]:
    """The widths that a quantized model really has; layers that are not wrapped keep theirs."""
    found = dict(bits)
    for name, module in quantized_layers(model).items():
        widths = [getattr(q, "bits", FLOAT_BITS) for q in module.input_quantizers]
        if len(widths) == 2:
            found[name] = Bits(widths[1], widths[0])
        else:
            quantizer = module.weight_quantizer
            found[name] = Bits(FLOAT_BITS if quantizer is None else quantizer.bits, widths[0])
    return found
