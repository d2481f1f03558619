"""Relevance of a study's images, kept in the study: per layer and image, and as pictures."""

from __future__ import annotations

import io

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save
from torch import Tensor, nn

from lampq_engine.files import key_of, write_bytes, write_json
from lampq_engine.journal import Report, silent
from lampq_engine.models import preprocessing
from lampq_engine.recipe import SensitivitySpec
from lampq_engine.sensitivity import Relevance, relevance
from lampq_engine.steps.loaded import Loaded
from lampq_engine.store import Study

PICTURES = 16  # relevance maps that are drawn
SIDE = 224  # pixels of a picture


def relevance_of(study: Study, loaded: Loaded, spec: SensitivitySpec, report: Report = silent) -> Relevance:
    """The relevance of the first `relevance_images` calibration images, propagated once per study."""
    images = loaded.data.calibration
    images = images.subset(range(min(spec.relevance_images, len(images))))
    path = study.path / "relevance" / f"{key_of(loaded.key, images.hash)}.safetensors"
    try:
        return _unpacked(load_file(path))
    except Exception:
        found = relevance(loaded.model, loaded.layers, images, report=report)
    write_bytes(path, save(_packed(found)))
    rows = []
    for i in range(min(PICTURES, len(images))):
        picture, heat = as_picture(images.batch([i])[0], loaded.model), _stretched(found.maps[i])
        write_bytes(path.parent / f"{i:03d}.png", png(picture))
        write_bytes(path.parent / f"{i:03d}-map.png", png(_overlaid(picture, heat)))
        predicted, label = int(found.predicted[i]), int(images.labels[i])
        rows.append({"image": images.names[i], "predicted": predicted, "label": label})
    write_json(path.parent / "pictures.json", {"rows": rows, "lost": found.lost})
    return found


def _packed(found: Relevance) -> dict[str, Tensor]:
    layers = {f"layer {name}": total for name, total in found.layers.items()}
    totals = {f"total {name}": total for name, total in found.totals.items()}
    return {"order": _words(list(found.layers)), "maps": found.maps, "predicted": found.predicted, **layers, **totals}


def _unpacked(tensors: dict[str, Tensor]) -> Relevance:
    names = bytes(tensors["order"].tolist()).decode().split("\n")
    totals = {k.removeprefix("total "): v for k, v in tensors.items() if k.startswith("total ")}
    return Relevance({name: tensors[f"layer {name}"] for name in names}, totals, tensors["maps"], tensors["predicted"])


def _words(names: list[str]) -> Tensor:
    return torch.tensor(list("\n".join(names).encode()), dtype=torch.uint8)


def as_picture(x: Tensor, model: nn.Module) -> np.ndarray:
    """A preprocessed image (C, H, W) as (H, W, 3) uint8, as a person knows it."""
    config = preprocessing(model)
    shape = (-1, 1, 1)
    mean, std = np.array(config["mean"]).reshape(shape), np.array(config["std"]).reshape(shape)
    plain = np.clip(x.detach().cpu().numpy() * std + mean, 0, 1).transpose(1, 2, 0)
    return (255 * np.repeat(plain, 3 // plain.shape[2], axis=2)).round().astype(np.uint8)


def png(picture: np.ndarray, side: int = SIDE) -> bytes:
    """A picture (H, W, 3) as PNG, `side` pixels wide."""
    buffer = io.BytesIO()
    Image.fromarray(picture).resize((side, side), Image.Resampling.BILINEAR).save(buffer, "PNG")
    return buffer.getvalue()


def _stretched(values: Tensor) -> np.ndarray:
    """Relevance (H, W) from 0 to 1: what is positive, up to its 99th percentile."""
    positive = np.maximum(values.numpy(), 0)
    return np.clip(positive / max(float(np.quantile(positive, 0.99)), 1e-12), 0, 1)


def _overlaid(picture: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """The picture dimmed where nothing is relevant and warm where much is."""
    grown = Image.fromarray((255 * heat).astype(np.uint8)).resize(picture.shape[1::-1], Image.Resampling.BICUBIC)
    share = np.asarray(grown)[..., None] / 255
    grey = picture.mean(2, keepdims=True) * 0.5
    return (
        (grey * (1 - share) + np.array([255.0, 176.0, 0.0]) * share * 0.75 + grey * share * 0.5)
        .clip(0, 255)
        .astype(np.uint8)
    )
