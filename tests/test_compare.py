"""Two trials side by side, as records: recipes, classes, flips, and the interval of a paired change."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from pathlib import Path

import pytest
from synthetic_study import make_study

from lampq_engine.compare import change, class_changes, flips, paired, recipe_difference
from lampq_engine.errors import InputError
from lampq_engine.predictions import Predictions, Truth, predictions_of, truth_of, write_predictions, write_truth
from lampq_engine.recipe import Budgets, Recipe
from lampq_engine.types import Bits


def truth_like(classes: list[int], labels: list[int]) -> Truth:
    whole = Predictions("k", tuple(classes), (0.5,) * len(labels))
    return Truth(whole, tuple(labels), tuple(f"cat/{i}.png" for i in range(len(labels))), {0: "cat"})


def test_equal_recipes_differ_in_nothing_and_others_by_name() -> None:
    one = Recipe(title="a")
    assert recipe_difference(one, one) == []
    allocation = replace(one.allocation, budgets=Budgets(mean_bits=2.5), pins={"head": Bits(4, 8)})
    found = recipe_difference(one, replace(one, title="b", allocation=allocation))
    assert {(d.setting, d.first, d.second) for d in found} == {
        ("title", "a", "b"),
        ("allocation.budgets.mean_bits", "", "2.5"),
        ("allocation.pins.head", "", "4/8"),
    }


def test_the_change_counts_flips_by_what_they_did() -> None:
    labels = [0, 0, 0, 1, 1, 2]
    truth = truth_like([0, 0, 1, 1, 1, 0], labels)
    after = Predictions("k", (0, 1, 0, 1, 0, 1), (0.9, 0.1, 0.8, 0.7, 0.2, 0.3))
    whole = change(truth, truth.whole, after)
    assert (whole.images, whole.gained, whole.lost) == (6, 1, 2)
    assert whole.change == pytest.approx(100 * (1 - 2) / 6)
    assert whole.low < whole.change < whole.high
    assert [(f.position, f.kind) for f in flips(truth, truth.whole, after)] == [
        (1, "lost"),
        (4, "lost"),
        (2, "gained"),
        (5, "other"),
    ]
    by_class = {c.name: (c.before, c.after) for c in class_changes(truth, truth.whole, after)}
    assert by_class == {
        "cat": (pytest.approx(200 / 3), pytest.approx(200 / 3)),
        "1": (100.0, 50.0),
        "2": (0.0, 0.0),
    }
    assert sum(c.paired.gained - c.paired.lost for c in class_changes(truth, truth.whole, after)) == -1


@pytest.mark.parametrize(("gained", "lost"), [(0, 0), (3, 11), (11, 3), (40, 40), (0, 7)])
def test_mcnemar_is_the_binomial_test(gained: int, lost: int) -> None:
    n, k = gained + lost, min(gained, lost)
    exact = min(1.0, 2 * sum(math.comb(n, i) for i in range(k + 1)) / 2**n)
    assert paired(gained, lost, 400).p == pytest.approx(exact)


def test_the_paired_interval_covers_the_truth_about_95_times_in_100() -> None:
    source, covered, rounds = random.Random(0), 0, 2000
    for _ in range(rounds):
        draws = [source.random() for _ in range(300)]
        gained, lost = sum(d < 0.02 for d in draws), sum(d > 0.95 for d in draws)
        found = paired(gained, lost, 300)
        covered += found.low <= -3.0 <= found.high
    assert 0.93 < covered / rounds < 0.98


def test_predictions_come_back_as_they_were_written(tmp_path: Path) -> None:
    study = make_study(tmp_path, predictions=False)
    trial = study.trials()[0]
    assert truth_of(study) is None
    truth = truth_like([0, 1], [0, 0])
    assert predictions_of(trial, truth) is None
    found = Predictions("k", (1, 1), (0.25, 0.125))
    write_truth(study, truth)
    write_predictions(trial.path, found)
    assert truth_of(study) == truth
    assert predictions_of(trial, truth) == found
    other = replace(truth, whole=replace(truth.whole, key="other"))
    assert predictions_of(trial, other) is None


def test_damaged_or_foreign_predictions_are_named(tmp_path: Path) -> None:
    study = make_study(tmp_path, predictions=False)
    trial, truth = study.trials()[0], truth_like([0, 1], [0, 0])
    write_predictions(trial.path, Predictions("k", (1,), (0.5,)))
    with pytest.raises(InputError, match=r"predictions.json is damaged: it holds 1 predictions, the study has 2"):
        predictions_of(trial, truth)
    with pytest.raises(InputError, match="not measured on the same images"):
        change(truth, truth.whole, Predictions("other", (1, 1), (0.5, 0.5)))
