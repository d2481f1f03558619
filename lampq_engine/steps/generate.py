"""Zero-shot calibration of a study: images made from its model alone, and everything measured on them."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save
from torch import Tensor

from lampq_engine.data import Images
from lampq_engine.errors import InputError
from lampq_engine.files import key_of, read_json, write_bytes, write_json
from lampq_engine.journal import Report, silent
from lampq_engine.models import preprocessing
from lampq_engine.plain import to_plain
from lampq_engine.recipe import GenerationSpec
from lampq_engine.steps.explain import as_picture, png
from lampq_engine.steps.loaded import Loaded
from lampq_engine.store import Study
from lampq_engine.zero_shot import synthesize


@dataclass(frozen=True)
class Generated:
    """Generated images, how the loss fell, and how long it took."""

    images: Images
    curve: list[dict[str, float]]  # step, loss and entropy, mean over the batches
    seconds: float
    path: Path


def generate(study: Study, loaded: Loaded, spec: GenerationSpec, report: Report = silent) -> Generated:
    """Make calibration images from the study's model alone; what of them is there already is kept.

    Batches, previews and the loss curve are written to the study as they are finished, so that a cancelled run goes on
    where it stopped.
    """
    key = key_of(loaded.hash, to_plain(spec))
    path = study.path / "generated" / key
    sizes = [min(spec.batch, spec.images - start) for start in range(0, spec.images, spec.batch)]
    steps = spec.rounds * spec.iterations
    parts: list[dict[str, Tensor]] = []
    for number, size in enumerate(sizes):
        found = _batch(path / f"batch-{number:03d}.safetensors", size)
        parts.append(found or _made(path, loaded, spec, number, size, (number * steps, len(sizes) * steps), report))
    images, labels = (torch.cat([part[name] for part in parts]) for name in ("images", "labels"))
    courses = torch.stack([part["course"] for part in parts]).mean(0)
    curve = [{"step": i + 1, "loss": float(a), "entropy": float(b)} for i, (a, b) in enumerate(courses)]
    seconds = sum(float(part["seconds"]) for part in parts)
    record = {"spec": to_plain(spec), "labels": labels.tolist(), "curve": curve, "seconds": seconds, "key": key}
    write_json(study.path / "generated" / "generated.json", record)
    named = tuple(f"generated/{i:03d}" for i in range(len(images)))
    contents = tuple(key_of(key, i) for i in range(len(images)))
    return Generated(Images(named, labels, contents, lambda i: images[i]), curve, seconds, path)


def zero_shot(study: Study, loaded: Loaded, spec: GenerationSpec, report: Report = silent) -> Loaded:
    """The same model with generated images in place of the calibration images: nothing sees a real one any more.

    The validation images stay, to measure on.
    """
    made = generate(study, loaded, spec, report)
    return replace(loaded, data=replace(loaded.data, calibration=made.images, source="generated"))


def _batch(path: Path, size: int) -> dict[str, Tensor] | None:
    try:
        found: dict[str, Tensor] = load_file(path)
        return found if len(found["images"]) == size else None
    except Exception:
        return None


def _made(
    path: Path, loaded: Loaded, spec: GenerationSpec, number: int, size: int, steps: tuple[int, int], report: Report
) -> dict[str, Tensor]:
    course: list[tuple[float, float]] = []
    start = time.perf_counter()

    def on_step(step: int, loss: float, entropy: float) -> None:
        course.append((loss, entropy))
        report("generate", steps[0] + step, steps[1], loss=loss, entropy=entropy)

    images, labels = synthesize(
        loaded.model,
        size,
        spec,
        size=tuple(preprocessing(loaded.model)["input_size"]),
        bounds=bounds(preprocessing(loaded.model)),
        seed=spec.seed * 10007 + number,
        on_step=on_step,
    )
    made = {
        "images": images,
        "labels": labels,
        "course": torch.tensor(course, dtype=torch.float64),
        "seconds": torch.tensor(time.perf_counter() - start, dtype=torch.float64),
    }
    for i, image in enumerate(images):
        write_bytes(path / f"{number * spec.batch + i:03d}.png", png(as_picture(image, loaded.model)))
    write_bytes(path / f"batch-{number:03d}.safetensors", save(made))
    return made


def bounds(config: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """The least and the greatest value of each channel after preprocessing, (C, 1, 1)."""
    mean, std = (torch.tensor(config[name]).view(-1, 1, 1) for name in ("mean", "std"))
    return (0 - mean) / std, (1 - mean) / std


def generated_record(study: Study) -> dict[str, Any]:
    """What `generate` last wrote about a study's images; `InputError` where there are none."""
    if not study.has("generated/generated.json"):
        raise InputError(f"The study {study.name!r} has no generated images", todo="Run `generate` first")
    return dict(read_json(study.path / "generated" / "generated.json"))
