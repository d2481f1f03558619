"""What pages read of a study: each file decoded once and shared by every session until it changes on disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import streamlit as st

from lampq_engine.cost import CostModel
from lampq_engine.errors import InputError
from lampq_engine.predictions import Predictions, Truth, predictions_of, truth_of
from lampq_engine.store import Study, Trial
from lampq_engine.traces import Rank, resampled_ranks, traces
from lampq_engine.types import Evaluation, Sensitivity

Stamp = tuple[tuple[str, int, int], ...]


def stamp(*paths: Path) -> Stamp:
    """Names, times and sizes of files: changes when any of them does."""
    found = []
    for path in paths:
        try:
            status = path.stat()
        except OSError:
            continue
        found.append((str(path), status.st_mtime_ns, status.st_size))
    return tuple(found)


@st.cache_resource(max_entries=64, show_spinner=False)
def _layers(stamped: Stamp, _study: Study) -> CostModel:
    return _study.costs


@st.cache_resource(max_entries=64, show_spinner=False)
def _sensitivity(stamped: Stamp, metric: str, _study: Study) -> Sensitivity:
    return _study.sensitivity(metric)


@st.cache_resource(max_entries=32, show_spinner=False)
def _trials(stamped: Stamp, _study: Study) -> list[Trial]:
    return _study.trials()


@st.cache_resource(max_entries=16, show_spinner=False)
def _truth(stamped: Stamp, _study: Study) -> Truth | None:
    return truth_of(_study)


@st.cache_resource(max_entries=128, show_spinner=False)
def _predictions(stamped: Stamp, _trial: Trial, _truth: Truth) -> Predictions | None:
    return predictions_of(_trial, _truth)


@st.cache_resource(max_entries=32, show_spinner=False)
def _ranks(stamped: Stamp, metric: str, _study: Study) -> list[Rank]:
    return resampled_ranks(traces(_study), _study.sensitivity(metric))


@st.cache_resource(show_spinner=False)
def models_on_offer() -> pd.DataFrame:
    """The table that `assets/list_models.py` made."""
    return pd.read_csv(Path(__file__).parents[1] / "assets" / "models.csv")


def costs(study: Study) -> CostModel | None:
    """The layers and costs of a study; None until they were surveyed."""
    path = study.path / "layers.json"
    return _whole(lambda: _layers(stamp(path), study)) if path.is_file() else None


def sensitivity(study: Study, metric: str) -> Sensitivity | None:
    """One sensitivity of a study; None until it was measured, or where its file is damaged."""
    path = study.path / "sensitivity" / f"{metric}.json"
    return _whole(lambda: _sensitivity(stamp(path), metric, study)) if path.is_file() else None


def ranks(study: Study, metric: str) -> list[Rank]:
    """Ranks of the layers with their spread over the images; empty where the study keeps no traces of them."""
    files = [study.path / "sensitivity" / f"{metric}.json"]
    files += sorted((study.path / "sensitivity").glob("traces-*.safetensors"))
    return _whole(lambda: _ranks(stamp(*files), metric, study)) or []


def bypassed(study: Study) -> tuple[str, ...]:
    """Linear layers that the model uses without calling them; they stay in float."""
    return (_whole(lambda: study.bypassed) or ()) if study.has("layers.json") else ()


def float_evaluation(study: Study) -> Evaluation | None:
    return _whole(lambda: study.float_evaluation) if study.has("float.json") else None


def analysis(study: Study) -> dict[str, Any]:
    """Provenance of the analysis, empty until it was written."""
    return (_whole(lambda: study.provenance) or {}) if study.has("analysis.json") else {}


def trials(study: Study) -> list[Trial]:
    """Every readable trial, oldest first."""
    return _trials(stamp(*sorted((study.path / "trials").glob("*/trial.json"))), study)


def truth(study: Study) -> Truth | None:
    """Labels of the validation images and what float predicted; None where they were not kept."""
    return _whole(lambda: _truth(stamp(study.path / "predictions.json"), study))


def predictions(study: Study, trial: Trial, whole: Truth) -> Predictions | None:
    """What a trial predicted on each validation image; None where that was not kept."""
    stamped = stamp(study.path / "predictions.json", trial.path / "predictions.json")
    return _whole(lambda: _predictions(stamped, trial, whole))


def _whole(read: Any) -> Any:
    """What `read` gives; None where the file is damaged, which the Study page tells."""
    try:
        return read()
    except (InputError, KeyError, TypeError, AttributeError):
        return None
