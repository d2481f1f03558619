"""The comparison of published systems: equal budgets, both engines, controls, and a record that resumes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from lampq_engine import steps
from lampq_engine.files import read_json
from lampq_engine.recipe import DataSpec, QuantizationSpec, Recipe, SensitivitySpec
from lampq_engine.steps.methods import METRICS, MIX, MPTQ
from lampq_engine.store import create_study


def test_every_method_has_both_engines_and_the_same_budget() -> None:
    found = steps.entries(Recipe(), [3.5, 4.0])
    assert {entry.method for entry in found} >= {*METRICS, "MPTQ-ViT", "Control: uniform"}
    for entry in found:
        budgets = entry.recipe.allocation.budgets
        solver = entry.recipe.allocation.solver
        assert solver == "uniform" or budgets.mean_bits == budgets.mean_activation_bits == entry.mean_bits
        own = {"Mix-QViT": MIX, "LRP-QViT": MIX}.get(entry.method, MPTQ)
        assert entry.recipe.quantization == (QuantizationSpec() if entry.engine == "same" else own)
    assert [entry.mean_bits for entry in found if entry.method == "Control: uniform"] == [4.0]


def test_methods_run_and_are_remembered(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(steps.methods, "METRICS", {"LampQ": "lampq", "LRP-QViT": "lrp", "Control: random": "random"})
    study = create_study(Recipe(data=DataSpec(calibration_images=16, validation_images=60)), root=tmp_path)
    base = Recipe(sensitivity=SensitivitySpec(probes=1, relevance_images=4), quantization=QuantizationSpec(images=8))
    done = steps.compare_methods(study, base, [4.0], greedy=False)
    assert len(done) == 6
    for entry, trial in done:
        assert trial.allocation.cost.mean_bits <= 4.0 + 1e-9
        assert trial.evaluation.images == 60
        assert entry.method in trial.title
    rows = read_json(study.path / "methods.json")["rows"]
    assert [row["trial"] for row in rows] == [trial.id for _, trial in done]
    again = steps.compare_methods(study, base, [4.0], greedy=False)
    assert [trial.id for _, trial in again] == [trial.id for _, trial in done]
    assert len(read_json(study.path / "methods.json")["rows"]) == len(done)
    assert replace(done[0][1].recipe, title="").quantization == base.quantization
