"""Quantization-aware training of a trial: a new trial, whose training resumes where it was cut off."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

from torch import nn

from lampq_engine.allocate import given
from lampq_engine.data import Images, load_dataset
from lampq_engine.errors import InputError
from lampq_engine.files import key_of
from lampq_engine.finetune import finetune_
from lampq_engine.journal import Report, silent
from lampq_engine.models import preprocessing
from lampq_engine.plain import to_plain
from lampq_engine.quantize import quantized_layers
from lampq_engine.recipe import TrainingSpec
from lampq_engine.solve import metric_of
from lampq_engine.steps.analyse import analyse
from lampq_engine.steps.loaded import Loaded, float_logits
from lampq_engine.steps.quantize import build, finished, measure, trial_id
from lampq_engine.store import Study, Trial
from lampq_engine.types import Bits


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
    loaded = loaded or analyse(study, harm=False, report=report)
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


def bits_of(model: nn.Module, bits: Any) -> dict[str, Bits]:
    """The widths that a quantized model really has; layers that are not wrapped keep theirs."""
    found = dict(bits)
    for name, module in quantized_layers(model).items():
        widths = [getattr(q, "bits", 32) for q in module.input_quantizers]
        if module.weight_quantizer is not None:
            found[name] = Bits(module.weight_quantizer.bits, widths[0])
        elif len(widths) == 2:
            found[name] = Bits(widths[1], widths[0])
    return found
