"""Two trials side by side: what was asked differently, which classes changed, which images flipped, and how surely."""

from __future__ import annotations

import csv
import io
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lampq_engine.errors import InputError
from lampq_engine.plain import to_plain
from lampq_engine.predictions import Predictions, Truth
from lampq_engine.recipe import Recipe
from lampq_engine.store import Study, Trial
from lampq_engine.types import Cost

Z = 1.959964  # 95 % of a normal distribution


@dataclass(frozen=True)
class Difference:
    """One setting in which two recipes differ, as text; empty where a recipe lacks it."""

    setting: str
    first: str
    second: str


@dataclass(frozen=True)
class Paired:
    """The change of accuracy between two models on the same images, with its 95 % interval, in points."""

    images: int
    gained: int  # wrong before, right after
    lost: int  # right before, wrong after
    low: float
    high: float
    p: float  # exact McNemar test: how probable so uneven a split of the flips is if nothing changed

    @property
    def change(self) -> float:
        """Accuracy after minus accuracy before, in points."""
        return 100 * (self.gained - self.lost) / self.images if self.images else 0.0


@dataclass(frozen=True)
class ClassChange:
    """How the accuracy on the images of one class changed."""

    number: int
    name: str
    before: float  # percent
    after: float  # percent
    paired: Paired


@dataclass(frozen=True)
class Flip:
    """An image on which two models predict different classes."""

    position: int  # among the validation images
    image: str
    label: int
    before: int
    after: int
    probability_before: float  # of the true class
    probability_after: float

    @property
    def kind(self) -> str:
        """`lost` (right before), `gained` (right after) or `other` (wrong both times)."""
        return "lost" if self.before == self.label else "gained" if self.after == self.label else "other"


def recipe_difference(first: Recipe, second: Recipe) -> list[Difference]:
    """Every setting in which two recipes differ, by its dotted name."""
    one, two = _flat(to_plain(first)), _flat(to_plain(second))
    names = [name for name in (*one, *(n for n in two if n not in one)) if one.get(name) != two.get(name)]
    return [Difference(name, one.get(name, ""), two.get(name, "")) for name in names]


def _flat(plain: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    found: dict[str, str] = {}
    for name, value in plain.items():
        if isinstance(value, Mapping):
            found |= _flat(value, f"{prefix}{name}.")
        else:
            found[f"{prefix}{name}"] = "/".join(map(str, value)) if isinstance(value, list) else str(value)
    return found


def paired(gained: int, lost: int, images: int) -> Paired:
    """The paired change of accuracy: interval after Agresti and Min (2005), exact McNemar test (1947).

    The interval is Wald's after half an image is added to each of the four cells, which keeps 95 % on few flips too.
    """
    total = images + 2
    share = (gained - lost) / total
    spread = math.sqrt(max(0.0, (gained + lost + 1) / total - share * share) / total)
    low, high = max(-1.0, share - Z * spread), min(1.0, share + Z * spread)
    return Paired(images, gained, lost, 100 * low, 100 * high, _mcnemar(gained, lost))


def _mcnemar(gained: int, lost: int) -> float:
    flips, fewer = gained + lost, min(gained, lost)
    logs = [math.lgamma(flips + 1) - math.lgamma(k + 1) - math.lgamma(flips - k + 1) for k in range(fewer + 1)]
    return min(1.0, 2 * math.fsum(math.exp(log - flips * math.log(2)) for log in logs))


def change(truth: Truth, before: Predictions, after: Predictions) -> Paired:
    """How accuracy changed from one model to the other over all validation images."""
    _same_images(truth, before, after)
    return _paired_at(range(len(truth.labels)), truth, before, after)


def class_changes(truth: Truth, before: Predictions, after: Predictions) -> list[ClassChange]:
    """How accuracy changed on the images of each class, the greatest loss first."""
    _same_images(truth, before, after)
    members: dict[int, list[int]] = defaultdict(list)
    for position, label in enumerate(truth.labels):
        members[label].append(position)
    found = []
    for label, positions in members.items():
        one, two = (100 * sum(p.classes[i] == label for i in positions) / len(positions) for p in (before, after))
        found.append(ClassChange(label, truth.name(label), one, two, _paired_at(positions, truth, before, after)))
    return sorted(found, key=lambda one: (one.paired.change, one.number))


def flips(truth: Truth, before: Predictions, after: Predictions) -> list[Flip]:
    """Every image on which the two models differ: what was lost first, the surest before it flipped foremost."""
    _same_images(truth, before, after)
    rows = zip(truth.images, truth.labels, before.classes, after.classes, strict=True)
    found = [
        Flip(i, image, label, one, two, before.probabilities[i], after.probabilities[i])
        for i, (image, label, one, two) in enumerate(rows)
        if one != two
    ]
    order = {"lost": 0, "gained": 1, "other": 2}
    return sorted(found, key=lambda flip: (order[flip.kind], -abs(flip.probability_before - flip.probability_after)))


def _paired_at(positions: Sequence[int], truth: Truth, before: Predictions, after: Predictions) -> Paired:
    right = [(before.classes[i] == truth.labels[i], after.classes[i] == truth.labels[i]) for i in positions]
    return paired(right.count((False, True)), right.count((True, False)), len(right))


def _same_images(truth: Truth, *found: Predictions) -> None:
    if any(one.key != truth.whole.key for one in found):
        raise InputError(
            "The two were not measured on the same images and weights",
            expected="two trials of one study, measured since its last analysis",
            todo="Run the older one again",
        )


def trial_rows(found: Sequence[tuple[Study, Trial]], against: Cost, top1: float) -> list[dict[str, Any]]:
    """One plain row a trial: what was measured with its interval, what it costs, and both against a reference."""
    rows = []
    for study, trial in found:
        measured, cost = trial.evaluation, trial.allocation.cost
        low, high = measured.interval
        rows.append(
            {
                "study": study.name,
                "trial": trial.id,
                "title": trial.title or trial.id,
                "stage": f"control: {trial.control}" if trial.control else trial.stage,
                "top1": measured.top1,
                "low": low,
                "high": high,
                "images": measured.images,
                "change_top1": measured.top1 - top1,
                "agreement": measured.agreement,
                "mean_bits": cost.mean_bits,
                "megabytes": cost.megabytes,
                "change_megabytes": cost.megabytes - against.megabytes,
                "gbops": cost.gbops,
                "change_gbops": cost.gbops - against.gbops,
                "created": trial.created,
            }
        )
    return rows


def as_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """Plain rows as CSV with a header; a text that a spreadsheet would take for a formula is quoted from it."""
    out = io.StringIO()
    names = list(dict.fromkeys(name for row in rows for name in row))
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(names)
    writer.writerows([[_harmless(row.get(name)) for name in names] for row in rows])
    return out.getvalue()


def _harmless(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return ""
    risky = isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r")
    return f"'{value}" if risky else value
