"""Recipes: there and back through TOML, a hash that does not wander, and a sentence for every mistake."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import fields, is_dataclass, replace
from pathlib import Path

import pytest

from lampq_engine.errors import InputError
from lampq_engine.plain import from_plain, help_of, to_plain
from lampq_engine.recipe import (
    AllocationSpec,
    Budgets,
    DataSpec,
    Menu,
    ModelSpec,
    QuantizationSpec,
    Recipe,
    SensitivitySpec,
    TrainingSpec,
    UpdateSpec,
    default_menus,
    from_toml,
    to_toml,
)
from lampq_engine.types import KINDS, Bits

FULL = Recipe(
    title='LampQ "3 bits"',
    source="LampQ",
    model=ModelSpec(name="deit_tiny_patch16_224", hash="abc"),
    data=DataSpec(source="a folder/with spaces", calibration_images=32, seed=7),
    sensitivity=SensitivitySpec(metric="fisher", fisher="sampled", base=8.0),
    allocation=AllocationSpec(
        budgets=Budgets(mean_bits=3.0, gbops=12.5),
        menus={**default_menus(), "qkv": Menu((2, 4, 32), (4, 8), tied=False)},
        pins={"blocks.0.attn.qkv": Bits(8, 32)},
        bits={"head": Bits(4, 4)},
    ),
    quantization=QuantizationSpec(softmax="uniform"),
    update=UpdateSpec(steps=4, strict_paper=True),
    training=TrainingSpec(epochs=3, learning_rate=1e-5),
)
SPECS = (ModelSpec, DataSpec, SensitivitySpec, AllocationSpec, Budgets, QuantizationSpec, UpdateSpec, TrainingSpec)


@pytest.mark.parametrize("recipe", [Recipe(), FULL], ids=["default", "full"])
def test_toml_there_and_back(recipe: Recipe) -> None:
    text = to_toml(recipe)
    assert from_toml(text) == recipe
    assert to_toml(from_toml(text)) == text
    assert from_toml(text).hash == recipe.hash


def test_what_is_left_out_takes_its_default() -> None:
    assert from_toml("") == Recipe()
    text = "[allocation.budgets]\nmean_bits = 3\n[allocation.menus.qkv]\nweights = [4, 8]\nactivations = [4, 8]"
    recipe = from_toml(text)
    assert recipe.allocation.budgets == Budgets(mean_bits=3.0)
    assert recipe.allocation.menu("qkv").options() == (Bits(4, 4), Bits(8, 8))
    assert recipe.allocation.menu("fc1") == Menu()


def test_the_hash_ignores_names_and_how_numbers_are_written() -> None:
    assert replace(FULL, title="another", source="").hash == FULL.hash
    assert from_toml("[sensitivity]\nbase = 4").hash == from_toml("[sensitivity]\nbase = 4.0").hash == Recipe().hash
    shuffled = replace(FULL.allocation, menus=dict(reversed(FULL.allocation.menus.items())))
    assert replace(FULL, allocation=shuffled).hash == FULL.hash
    integers = replace(FULL, allocation=replace(FULL.allocation, budgets=Budgets(mean_bits=3, gbops=12.5)))
    assert integers.hash == FULL.hash


def test_the_hash_sees_every_setting() -> None:
    changed = [
        replace(FULL, model=replace(FULL.model, checkpoint="x")),
        replace(FULL, data=replace(FULL.data, seed=8)),
        replace(FULL, sensitivity=replace(FULL.sensitivity, probes=0)),
        replace(FULL, allocation=replace(FULL.allocation, pins={})),
        replace(FULL, allocation=replace(FULL.allocation, budgets=Budgets(mean_bits=3.0))),
        replace(FULL, quantization=replace(FULL.quantization, bias="keep")),
        replace(FULL, update=replace(FULL.update, patience=0)),
        replace(FULL, training=replace(FULL.training, seed=1)),
    ]
    assert len({recipe.hash for recipe in [FULL, *changed]}) == len(changed) + 1


def test_the_hash_is_the_same_in_another_process() -> None:
    code = "from lampq_engine.recipe import Recipe; print(Recipe().hash)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parents[1])
    assert run.stdout.strip() == Recipe().hash


def test_every_setting_has_help() -> None:
    for spec in SPECS:
        for field in fields(spec):
            assert is_dataclass(field.default) or help_of(spec, field.name), (spec, field.name)


WRONG = {
    "[": r"^recipe is not valid TOML: .* Correct that line, or export the recipe again\.$",
    "colour = 1": r"^recipe has no setting 'colour'\. Expected only title, source, model, .*\. Correct its name\.$",
    "[model]\nnme = 'x'": r"^recipe\.model has no setting 'nme'\. Expected only name, checkpoint, hash\.",
    "model = 3": r"^The setting recipe\.model is 3\. Expected a table of the settings of ModelSpec\.",
    "[data]\nseed = 1.5": r"^The setting recipe\.data\.seed is 1\.5\. Expected a value of type int\.",
    "[data]\nseed = true": r"recipe\.data\.seed is True\. Expected a value of type int\.",
    "[data]\nsource = 5": r"recipe\.data\.source is 5\. Expected a value of type str\.",
    "[data]\ncalibration_images = -1": r"data\.calibration_images is -1\. Expected 0 \(all of them\) or a positive",
    "[sensitivity]\nbase = '4'": r"recipe\.sensitivity\.base is '4'\. Expected a value of type float\.",
    "[sensitivity]\nbase = 1": r"^The setting sensitivity\.base is 1\.0\. Expected a number above 1\. Change sens",
    "[sensitivity]\nbase = nan": r"sensitivity\.base is nan\. Expected a number above 1\.",
    "[sensitivity]\nmetric = 'magic'": r"setting metric is 'magic'\. Expected one of lampq, fisher, output, harm",
    "[sensitivity]\nprobe_bits = 0": r"sensitivity\.probe_bits is 0\. Expected a width from 1 to",
    "[sensitivity]\nprobes = -1": r"sensitivity\.probes is -1\. Expected 0 \(all layers\)",
    "[sensitivity]\nharm_images = 0": r"sensitivity\.harm_images is 0\. Expected a positive number\.",
    "[allocation]\nsolver = 'annealing'": r"setting solver is 'annealing'\. Expected one of ilp, greedy, uniform",
    "[allocation]\nuniform = [9, 9]": r"recipe\.allocation\.uniform is \[9, 9\]\. Expected two widths, \[weights, act",
    "[allocation]\nuniform = 4": r"recipe\.allocation\.uniform is 4\. Expected two widths",
    "[allocation]\npins = 4": r"recipe\.allocation\.pins is 4\. Expected a table\.",
    "[allocation.pins]\n'blocks.0' = [4]": r"recipe\.allocation\.pins\.blocks\.0 is \[4\]\. Expected two widths",
    "[allocation.menus.attn]": r"^The setting allocation\.menus is \['attn'\]\. Expected only the kinds of layers",
    "[allocation.menus.qkv]\nweights = []": r"^The setting menu\.weights is \[\]\. Expected one or more widths from",
    "[allocation.menus.qkv]\nweights = [9]": r"menu\.weights is \[9\]\. Expected one or more widths",
    "[allocation.menus.qkv]\nactivations = ['4']": r"menu\.activations is \['4'\]\. Expected one or more widths",
    "[allocation.menus.qkv]\nweights = 4": r"recipe\.allocation\.menus\.qkv\.weights is 4\. Expected a list\.",
    "[allocation.budgets]\nmean_bits = 0": r"^The setting budgets\.mean_bits is 0\.0\. Expected a positive number\.",
    "[allocation.budgets]\ngbops = inf": r"budgets\.gbops is inf\. Expected a positive number\.",
    "[allocation.budgets]\nmegabytes = true": r"budgets\.megabytes is True\. Expected a value of type float\.",
    "[quantization]\nrange = 'max'": r"setting range is 'max'\. Expected one of output, mse, minmax\.",
    "[quantization]\nimages = 0": r"quantization\.images is 0\. Expected a positive number\.",
    "[update]\nsteps = -1": r"^The setting update is \(-1, 2\)\. Expected numbers from 0\.",
    "[training]\nepochs = -1": r"training\.epochs is -1\. Expected 0 or a positive number\.",
    "[training]\nbatch = 0": r"training\.batch is 0\. Expected a positive number\.",
    "[training]\ntemperature = 0": r"training\.temperature is 0\.0\. Expected a positive number\.",
    "[training]\ndistill = 1.5": r"training\.distill is 1\.5\. Expected a share from 0 to 1\.",
    "[training]\nwarmup = nan": r"training\.warmup is nan\. Expected a share from 0 to 1\.",
}


@pytest.mark.parametrize("text", WRONG)
def test_a_mistake_gets_one_sentence(text: str) -> None:
    with pytest.raises(InputError, match=WRONG[text]):
        from_toml(text)


def test_a_missing_setting_is_named() -> None:
    from lampq_engine.types import Cost

    with pytest.raises(InputError, match=r"^cost lacks the setting megabytes, gbops\. Add it\.$"):
        from_plain(Cost, {"mean_bits": 3.0, "mean_activation_bits": 3.0}, "cost")


def test_menus_offer_pairs_that_are_tied_where_both_may_be_equal() -> None:
    assert Menu((4, 2), (4, 2)).options() == (Bits(2, 2), Bits(4, 4))
    assert Menu((4, 2), (4, 2), tied=False).options() == (Bits(2, 2), Bits(2, 4), Bits(4, 2), Bits(4, 4))
    assert Menu((8,), (4, 2)).options() == (Bits(8, 2), Bits(8, 4))
    assert set(default_menus()) == set(KINDS)


def test_plain_data_leaves_out_what_is_absent() -> None:
    assert to_plain(Budgets(mean_bits=3)) == {"mean_bits": 3}
    assert to_plain({"a": (Bits(1, 2), None)}) == {"a": [[1, 2], None]}


def test_an_error_is_one_line_of_sentences() -> None:
    assert str(InputError("It broke.", expected="more", todo="Try again.")) == "It broke. Expected more. Try again."
    assert str(InputError("It broke")) == "It broke."
