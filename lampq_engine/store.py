"""Studies and trials on disk: one folder per model and data set, one folder inside it per allocation made real."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lampq_engine.cost import CostModel
from lampq_engine.errors import InputError
from lampq_engine.files import key_of, read_json, safe_name, slug, write_bytes, write_json
from lampq_engine.plain import to_plain
from lampq_engine.recipe import DataSpec, ModelSpec, Recipe, from_toml, to_toml
from lampq_engine.types import Allocation, Bits, Cell, Cost, Evaluation, Layer, Sensitivity, Solution

FORMAT = 1


def studies_root() -> Path:
    """Where studies live: `$LAMPQ_STUDIES`, else `studies` in the current folder."""
    return Path(os.environ.get("LAMPQ_STUDIES", "studies")).resolve()


@dataclass(frozen=True)
class Study:
    """One model on one data set. Everything it knows is in its folder; this is the name of that folder."""

    path: Path

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def info(self) -> dict[str, Any]:
        """Model, data, device, versions, hashes, counts of images: what `study.json` holds."""
        return read_json(self.path / "study.json")

    @property
    def provenance(self) -> dict[str, Any]:
        """Hashes, image counts, skipped images, seed, device and versions of the last analysis."""
        return read_json(self.path / "analysis.json")

    @property
    def model(self) -> ModelSpec:
        return ModelSpec(**self.info["model"])

    @property
    def data(self) -> DataSpec:
        return DataSpec(**self.info["data"])

    def _value(self, name: str) -> Any:
        record = read_json(self.path / name)
        if isinstance(record, dict) and "value" in record:
            return record["value"]
        raise InputError(
            f"{self.path / name} is damaged: it holds no value",
            todo="Delete this file and run the command again; everything else in the study stays",
        )

    def has(self, name: str) -> bool:
        return (self.path / name).is_file()

    @property
    def costs(self) -> CostModel:
        """The layers and what the packed file holds beside them."""
        value = self._value("layers.json")
        return CostModel(tuple(Layer(**{"block": None, **layer}) for layer in value["layers"]), value["fixed_bytes"])

    @property
    def bypassed(self) -> tuple[str, ...]:
        """Linear layers whose weights the model uses without calling them; they stay in float."""
        return tuple(self._value("layers.json").get("bypassed", ()))

    @property
    def float_evaluation(self) -> Evaluation:
        return evaluation_of(self._value("float.json"))

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names of the sensitivities that have been measured."""
        return tuple(sorted(p.stem for p in (self.path / "sensitivity").glob("*.json")))

    def sensitivity(self, metric: str) -> Sensitivity:
        return sensitivity_of(self._value(f"sensitivity/{safe_name(metric, 'metric')}.json"))

    def trials(self) -> list[Trial]:
        """Every readable trial, oldest first; a damaged one is left out (see `damaged`)."""
        found = []
        for path in (self.path / "trials").glob("*/trial.json"):
            try:
                found.append(read_trial(path.parent))
            except InputError:
                continue
        return sorted(found, key=lambda trial: trial.created)

    def damaged(self) -> list[str]:
        """One sentence for each file of the study that cannot be read."""
        sentences = []
        for path in sorted(self.path.glob("*.json")) + sorted(self.path.glob("sensitivity/*.json")):
            sentences += _complaint(lambda path=path: read_json(path))
        for path in sorted((self.path / "trials").glob("*/trial.json")):
            sentences += _complaint(lambda path=path: read_trial(path.parent))
        return sentences

    def trial(self, name: str) -> Trial:
        """One trial by id."""
        return read_trial(self.path / "trials" / safe_name(name, "trial"))


def _complaint(read: Any) -> list[str]:
    try:
        read()
    except InputError as error:
        return [str(error)]
    return []


@dataclass(frozen=True)
class Trial:
    """One allocation made real inside a study, with what was measured and the files it produced."""

    id: str
    title: str
    stage: str  # `ptq`, `updated` (after iterative bit updates) or `qat`
    recipe: Recipe
    allocation: Allocation
    evaluation: Evaluation
    created: float  # seconds since 1970
    control: str = ""  # `uniform`, `random` or `inverted` where this trial is a control
    parent: str = ""  # id of the trial this one refines
    calibration: Evaluation | None = None  # the same model on the calibration images
    seconds: float = 0.0
    predicted_megabytes: float = 0.0  # what the cost model said before the file was written
    device: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    history: tuple[Mapping[str, Any], ...] = ()  # one record per epoch or per accepted bit update
    path: Path = Path()

    @property
    def packed(self) -> Path:
        return self.path / "packed.safetensors"


