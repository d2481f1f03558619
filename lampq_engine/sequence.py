"""Quantizing in sequence: each stage is fitted to what the stages before it, already quantized, make of the images.

Weights are rounded with compensation (`compensate`), and each block may then learn to put out what the float block
does (`reconstruct`).
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lampq_engine.compensate import compensated
from lampq_engine.fitting import Seen, wrap
from lampq_engine.importance import Importance, importances
from lampq_engine.journal import Report
from lampq_engine.quantized import Quantized, place_
from lampq_engine.recipe import QuantizationSpec
from lampq_engine.reconstruct import reconstruct_
from lampq_engine.stages import Call, Stage, calls_of, inputs_of, outputs_of, stages_of
from lampq_engine.tokens import dense
from lampq_engine.types import Bits, Layer


@dataclass(frozen=True, eq=False)
class _Sides:
    """The model that is being quantized and its float copy, with what a stage of both gets."""

    model: nn.Module
    reference: nn.Module
    ours: Sequence[Call]
    theirs: Sequence[Call]


@torch.no_grad()
def quantize_in_sequence_(
    model: nn.Module,
    layers: Sequence[Layer],
    bits: Mapping[str, Bits],
    images: Tensor,
    *,
    spec: QuantizationSpec,
    report: Report,
) -> None:
    """Quantize the layers of a float model in place, stage after stage, on images (N, C, H, W)."""
    reference, done, stages = copy.deepcopy(model).requires_grad_(False), 0, stages_of(layers)
    names = [layer.name for layer in layers] if spec.importance == "fisher" else []
    blocks = [stage.path for stage in stages if len(stage.layers) > 1] if spec.reconstruct else []
    heard = importances(reference, [*names, *blocks], images)
    for stage in stages:
        sides = _Sides(model, reference, calls_of(model, stage.path, images), calls_of(reference, stage.path, images))
        for layer in stage.layers:
            place_(model, {layer.name: _fitted(sides, stage, layer, bits[layer.name], heard.get(layer.name), spec)})
            done += 1
            report("quantize", done, len(layers))
        if stage.path in blocks:
            _reconstruct_(sides, stage, heard[stage.path], spec, report)


def _fitted(
    sides: _Sides, stage: Stage, layer: Layer, bits: Bits, importance: Importance | None, spec: QuantizationSpec
) -> Quantized:
    """One layer fitted to what it gets in the model as it is now; its weight compensated where it has one."""
    op = sides.model.get_submodule(layer.name)
    inputs = inputs_of(sides.model.get_submodule(stage.path), op, sides.ours)
    seen = Seen(op, layer, inputs, spec, importance)
    if spec.compensate == "none" or not dense(op):
        return wrap(seen, bits)
    goal = inputs_of(sides.reference.get_submodule(stage.path), sides.reference.get_submodule(layer.name), sides.theirs)
    return compensated(seen, bits, goal[0], spec.compensate)


def _reconstruct_(sides: _Sides, stage: Stage, importance: Importance, spec: QuantizationSpec, report: Report) -> None:
    target = list(outputs_of(sides.reference.get_submodule(stage.path), sides.theirs))
    before, after = reconstruct_(
        sides.model.get_submodule(stage.path),
        sides.ours,
        target,
        importance,
        epochs=spec.reconstruct,
        learning_rate=spec.reconstruct_rate,
    )
    report("reconstruct", block=stage.path, before=before, after=after)
