"""LampQ's iterative bit update on a trial: re-quantize, measure on the calibration images, keep what helps."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from lampq_engine.allocate import given
from lampq_engine.errors import InputError
from lampq_engine.evaluate import evaluate
from lampq_engine.files import key_of, once
from lampq_engine.journal import Report, silent
from lampq_engine.plain import to_plain
from lampq_engine.quantize import watch_inputs
from lampq_engine.quantized import quantized_layers
from lampq_engine.recipe import Recipe, UpdateSpec
from lampq_engine.solve import metric_of
from lampq_engine.steps.analyse import analyse, analyse_generated
from lampq_engine.steps.loaded import Loaded, float_logits
from lampq_engine.steps.quantize import build, finished, measure, trial_id
from lampq_engine.store import Study, Trial
from lampq_engine.types import Bits
from lampq_engine.update import Measured, Step, update_bits


@torch.no_grad()
def reconstruction_errors(float_model: nn.Module, quantized: nn.Module, images: Tensor) -> dict[str, float]:
    """Relative output error `||W_q X_q - W X||^2 / ||W X||^2` of every quantized weight layer (LampQ 1.4).

    X is the float model's input, X_q the quantized model's own, so that errors from below count (the paper's
    "quantization feedback").
    """
    names = [name for name, module in quantized_layers(quantized).items() if module.weight_quantizer is not None]
    reference: dict[str, Tensor] = {}
    errors: dict[str, float] = {}

    def product(module: nn.Module, weight: Tensor, x: Tensor) -> Tensor:
        """The layer's output without its bias."""
        bias = getattr(module, "bias", None)
        out = torch.func.functional_call(module, {"weight": weight}, (x,))
        shape = (1, -1, *[1] * (out.dim() - 2)) if isinstance(module, nn.Conv2d) else (-1,)
        return out if bias is None else out - bias.view(shape)

    def see_float(name: str, inputs: tuple[Tensor, ...]) -> None:
        module = float_model.get_submodule(name)
        reference[name] = product(module, module.weight, inputs[0])  # type: ignore[arg-type]

    def see_quantized(name: str, inputs: tuple[Tensor, ...]) -> None:
        wrapped = quantized_layers(quantized)[name]
        x = wrapped.input_quantizers[0](inputs[0])
        assert wrapped.weight_quantizer is not None
        ours, theirs = product(wrapped.op, wrapped.weight_quantizer(wrapped.weight), x), reference.pop(name)
        errors[name] = float((ours - theirs).square().sum() / theirs.square().sum().clamp(min=1e-30))

    with watch_inputs(float_model, names, see_float):
        float_model(images)
    with watch_inputs(quantized, names, see_quantized):
        quantized(images)
    return errors


def refine(
    study: Study, trial: Trial, *, update: UpdateSpec, loaded: Loaded | None = None, report: Report = silent
) -> Trial:
    """Trade bits between pairs of layers while the accuracy on the calibration images rises; a new trial."""
    if trial.stage == "qat":
        raise InputError(
            f"The trial {trial.title!r} has been trained; its bits are not updated after training",
            expected="a trial that was only quantized",
            todo="Refine its parent, or train with `update_every` set",
        )
    if trial.recipe.quantization.calibration == "generated":
        loaded = analyse_generated(study, trial.recipe, loaded, report=report)
    loaded = loaded or analyse(study, also=(), report=report)
    recipe = replace(trial.recipe, update=update)
    name = trial_id(recipe, trial.id, "refine")
    if (found := finished(study, name)) is not None:
        return found
    start = time.perf_counter()
    bits, steps = updated(study, loaded, recipe, trial.allocation.bits, report=report)
    model = build(loaded, recipe, bits)
    return measure(
        study,
        loaded,
        model,
        replace(
            trial,
            id=name,
            title=f"{trial.title}, bits refined",
            stage="updated",
            control="",
            recipe=recipe,
            parent=trial.id,
            allocation=given(loaded.costs, bits, metric_of(study, trial.recipe)),
            created=time.time(),
            history=tuple(steps),
        ),
        start=start,
        report=report,
    )


def updated(
    study: Study, loaded: Loaded, recipe: Recipe, bits: Mapping[str, Bits], *, report: Report
) -> tuple[Mapping[str, Bits], list[dict[str, Any]]]:
    """The bits after the update, and its steps as plain records; every state that was measured is kept on disk."""
    images = loaded.data.calibration
    reference = float_logits(study, loaded, "calibration", report=report)

    def measure_state(state: Mapping[str, Bits]) -> Measured:
        key = key_of(loaded.key, to_plain(recipe.quantization), to_plain(dict(state)))

        def make() -> dict[str, Any]:
            model = build(loaded, recipe, state)
            errors = reconstruction_errors(loaded.model, model, loaded.calibration(recipe.quantization.images))
            found = evaluate(model, images, reference=reference, split="calibration")
            return {"errors": errors, "top1": found.top1, "loss": found.loss}

        return Measured(**once(study.path / "states" / f"{key}.json", key, make)[0])

    final, _, steps = update_bits(
        bits,
        costs=loaded.costs,
        spec=recipe.allocation,
        update=recipe.update,
        limits=recipe.allocation.budgets,
        measure=measure_state,
        report=report,
    )
    return final, [_record(step) for step in steps]


def _record(step: Step) -> dict[str, Any]:
    """One tried pair as a plain record: who traded, what was expected, what was measured."""
    return {
        "up": step.up,
        "down": step.down,
        "gain": step.gain,
        "degradation": step.degradation,
        "accepted": step.accepted,
        "top1_before": step.before.top1,
        "top1": step.after.top1,
        "loss_before": step.before.loss,
        "loss": step.after.loss,
        "mean_bits": step.mean_bits,
    }