def study_name(model: ModelSpec, data: DataSpec) -> str:
    """The folder name of a study: readable, and different for different settings."""
    if model == ModelSpec() and data == DataSpec():
        return "builtin"
    tail = model.name.removeprefix("local-dir:").rstrip("/").rsplit("/", 1)[-1]
    return f"{slug(tail)}-{slug(Path(data.source).name)}-{key_of(to_plain(model), to_plain(data))[:6]}"


def list_studies(root: Path | None = None) -> list[Study]:
    """Every study under the root, newest first."""
    found = [Study(p.parent) for p in (root or studies_root()).glob("*/study.json")]
    return sorted(found, key=lambda study: -(study.path / "study.json").stat().st_mtime)


def open_study(name: str, root: Path | None = None) -> Study:
    """A study by name; `InputError` where there is none, with the names there are."""
    base = root or studies_root()
    study = Study(base / safe_name(name, "study"))
    if not study.has("study.json"):
        names = ", ".join(s.name for s in list_studies(base)) or "none yet"
        raise InputError(
            f"There is no study {name!r} under {base}", expected=f"one of: {names}", todo="Make it with `analyse`"
        )
    return study


def create_study(recipe: Recipe, root: Path | None = None, name: str = "") -> Study:
    """The study of a recipe's model and data, made if it is not there.

    `InputError` if the name is taken by a study of other settings.
    """
    path = (root or studies_root()) / safe_name(name or study_name(recipe.model, recipe.data), "study")
    study = Study(path)
    if not study.has("study.json"):
        write_json(
            path / "study.json",
            {"format": FORMAT, "model": to_plain(recipe.model), "data": to_plain(recipe.data), "created": time.time()},
        )
    elif (study.model, study.data) != (recipe.model, recipe.data):
        raise InputError(
            f"The study {path.name!r} is of model {study.model.name!r} on {study.data.source!r} with other settings",
            expected="the same model and data settings",
            todo="Choose another name for the new study",
        )
    return study


def write_trial(study: Study, trial: Trial) -> Trial:
    """Write a trial's record and its recipe; the record last, so that a trial that can be read is whole."""
    path = study.path / "trials" / safe_name(trial.id, "trial")
    write_bytes(path / "recipe.toml", to_toml(trial.recipe).encode())
    record = {k: to_plain(getattr(trial, k)) for k in Trial.__dataclass_fields__ if k not in ("recipe", "path")}
    write_json(path / "trial.json", record)
    return read_trial(path)


def read_trial(path: Path) -> Trial:
    """Read a trial's folder; `InputError` names a damaged file."""
    plain = read_json(path / "trial.json")
    try:
        recipe = from_toml((path / "recipe.toml").read_text(), where=str(path / "recipe.toml"))
        plain |= {
            "allocation": allocation_of(plain["allocation"]),
            "evaluation": evaluation_of(plain["evaluation"]),
            "history": tuple(plain.get("history", ())),
        }
        if plain.get("calibration"):
            plain["calibration"] = evaluation_of(plain["calibration"])
        return Trial(**plain, recipe=recipe, path=path)
    except InputError:
        raise
    except (OSError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(
            f"{path / 'trial.json'} is damaged: {error!r}",
            expected="a whole trial",
            todo="Delete the trial's folder and run it again",
        ) from error


def _number(value: Any) -> float:
    return math.nan if value is None else float(value)


def evaluation_of(plain: Mapping[str, Any]) -> Evaluation:
    numbers: dict[str, Any] = {k: v if k in ("images", "split") else _number(v) for k, v in plain.items()}
    return Evaluation(**numbers)


def allocation_of(plain: Mapping[str, Any]) -> Allocation:
    bits = {name: Bits(*pair) for name, pair in plain["bits"].items()}
    solution = dict(plain["solution"])
    solution |= {k: _number(solution.get(k)) for k in ("harm", "bound", "gap", "milliseconds")}
    solution["binding"] = tuple(solution.get("binding", ()))
    return Allocation(bits, Cost(**plain["cost"]), Solution(**solution))


def sensitivity_plain(table: Sensitivity) -> dict[str, Any]:
    """A sensitivity as plain data, one row `[weight bits, activation bits, harm, error]` per cell."""
    cells = {
        name: [[b.weights, b.activations, c.harm, c.error] for b, c in row.items()] for name, row in table.cells.items()
    }
    plain = {k: to_plain(getattr(table, k)) for k in ("metric", "unit", "images", "raw", "raw_error", "notes")}
    return {**plain, "cells": cells}


def sensitivity_of(plain: Mapping[str, Any]) -> Sensitivity:
    cells = {
        name: {Bits(w, a): Cell(_number(h), _number(e)) for w, a, h, e in row} for name, row in plain["cells"].items()
    }
    return Sensitivity(**{**plain, "cells": cells})
