"""What a pass costs beside the same pass in float: Fisher, quantized forward, QAT step; and the packed file's size."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import torch
import torch.nn.functional as F
from timing import Line, ratio
from torch import nn

from lampq_engine import finetune as qat
from lampq_engine import steps
from lampq_engine.allocate import Program
from lampq_engine.controls import random_scores
from lampq_engine.pack import write_packed
from lampq_engine.recipe import (
    AllocationSpec,
    Budgets,
    DataSpec,
    GenerationSpec,
    ModelSpec,
    QuantizationSpec,
    Recipe,
    TrainingSpec,
)
from lampq_engine.sensitivity import fisher_traces
from lampq_engine.steps.quantize import build
from lampq_engine.store import Study
from lampq_engine.types import Bits

SHARED = Path(__file__).parents[3] / "shared"
DEIT = SHARED / "models" / "deit_tiny_patch16_224"
SAMPLE = SHARED / "data" / "imagenet_sample"
QUANTIZATION = QuantizationSpec(images=8, range="minmax")  # how ranges are found costs nothing later


@dataclass(frozen=True)
class Case:
    """A model, its images and the batch it is measured with."""

    name: str
    model: ModelSpec
    data: DataSpec
    batch: int
    fisher_images: int


BUILTIN = Case("built-in model", ModelSpec(), DataSpec(calibration_images=128, validation_images=64), 64, 128)
TINY = Case(
    "DeiT-Tiny",
    ModelSpec(name=f"local-dir:{DEIT}"),
    DataSpec(source=str(SAMPLE), calibration_images=32, validation_images=16),
    16,
    32,
)


def cases() -> list[Case]:
    """The built-in model, and real DeiT-Tiny weights where they lie beside the project."""
    return [BUILTIN, TINY] if DEIT.is_dir() and SAMPLE.is_dir() else [BUILTIN]


@cache
def loaded(case: Case) -> steps.Loaded:
    return steps.load(case.model, case.data)


def mean_4(case: Case) -> Mapping[str, Bits]:
    """Mixed precision at mean 4 bits; what is not searched takes 8."""
    pairs = [Bits(b, b) for b in range(1, 9)]
    spec = AllocationSpec(budgets=Budgets(mean_bits=4))
    it = loaded(case)
    return Program(it.costs, random_scores(it.layers, pairs, base=4, seed=0), spec).solve(spec.budgets).bits


def mixed(case: Case) -> nn.Module:
    """The model quantized to `mean_4`."""
    return build(loaded(case), Recipe(quantization=QUANTIZATION), mean_4(case))


def fisher() -> list[Line]:
    """Fisher traces of every layer, against forward and backward with all weight gradients over the same images."""
    return [_fisher(case) for case in cases()]


def _fisher(case: Case, size: int = 16) -> Line:
    it = loaded(case)
    images = it.data.calibration.subset(range(case.fisher_images))
    model = copy.deepcopy(it.model).eval()

    def plain() -> None:
        for x, y in images.batches(size):
            model.zero_grad()
            F.cross_entropy(model(x.to(it.device)), y.to(it.device), reduction="sum").backward()

    def ours() -> None:
        fisher_traces(it.model, it.layers, images, batch=size)

    what = f"Fisher of all layers / plain forward and backward, {case.name}, {len(images)} images"
    return ratio(what, 1.2, plain=plain, ours=ours, count=5)


def forward() -> list[Line]:
    """A quantized forward against the float one."""
    return [_forward(case) for case in cases()]


def _forward(case: Case) -> Line:
    it, model = loaded(case), mixed(case)
    x = it.calibration(case.batch)

    def run(one: nn.Module) -> Callable[[], object]:
        return torch.no_grad()(lambda: one(x))

    what = f"quantized forward / float forward, {case.name}, batch {len(x)}"
    return ratio(what, 2, plain=run(it.model), ours=run(model), count=11)


def training() -> list[Line]:
    """A QAT step against a float training step, with and without the teacher's forward."""
    return [_training(case, distill) for case in cases() for distill in (0.0, 0.9)]


def _training(case: Case, distill: float) -> Line:
    it, spec = loaded(case), TrainingSpec(epochs=1, distill=distill)
    count = min(case.batch, len(it.data.calibration))
    x, y = it.calibration(count), it.data.calibration.labels[:count].to(it.device)
    student, model = mixed(case), copy.deepcopy(it.model)
    qat.learn_(student)
    plain = _step(model, lambda: F.cross_entropy(model(x), y), spec)
    ours = _step(student, lambda: qat.objective(student, it.model, x, y, spec), spec)
    what = f"QAT step {'with' if distill else 'without'} teacher / float step, {case.name}, batch {count}"
    return ratio(what, 2, plain=plain, ours=ours, count=7)


def _step(model: nn.Module, loss: Callable[[], torch.Tensor], spec: TrainingSpec) -> Callable[[], None]:
    optimizer = qat.new_optimizer(model.train(), replace(spec, learning_rate=1e-6))

    def step() -> None:
        value = loss()
        optimizer.zero_grad()
        value.backward()
        optimizer.step()

    return step


def packed() -> list[Line]:
    """The packed file's size against what the cost model, and so the slider, said before."""
    return [_packed(case) for case in cases()]


def _packed(case: Case) -> Line:
    it, bits = loaded(case), mean_4(case)
    recipe = Recipe(model=case.model, data=case.data, allocation=AllocationSpec(solver="given", bits=dict(bits)))
    with tempfile.TemporaryDirectory() as folder:
        size = write_packed(Path(folder) / "packed.safetensors", mixed(case), recipe) / 1e6
    predicted = it.costs.cost(bits).megabytes
    off = 100 * abs(size / predicted - 1)
    text = f"{off:.2f} % ({size:.3f} MB, predicted {predicted:.3f} MB)"
    return Line(f"packed file / predicted megabytes, {case.name}, mean 4 bits", "1 % off", text, 1, off <= 1)


def generation() -> list[Line]:
    """32 calibration images from the model alone, 40 steps a batch of 8, and how far the loss fell."""
    lines = []
    for case in cases():
        spec = GenerationSpec(iterations=40, rounds=1, flip=case is not BUILTIN)
        with tempfile.TemporaryDirectory() as folder:
            made = steps.generate(Study(Path(folder)), loaded(case), spec)
        course = [made.curve[i]["loss"] for i in (0, len(made.curve) // 2, -1)]
        text = f"{made.seconds:.0f} s, loss {course[0]:.1f}, {course[1]:.1f}, {course[2]:.1f}"
        lines.append(Line(f"32 generated images, {case.name}, 40 steps", "15 min", text, 1, made.seconds <= 900))
    return lines
