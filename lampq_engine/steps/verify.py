"""Checking a packed file: it loads, it measures what its trial says, and it is as large as it was said to be."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lampq_engine.data import load_dataset
from lampq_engine.evaluate import best_device, evaluate
from lampq_engine.journal import Report, silent
from lampq_engine.models import preprocessing
from lampq_engine.pack import load_packed
from lampq_engine.recipe import DataSpec
from lampq_engine.types import Evaluation


@dataclass(frozen=True)
class Verification:
    """What a packed file turned out to be."""

    path: str
    megabytes: float
    evaluation: Evaluation


def verify(path: Path, data: DataSpec, *, report: Report = silent) -> Verification:
    """Load a packed file and measure it on the validation images of `data`."""
    model = load_packed(path).to(best_device())
    images = load_dataset(
        data.source,
        model_config=preprocessing(model),
        num_classes=int(getattr(model, "num_classes", 0)),
        calibration_images=data.calibration_images,
        validation_images=data.validation_images,
        seed=data.seed,
        calibration_source=data.calibration_source,
    )
    return Verification(str(path), path.stat().st_size / 1e6, evaluate(model, images.validation, report=report))
