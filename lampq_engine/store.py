"""Studies and trials on disk: one folder per model and data set, one folder inside it per allocation made real."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from lampq_engine.cost import CostModel
from lampq_engine.errors import InputError
from lampq_engine.files import key_of, read_json, safe_name, slug, write_bytes, write_json
from lampq_engine.plain import from_plain, to_plain
from lampq_engine.recipe import DataSpec, ModelSpec, Recipe, SensitivitySpec, from_toml, to_toml
from lampq_engine.records import allocation_of, costs_of, decoded, evaluation_of, sensitivity_of
from lampq_engine.types import Allocation, Evaluation, Sensitivity

FORMAT = 1
Value = TypeVar("Value")


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
        """Model and data settings and the time it was made: what `study.json` holds."""
        try:
            return decoded(self.path / "study.json", lambda plain: dict(plain))
        except InputError as error:
            raise InputError(
                error.wrong,
                expected=error.expected,
                todo=f"Delete this file and run `analyse --study {self.name}` with the same model and data; "
                "everything else in the study stays",
            ) from error

    @property
    def provenance(self) -> dict[str, Any]:
        """Hashes, image counts, skipped images, seed, device and versions of the last analysis."""
        return decoded(self._measured("analysis.json"), lambda plain: dict(plain))

    @property
    def sensitivity_spec(self) -> SensitivitySpec:
        """The settings of the last analysis; the defaults before there was one."""
        where = self.path / "analysis.json"
        plain = self.provenance.get("sensitivity", {}) if where.is_file() else {}
        return from_plain(SensitivitySpec, plain, f"{where}: sensitivity")

    @property
    def model(self) -> ModelSpec:
        return from_plain(ModelSpec, self.info.get("model"), f"{self.path / 'study.json'}: model")

    @property
    def data(self) -> DataSpec:
        return from_plain(DataSpec, self.info.get("data"), f"{self.path / 'study.json'}: data")

    def _value(self, name: str, of: Callable[[Any], Value]) -> Value:
        """What `of` makes of the value in one of the study's files."""

        def value(record: Any) -> Value:
            if not isinstance(record, dict) or "value" not in record:
                raise ValueError("it holds no value")
            return of(record["value"])

        return decoded(self._measured(name), value)

    def _measured(self, name: str) -> Path:
        if not self.has(name):
            raise InputError(
                f"The study {self.name!r} is not analysed to the end: it has no {name}",
                todo=f"Run `analyse --study {self.name}` with its model and data; what is there already is kept",
            )
        return self.path / name

    def has(self, name: str) -> bool:
        return (self.path / name).is_file()

    @property
    def zero_shot(self) -> Study:
        """What was measured on generated images, apart from what was measured on real ones: sensitivities only."""
        return Study(self.path / "generated")

    @property
    def costs(self) -> CostModel:
        """The layers and what the packed file holds beside them."""
        return self._value("layers.json", costs_of)

    @property
    def bypassed(self) -> tuple[str, ...]:
        """Linear layers whose weights the model uses without calling them; they stay in float."""
        return self._value("layers.json", lambda value: tuple(value.get("bypassed", ())))

    @property
    def float_evaluation(self) -> Evaluation:
        return self._value("float.json", evaluation_of)

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names of the sensitivities that have been measured."""
        return tuple(sorted(p.stem for p in (self.path / "sensitivity").glob("*.json")))

    def sensitivity(self, metric: str) -> Sensitivity:
        return self._value(f"sensitivity/{safe_name(metric, 'metric')}.json", sensitivity_of)

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
        reads: list[Callable[[], object]] = [lambda: (self.model, self.data)]
        if self.has("images.json"):
            reads.append(lambda: read_json(self.path / "images.json"))
        if self.has("analysis.json"):
            reads.append(lambda: self.provenance)
        if self.has("float.json"):
            reads.append(lambda: self.float_evaluation)
        if self.has("layers.json"):
            reads.append(lambda: self.costs)
        reads += [partial(self.sensitivity, metric) for metric in self.metrics]
        reads += [partial(read_trial, path.parent) for path in sorted((self.path / "trials").glob("*/trial.json"))]
        reads += [partial(read_json, path) for path in sorted((self.path / "jobs").glob("*/job.json"))]
        return [sentence for read in reads for sentence in _complaint(read)]

    def trial(self, name: str) -> Trial:
        """One trial by id."""
        return read_trial(self.path / "trials" / safe_name(name, "trial"))


def _complaint(read: Callable[[], object]) -> list[str]:
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


def discard_empty(study: Study) -> None:
    """Take away a study that holds nothing but its own settings; any other stays."""
    if [path.name for path in study.path.iterdir()] == ["study.json"]:
        (study.path / "study.json").unlink()
        study.path.rmdir()


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
