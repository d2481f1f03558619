"""The verbs over a study on the built-in model: analyse, quantize, controls, refine, finetune, verify; and resuming."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from lampq_engine import steps
from lampq_engine.compare import change, flips
from lampq_engine.errors import InputError
from lampq_engine.predictions import predictions_of, thumbnail, truth_of
from lampq_engine.quantized import quantized_layers
from lampq_engine.recipe import (
    AllocationSpec,
    Budgets,
    DataSpec,
    QuantizationSpec,
    Recipe,
    SensitivitySpec,
    TrainingSpec,
    UpdateSpec,
    from_toml,
    to_toml,
)
from lampq_engine.steps.quantize import build
from lampq_engine.steps.refine import reconstruction_errors
from lampq_engine.store import Study, create_study, open_study
from lampq_engine.types import Bits

DATA = DataSpec(calibration_images=48, validation_images=80)
RECIPE = Recipe(
    data=DATA,
    sensitivity=SensitivitySpec(probes=1, harm_images=8),
    allocation=AllocationSpec(budgets=Budgets(mean_bits=2.5)),
    quantization=QuantizationSpec(images=16),
)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("studies")


@pytest.fixture(scope="module")
def analysed(root: Path) -> tuple[Study, steps.Loaded]:
    study = create_study(RECIPE, root)
    return study, steps.analyse(study, spec=RECIPE.sensitivity, also=())


def test_analysis_is_whole(analysed: tuple[Study, steps.Loaded]) -> None:
    study, loaded = analysed
    assert len(study.costs.layers) == 74
    assert study.metrics == ("fisher", "lampq", "random")
    assert study.float_evaluation.images == 80
    assert study.float_evaluation.top1 >= 95
    assert not study.damaged()
    assert set(loaded.data.calibration.contents).isdisjoint(loaded.data.validation.contents)
    lampq = study.sensitivity("lampq")
    factors = {factor["kind"]: factor["alpha"] for factor in lampq.notes["factors"]}  # type: ignore[attr-defined]
    fisher = study.sensitivity("fisher")
    kinds = {layer.name: layer.kind for layer in study.costs.layers}
    assert all(lampq.raw[n] == pytest.approx(factors[kinds[n]] * fisher.raw[n]) for n in fisher.raw)


def test_analysis_again_reads_what_is_there(analysed: tuple[Study, steps.Loaded]) -> None:
    study, _ = analysed
    seen: list[str] = []
    steps.analyse(study, spec=RECIPE.sensitivity, also=(), report=lambda stage, *_, **__: seen.append(stage))
    assert set(seen) <= {"load model", "load images", "survey"}


def test_damaged_and_stale_sensitivity_is_made_again(analysed: tuple[Study, steps.Loaded]) -> None:
    study, _ = analysed
    path = study.path / "sensitivity" / "fisher.json"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    assert "fisher.json is damaged" in study.damaged()[0]
    steps.analyse(study, spec=RECIPE.sensitivity, also=())
    assert path.read_bytes() == whole


def test_trial_is_measured_packed_and_recreated(analysed: tuple[Study, steps.Loaded], root: Path) -> None:
    study, loaded = analysed
    trial = steps.quantize(study, RECIPE, loaded=loaded)
    assert trial.evaluation.images == 80
    low, high = trial.evaluation.interval
    assert low <= trial.evaluation.top1 <= high
    assert trial.allocation.cost.mean_bits <= 2.5 + 1e-9
    assert trial.packed.stat().st_size / 1e6 == pytest.approx(trial.allocation.cost.megabytes)
    assert trial.predicted_megabytes == pytest.approx(trial.allocation.cost.megabytes, rel=0.01)
    truth = truth_of(study)
    assert truth
    kept = predictions_of(trial, truth)
    assert kept
    pair = change(truth, truth.whole, kept)
    assert pair.change == pytest.approx(trial.evaluation.top1 - study.float_evaluation.top1)
    for flip in flips(truth, truth.whole, kept):
        with Image.open(thumbnail(study, flip.position)) as picture:
            assert picture.size == (96, 96)
    assert truth.names == {digit: str(digit) for digit in range(10)}
    again = steps.quantize(study, from_toml(to_toml(trial.recipe)), loaded=loaded)
    assert again.id == trial.id
    assert len([t for t in study.trials() if t.id == trial.id]) == 1
    found = steps.verify(trial.packed, study.data)
    assert found.evaluation.top1 == pytest.approx(trial.evaluation.top1)
    assert found.evaluation.loss == pytest.approx(trial.evaluation.loss, abs=1e-5)


def test_recipe_recreates_the_trial_in_a_new_study(analysed: tuple[Study, steps.Loaded], tmp_path: Path) -> None:
    study, loaded = analysed
    trial = steps.quantize(study, RECIPE, loaded=loaded)
    other = create_study(replace(trial.recipe, model=replace(trial.recipe.model, hash="")), tmp_path)
    again = steps.quantize(other, trial.recipe)
    assert again.allocation.bits == trial.allocation.bits
    assert again.evaluation.top1 == trial.evaluation.top1
    assert again.evaluation.loss == pytest.approx(trial.evaluation.loss, abs=1e-6)
    ours, theirs = load_file(trial.packed), load_file(again.packed)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours | theirs)


def test_controls(analysed: tuple[Study, steps.Loaded]) -> None:
    study, loaded = analysed
    found = steps.run_controls(study, RECIPE, loaded=loaded, widths=(2, 4))
    by_control = {control: [t for t in found if t.control == control] for control in ("uniform", "random", "inverted")}
    assert [len(by_control[c]) for c in ("uniform", "random", "inverted")] == [2, 1, 1]
    for trial in (*by_control["random"], *by_control["inverted"]):
        assert 2.4 < trial.allocation.cost.mean_bits <= 2.5 + 1e-9
    lampq = steps.quantize(study, RECIPE, loaded=loaded)
    assert lampq.evaluation.top1 > by_control["inverted"][0].evaluation.top1


def test_refine_never_loses_on_the_calibration_set(analysed: tuple[Study, steps.Loaded]) -> None:
    study, loaded = analysed
    trial = steps.quantize(study, RECIPE, loaded=loaded)
    refined = steps.refine(study, trial, update=UpdateSpec(steps=2, patience=1), loaded=loaded)
    assert refined.stage == "updated"
    assert refined.parent == trial.id
    assert refined.allocation.cost.mean_bits <= trial.allocation.cost.mean_bits + 1e-9
    assert refined.history
    again = steps.refine(study, trial, update=UpdateSpec(steps=2, patience=1), loaded=loaded)
    assert again.id == refined.id


def test_reconstruction_error_is_the_formula(analysed: tuple[Study, steps.Loaded]) -> None:
    """For the first layer, whose input is the image itself, against the printed formula."""
    study, loaded = analysed
    trial = steps.quantize(study, RECIPE, loaded=loaded)
    model = build(loaded, RECIPE, trial.allocation.bits)
    images = loaded.calibration(4)
    errors = reconstruction_errors(loaded.model, model, images)
    first = study.costs.layers[0].name
    wrapped, plain = quantized_layers(model)[first], loaded.model.get_submodule(first)
    with torch.no_grad():
        x = wrapped.input_quantizers[0](images)
        conv = torch.nn.functional.conv2d
        reference = conv(images, plain.weight, stride=plain.stride)  # type: ignore[arg-type]
        ours = conv(x, wrapped.weight_quantizer(wrapped.weight), stride=plain.stride)  # type: ignore[misc, arg-type]
        expected = float((ours - reference).square().sum() / reference.square().sum())
    assert errors[first] == pytest.approx(expected, rel=1e-4)
    assert set(errors) == {layer.name for layer in study.costs.layers if layer.weights}


def test_finetune_improves_on_ptq_and_is_a_trial(analysed: tuple[Study, steps.Loaded]) -> None:
    study, loaded = analysed
    recipe = replace(RECIPE, allocation=AllocationSpec(solver="uniform", uniform=Bits(2, 2)))
    trial = steps.quantize(study, recipe, loaded=loaded)
    training = TrainingSpec(epochs=1, images=256, batch=32)
    trained = steps.finetune(study, trial, training=training, loaded=loaded)
    assert trained.stage == "qat"
    assert trained.evaluation.loss < trial.evaluation.loss
    assert trained.allocation.bits == trial.allocation.bits
    found = steps.verify(trained.packed, study.data)
    assert found.evaluation.loss == pytest.approx(trained.evaluation.loss, abs=1e-5)
    with pytest.raises(InputError, match="has been trained already"):
        steps.finetune(study, trained, training=training, loaded=loaded)


def test_training_alternates_with_bit_updates(analysed: tuple[Study, steps.Loaded]) -> None:
    study, loaded = analysed
    trial = steps.quantize(study, RECIPE, loaded=loaded)
    seen: list[str] = []
    training = TrainingSpec(epochs=2, images=64, batch=32, update_every=1)
    trained = steps.finetune(
        study, trial, training=training, loaded=loaded, report=lambda stage, *_, **__: seen.append(stage)
    )
    assert "update" in seen
    assert trained.allocation.cost.mean_bits <= trial.allocation.cost.mean_bits + 1e-9
    found = steps.verify(trained.packed, study.data)
    assert found.evaluation.loss == pytest.approx(trained.evaluation.loss, abs=1e-5)


def test_recipe_of_another_model_is_refused(analysed: tuple[Study, steps.Loaded]) -> None:
    study, loaded = analysed
    before = sorted(p.name for p in (study.path / "trials").iterdir())
    foreign = replace(RECIPE, model=replace(RECIPE.model, name="deit_base_patch16_224", hash="0123456789abcdef"))
    with pytest.raises(InputError, match="made for another model"):
        steps.quantize(study, foreign, loaded=loaded)
    pinned = replace(RECIPE, allocation=replace(RECIPE.allocation, pins={"layers.3.attn.qkv": Bits(8, 8)}))
    with pytest.raises(InputError, match=r"layers that this model does not have, first 'layers\.3\.attn\.qkv'"):
        steps.quantize(study, pinned, loaded=loaded)
    assert sorted(p.name for p in (study.path / "trials").iterdir()) == before


def test_infeasible_budget_names_the_nearest(analysed: tuple[Study, steps.Loaded]) -> None:
    study, loaded = analysed
    recipe = replace(RECIPE, allocation=replace(RECIPE.allocation, budgets=Budgets(mean_bits=1.2)))
    with pytest.raises(InputError, match=r"mean bits 1\.2 .* at least mean bits 2 "):
        steps.quantize(study, recipe, loaded=loaded)


def test_full_disk_leaves_the_study_whole(
    analysed: tuple[Study, steps.Loaded], monkeypatch: pytest.MonkeyPatch
) -> None:
    import errno
    import os

    study, loaded = analysed
    before = {t.id for t in study.trials()}

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    recipe = replace(RECIPE, allocation=AllocationSpec(solver="uniform", uniform=Bits(5, 5)))
    with pytest.raises(InputError, match="The disk is full: packed"):
        steps.quantize(study, recipe, loaded=loaded)
    monkeypatch.undo()
    assert {t.id for t in study.trials()} == before
    assert not study.damaged()
    assert not list(study.path.rglob(".*.safetensors.*"))
    assert steps.quantize(study, recipe, loaded=loaded).evaluation.images == 80


def test_damaged_trial_is_named_and_others_stay(analysed: tuple[Study, steps.Loaded], root: Path) -> None:
    study, loaded = analysed
    trial = steps.quantize(study, replace(RECIPE, quantization=QuantizationSpec(images=8)), loaded=loaded)
    others = {t.id for t in study.trials()} - {trial.id}
    path = trial.path / "trial.json"
    path.write_text(path.read_text()[:200])
    fresh = open_study(study.name, root)
    assert {t.id for t in fresh.trials()} == others
    assert any(trial.id in sentence and "damaged" in sentence for sentence in fresh.damaged())
    again = steps.quantize(study, replace(RECIPE, quantization=QuantizationSpec(images=8)), loaded=loaded)
    assert again.id == trial.id
    assert not fresh.damaged()


def test_measured_harm_of_two_layers(analysed: tuple[Study, steps.Loaded]) -> None:
    from lampq_engine.sensitivity import measured_harm

    _, loaded = analysed
    layers = [layer for layer in loaded.layers if layer.block == 0][:2]
    pairs = [Bits(b, b) for b in (1, 2, 4, 8)]
    model = loaded.copy()
    few = loaded.data.calibration.subset(range(16))
    found = measured_harm(
        model, layers, few, pairs_of_bits=pairs, quantization=QuantizationSpec(images=16), folds=loaded.folds
    )
    assert not quantized_layers(model)
    for layer in layers:
        harms = [found.cells[layer.name][bits].harm for bits in pairs]
        assert harms == sorted(harms, reverse=True)
        assert all(found.cells[layer.name][bits].error >= 0 for bits in pairs)
