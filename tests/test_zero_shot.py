"""Generated calibration images: their objective, their resume, and that nothing zero-shot touches a real image."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from lampq_engine import steps
from lampq_engine.data import Images
from lampq_engine.errors import InputError
from lampq_engine.recipe import (
    AllocationSpec,
    Budgets,
    DataSpec,
    GenerationSpec,
    Menu,
    QuantizationSpec,
    Recipe,
    SensitivitySpec,
    TrainingSpec,
    default_menus,
)
from lampq_engine.steps.analyse import analyse_generated
from lampq_engine.steps.generate import bounds, zero_shot
from lampq_engine.store import Study, create_study
from lampq_engine.types import Bits
from lampq_engine.zero_shot import patch_entropy, total_variation

SHORT = GenerationSpec(images=6, iterations=8, rounds=2, batch=3, flip=False)
PSAQ = QuantizationSpec(
    grid="symmetric_weights", range="minmax", fold="none", bias="keep", softmax="uniform", calibration="generated"
)


def small_study(root: Path) -> Study:
    return create_study(Recipe(data=DataSpec(calibration_images=16, validation_images=60)), root=root)


def blind(loaded: steps.Loaded) -> steps.Loaded:
    """The same study with calibration images that nobody may look at."""

    def refuse(_: int) -> Tensor:
        raise AssertionError("a real calibration image was looked at")

    real = loaded.data.calibration
    return replace(
        loaded, data=replace(loaded.data, calibration=Images(real.names, real.labels, real.contents, refuse))
    )


def test_patch_entropy_is_the_formula() -> None:
    """Oracle: PSAQ-ViT's density at 10 points, written as loops over all pairs."""
    context = torch.randn(2, 3, 7, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    total = 0.0
    for image in context.mean(1)[:, 1:]:
        unit = image / image.norm(dim=1, keepdim=True)
        similar = [float(a @ b) for a in unit for b in unit]
        low, high = min(similar), max(similar)
        points = [low + (high - low) * i / 9 for i in range(10)]
        density = [
            sum(math.exp(-0.5 * ((p - s) / 0.01) ** 2) for s in similar)
            / len(similar)
            / (0.01 * math.sqrt(2 * math.pi))
            for p in points
        ]
        values = [-p * math.log(p + 1e-4) for p in density]
        total += sum((values[i] + values[i + 1]) / 2 * (points[i + 1] - points[i]) for i in range(9))
    assert float(patch_entropy(context, 1)) == pytest.approx(total / 2, rel=1e-6)


def test_diverse_patches_have_more_entropy() -> None:
    source = torch.Generator().manual_seed(0)
    alike = torch.ones(2, 3, 30, 8) + 0.01 * torch.randn(2, 3, 30, 8, generator=source)
    assert float(patch_entropy(torch.randn(2, 3, 30, 8, generator=source))) > float(patch_entropy(alike))


def test_total_variation_of_a_ramp() -> None:
    ramp = torch.arange(4.0).expand(1, 1, 4, 4)
    assert float(total_variation(ramp)) == pytest.approx(12**0.5 + 0 + 3 + 3)


def test_generation_resumes_batch_by_batch(tmp_path: Path) -> None:
    study = small_study(tmp_path)
    loaded = blind(steps.load(study.model, study.data))
    made = steps.generate(study, loaded, SHORT)
    assert len(made.images) == 6
    low, high = bounds({"mean": [0.5], "std": [0.5]})
    assert torch.equal(low.flatten(), torch.tensor([-1.0]))
    assert torch.equal(high.flatten(), torch.tensor([1.0]))
    assert len(made.curve) == 16
    assert all(math.isfinite(row["loss"]) for row in made.curve)
    assert len(list(made.path.glob("*.png"))) == 6
    times = {path: path.stat().st_mtime_ns for path in made.path.glob("batch-*")}
    (made.path / "batch-001.safetensors").unlink()
    again = steps.generate(study, loaded, SHORT)
    assert torch.equal(again.images.tensor(), made.images.tensor())
    assert again.images.hash == made.images.hash
    assert (made.path / "batch-000.safetensors").stat().st_mtime_ns == times[made.path / "batch-000.safetensors"]
    other = steps.generate(study, loaded, replace(SHORT, seed=1))
    assert not torch.equal(other.images.tensor(), made.images.tensor())


@pytest.mark.parametrize("metric", ["lampq", "output", "mixqvit", "nuclear", "hessian"])
def test_zero_shot_never_touches_a_real_image(metric: str, tmp_path: Path) -> None:
    study = small_study(tmp_path)
    loaded = blind(steps.load(study.model, study.data))
    menus = {kind: replace(menu, activations=(8,), tied=False) for kind, menu in default_menus().items()}
    recipe = Recipe(
        data=study.data,
        sensitivity=SensitivitySpec(metric=metric, probes=1, varied_images=2, relevance_images=2, hessian_samples=1),
        allocation=AllocationSpec(budgets=Budgets(mean_bits=4.0), menus={**menus, "head": Menu((8,), (8,))}),
        quantization=PSAQ,
        generation=SHORT,
    )
    trial = steps.quantize(study, recipe, loaded=loaded)
    assert trial.evaluation.images == 60
    assert trial.allocation.cost.mean_bits <= 4.0 + 1e-9
    assert {bits.activations for bits in trial.allocation.bits.values()} == {8}
    assert metric in study.zero_shot.metrics
    assert metric not in study.metrics  # what was measured on generated images stays apart
    with pytest.raises(InputError, match="would train on real ones"):
        steps.finetune(study, trial, training=TrainingSpec(epochs=1), loaded=loaded)


def test_uniform_zero_shot_needs_no_metric(tmp_path: Path) -> None:
    study = small_study(tmp_path)
    loaded = blind(steps.load(study.model, study.data))
    recipe = Recipe(
        data=study.data,
        allocation=AllocationSpec(solver="uniform", uniform=Bits(4, 8)),
        quantization=PSAQ,
        generation=SHORT,
    )
    assert (
        analyse_generated(study, recipe, loaded).data.calibration.hash
        == zero_shot(study, loaded, SHORT).data.calibration.hash
    )
    assert steps.quantize(study, recipe, loaded=loaded).evaluation.images == 60
    assert study.zero_shot.metrics == ()


def test_the_loss_falls(tmp_path: Path) -> None:
    study = small_study(tmp_path)
    loaded = blind(steps.load(study.model, study.data))
    short = GenerationSpec(images=4, iterations=60, rounds=1, batch=4, flip=False, learning_rate=0.05)
    made = steps.generate(study, loaded, short)
    assert made.curve[-1]["loss"] < 0.8 * made.curve[0]["loss"]
