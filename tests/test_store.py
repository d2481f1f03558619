"""Studies and trials on disk: there and back, and one sentence for each file that cannot be read."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest

from lampq_engine.controls import random_scores
from lampq_engine.errors import InputError
from lampq_engine.files import write_json
from lampq_engine.plain import to_plain
from lampq_engine.recipe import AllocationSpec, DataSpec, ModelSpec, Recipe
from lampq_engine.records import sensitivity_of, sensitivity_plain
from lampq_engine.store import (
    Study,
    Trial,
    create_study,
    list_studies,
    open_study,
    read_trial,
    studies_root,
    study_name,
    write_trial,
)
from lampq_engine.types import Allocation, Bits, Cost, Evaluation, Layer, Sensitivity, Solution

EVALUATION = Evaluation(400, 78.25, 93.75, 0.9, kl=0.01, agreement=99.0, seconds=1.5)
ALLOCATION = Allocation(
    {"blocks.0.attn.qkv": Bits(3, 3), "head": Bits(8, 32)},
    Cost(3.0, 3.0, 1.25, 0.5),
    Solution("ilp", "optimal", 0.25, 0.25, 0.0, 12.0, ("mean_bits",)),
)
RECIPE = Recipe(title="three bits", allocation=AllocationSpec(pins={"head": Bits(8, 32)}))


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return create_study(RECIPE, tmp_path)


def trial(name: str = "t1", created: float = 1.0) -> Trial:
    history = ({"epoch": 1, "loss": 0.5},)
    return Trial(name, "Three bits", "ptq", RECIPE, ALLOCATION, EVALUATION, created, history=history)


def test_a_study_is_found_again(study: Study, tmp_path: Path) -> None:
    assert study.name == "builtin"
    assert open_study("builtin", tmp_path) == study
    assert list_studies(tmp_path) == [study]
    assert (study.model, study.data) == (ModelSpec(), DataSpec())
    assert create_study(RECIPE, tmp_path) == study


def test_studies_live_where_the_environment_says(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("LAMPQ_STUDIES", str(tmp_path))
    assert studies_root() == tmp_path
    assert create_study(RECIPE) == open_study("builtin")


def test_names_tell_settings_apart() -> None:
    model, data = ModelSpec(name="local-dir:/a/deit_tiny/"), DataSpec(source="/b/Image Net")
    name = study_name(model, data)
    assert name.startswith("deit-tiny-image-net-")
    assert study_name(model, replace(data, seed=1)) != name


def test_a_name_taken_by_other_settings_is_refused(study: Study, tmp_path: Path) -> None:
    other = replace(RECIPE, model=ModelSpec(name="deit_tiny_patch16_224"))
    with pytest.raises(
        InputError, match=r"^The study 'builtin' is of model 'builtin' on 'builtin' with other settings\."
    ):
        create_study(other, tmp_path, "builtin")
    assert study.model == ModelSpec()


def test_an_unknown_study_is_answered_with_those_there_are(study: Study, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^There is no study 'x' under .* Expected one of: builtin\. Make it with"):
        open_study("x", tmp_path)
    with pytest.raises(InputError, match=r"is not a name for a study"):
        open_study("../builtin", tmp_path)


def test_a_trial_there_and_back(study: Study) -> None:
    calibrated = replace(trial(), calibration=replace(EVALUATION, split="calibration"), versions={"torch": "2"})
    written = write_trial(study, calibrated)
    assert written == study.trial("t1") == replace(calibrated, path=study.path / "trials" / "t1")
    assert written.packed.parent == written.path
    assert study.damaged() == []


def test_what_is_not_a_number_comes_back_as_nan(study: Study) -> None:
    nothing = replace(ALLOCATION, solution=Solution("given", "given", math.nan, math.nan, math.nan, 0.0))
    back = write_trial(study, replace(trial(), allocation=nothing, evaluation=Evaluation(4, 50, 100, 1.0)))
    assert math.isnan(back.allocation.solution.harm)
    assert math.isnan(back.evaluation.kl)
    assert back.evaluation.top1 == 50.0


def test_trials_are_listed_oldest_first(study: Study) -> None:
    for name, created in (("b", 3.0), ("a", 2.0), ("c", 1.0)):
        write_trial(study, trial(name, created))
    assert [t.id for t in study.trials()] == ["c", "a", "b"]


@pytest.mark.parametrize(
    ("file", "content", "sentence"),
    [
        ("trial.json", '{"id": "bad", "tit', r"trial\.json is damaged: .* Expected a whole JSON file"),
        ("trial.json", "[]", r"trial\.json is damaged: TypeError"),
        ("trial.json", "{}", r"trial\.json is damaged: KeyError\('allocation'\)\. Expected a whole trial\. Delete the"),
        ("recipe.toml", "[model", r"recipe\.toml is not valid TOML"),
        ("recipe.toml", "x = 1", r"recipe\.toml has no setting 'x'"),
        ("recipe.toml", None, r"trial\.json is damaged: FileNotFoundError"),
    ],
)
def test_a_damaged_trial_is_named_and_the_others_stay(study: Study, file, content, sentence) -> None:
    good, bad = write_trial(study, trial("good")), write_trial(study, trial("bad"))
    if content is None:
        (bad.path / file).unlink()
    else:
        (bad.path / file).write_text(content)
    with pytest.raises(InputError, match=sentence):
        read_trial(bad.path)
    assert study.trials() == [good]
    assert len(study.damaged()) == 1
    assert "bad" in study.damaged()[0]


def test_a_trial_whose_record_is_not_yet_written_is_no_trial(study: Study) -> None:
    path = study.path / "trials" / "half"
    path.mkdir(parents=True)
    (path / "recipe.toml").write_text("")
    assert study.trials() == []
    assert study.damaged() == []


def test_a_truncated_study_file_is_named(study: Study) -> None:
    write_trial(study, trial())
    (study.path / "float.json").write_text('{"key": "k", "value": {"top1"')
    with pytest.raises(InputError, match=r"float\.json is damaged: .*Delete this file and run the command again"):
        _ = study.float_evaluation
    (study.path / "layers.json").write_text('{"key": "k"}')
    with pytest.raises(InputError, match=r"layers\.json is damaged: it holds no value\. Delete this file and"):
        _ = study.costs
    assert "float.json is damaged" in study.damaged()[0]
    assert len(study.trials()) == 1


def test_layers_float_accuracy_and_sensitivities_there_and_back(study: Study) -> None:
    layers = (Layer("blocks.0.fc1", "fc1", 0, 64, 8, 8, 640, 80), Layer("head", "head", None, 80, 10, 10, 80, 8))
    write_json(study.path / "layers.json", {"value": {"layers": to_plain(layers), "fixed_bytes": 77}})
    write_json(study.path / "float.json", {"value": to_plain(EVALUATION)})
    table = random_scores(layers, [Bits(b, b) for b in (2, 4)], base=4, seed=0)
    write_json(study.path / "sensitivity" / "random.json", {"value": sensitivity_plain(table)})
    assert [layer.name for layer in study.costs.layers] == ["blocks.0.fc1", "head"]
    assert study.costs.layers[1].block is None
    assert study.costs.fixed_bytes == 77
    assert study.bypassed == ()
    assert study.float_evaluation == EVALUATION
    assert study.metrics == ("random",)
    assert study.sensitivity("random") == table


def test_a_sensitivity_as_plain_data_is_json(study: Study) -> None:
    table = random_scores([Layer("a", "fc1", 0, 4, 1, 0, 4, 4)], [Bits(2, 32)], base=4, seed=0)
    plain = sensitivity_plain(table)
    assert plain["cells"]["a"][0][:2] == [2, 32]
    assert isinstance(sensitivity_of(plain), Sensitivity)
    with pytest.raises(InputError, match="is not a name for a metric"):
        study.sensitivity("../float")
