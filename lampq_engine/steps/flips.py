"""What a measured model predicted on each image, and pictures of the images on which it left the float model."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image
from timm.data import ImageNetInfo, infer_imagenet_subset
from torch import Tensor

from lampq_engine.files import write_bytes
from lampq_engine.models import preprocessing
from lampq_engine.predictions import (
    Predictions,
    Truth,
    is_current,
    thumbnail,
    write_predictions,
    write_truth,
)
from lampq_engine.steps.loaded import Loaded
from lampq_engine.store import Study

MOST_PICTURES = 500  # of one trial, so that a study of many images stays small
SIDE = 96  # pixels


def predicted(key: str, logits: Tensor, labels: Tensor) -> Predictions:
    """The chosen class and the true class's probability of each image, from logits (N, classes) and labels (N,)."""
    truth = logits.softmax(1).gather(1, labels[:, None])[:, 0]
    return Predictions(key, tuple(logits.argmax(1).tolist()), tuple(truth.tolist()))


def keep_flips(study: Study, loaded: Loaded, trial: str, logits: Tensor, reference: Tensor) -> None:
    """Write a trial's predictions, the float model's once a study, and a picture of each image they differ on."""
    labels = loaded.data.validation.labels
    found, whole = predicted(loaded.key, logits, labels), predicted(loaded.key, reference, labels)
    if not is_current(study, loaded.key):
        names = _names(loaded, sorted({*labels.tolist(), *whole.classes}))
        write_truth(study, Truth(whole, tuple(labels.tolist()), loaded.data.validation.names, names))
    write_predictions(study.path / "trials" / trial, found)
    differ = [i for i, (one, two) in enumerate(zip(whole.classes, found.classes, strict=True)) if one != two]
    _pictures(study, loaded, differ[:MOST_PICTURES])


def _pictures(study: Study, loaded: Loaded, positions: Sequence[int]) -> None:
    config = preprocessing(loaded.model)
    for position in positions:
        path = thumbnail(study, position)
        if not path.is_file():
            write_bytes(path, _png(loaded.data.validation.batch([position])[0], config))


def _png(pixels: Tensor, config: dict[str, Any]) -> bytes:
    """A preprocessed image (C, H, W) as a small PNG: what the model sees, with its normalisation undone."""
    channels = len(pixels)
    mean, std = (
        torch.tensor(config[name] if len(config[name]) == channels else [sum(config[name]) / len(config[name])])
        for name in ("mean", "std")
    )
    bright = (pixels.cpu() * std[:, None, None] + mean[:, None, None]).clamp(0, 1).mul(255).round().byte()
    picture = Image.fromarray(bright[0].numpy() if channels == 1 else bright.permute(1, 2, 0).numpy())
    picture = picture.resize((SIDE, SIDE), Image.Resampling.NEAREST if picture.width < SIDE else Image.Resampling.BOX)
    out = io.BytesIO()
    picture.save(out, "PNG", optimize=True)
    return out.getvalue()


def _names(loaded: Loaded, numbers: Sequence[int]) -> dict[int, str]:
    """What classes are called: ImageNet's words where the model has its classes, else the names of their folders."""
    classes = int(getattr(loaded.model, "num_classes", 0))
    variant = infer_imagenet_subset({"num_classes": classes})
    if variant:
        info = ImageNetInfo(variant)
        return {number: info.index_to_description(number).split(",")[0] for number in range(classes)}
    if loaded.data.source == "builtin":
        return {number: str(number) for number in numbers}
    images = loaded.data.validation
    return {label: name.split("/")[0] for name, label in zip(images.names, images.labels.tolist(), strict=True)}
