"""What a model predicted on each validation image, on disk beside what was measured; read without torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from lampq_engine.errors import InputError
from lampq_engine.files import read_json, write_json
from lampq_engine.records import decoded
from lampq_engine.store import Study, Trial

FILE = "predictions.json"


@dataclass(frozen=True)
class Predictions:
    """The class a model chose for each validation image and how probable it held the true one, in the images' order.

    `key` says on which weights and images it was measured; predictions of different keys are never compared.
    """

    key: str
    classes: tuple[int, ...]
    probabilities: tuple[float, ...]  # of the true class, from 0 to 1

    def __len__(self) -> int:
        return len(self.classes)


@dataclass(frozen=True)
class Truth:
    """The validation images of a study: their true classes, their names, and what the float model predicted."""

    whole: Predictions  # the float model's
    labels: tuple[int, ...]
    images: tuple[str, ...]
    names: Mapping[int, str] = field(default_factory=dict)  # of the classes that occur

    def name(self, number: int) -> str:
        """A class for people: its name, else its number."""
        return self.names.get(number, str(number))


def write_truth(study: Study, truth: Truth) -> None:
    """Keep the labels and the float model's predictions in a study; its images are listed already."""
    value = _plain(truth.whole) | {"labels": truth.labels, "images": truth.images}
    write_json(study.path / FILE, value | {"names": {str(number): name for number, name in truth.names.items()}})


def write_predictions(folder: Path, found: Predictions) -> None:
    """Keep a trial's predictions in its folder."""
    write_json(folder / FILE, _plain(found))


def truth_of(study: Study) -> Truth | None:
    """Labels and float predictions of a study; None where it was measured before these were kept.

    `InputError` names a damaged file.
    """
    path = study.path / FILE
    return decoded(path, _truth) if path.is_file() else None


def predictions_of(trial: Trial, truth: Truth) -> Predictions | None:
    """Predictions of a trial; None where none were kept, or they are of other images than `truth`.

    `InputError` names a damaged file.
    """
    path = trial.path / FILE
    if not path.is_file():
        return None
    found = decoded(path, partial(_predictions, count=len(truth.labels)))
    return found if found.key == truth.whole.key else None


def thumbnail(study: Study, position: int) -> Path:
    """Where the picture of a validation image lies, as the model sees it; kept where some trial differs from float."""
    return study.path / "thumbnails" / f"{int(position)}.png"


def is_current(study: Study, key: str) -> bool:
    """Whether a study's truth is there and was made for `key`."""
    try:
        plain = read_json(study.path / FILE)
    except InputError:
        return False
    return isinstance(plain, dict) and plain.get("key") == key


def _plain(found: Predictions) -> dict[str, Any]:
    rounded = [round(value, 5) for value in found.probabilities]
    return {"key": found.key, "classes": list(found.classes), "probabilities": rounded}


def _predictions(plain: Mapping[str, Any], count: int) -> Predictions:
    classes = tuple(int(number) for number in plain["classes"])
    probabilities = tuple(float(value) for value in plain["probabilities"])
    if not len(classes) == len(probabilities) == count:
        raise ValueError(f"it holds {len(classes)} predictions, the study has {count} validation images")
    return Predictions(str(plain["key"]), classes, probabilities)


def _truth(plain: Mapping[str, Any]) -> Truth:
    labels, images = tuple(int(label) for label in plain["labels"]), tuple(str(name) for name in plain["images"])
    if len(images) != len(labels):
        raise ValueError(f"it names {len(images)} images and has {len(labels)} labels")
    names = {int(number): str(name) for number, name in plain["names"].items()}
    return Truth(_predictions(plain, len(labels)), labels, images, names)
