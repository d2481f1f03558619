"""The built-in data: scikit-learn's 1797 scans of handwritten digits, 8x8 grey, and their fixed split."""

from __future__ import annotations

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

from ..errors import InputError
from .pool import Pool, digest, stratified_order

HELD_OUT = 450  # images that neither the training of the built-in model nor any calibration sees
SPLIT_SEED = 20240


def digits_pools(num_classes: int) -> tuple[Pool, Pool]:
    """The training part (1347 scans) and the held-out part (450 scans), the same ones always."""
    if num_classes != 10:
        raise InputError(
            f"The built-in digits have 10 classes, the model's head has {num_classes}",
            expected="a model with 10 classes",
            todo="Choose the built-in model, or give an image folder that fits this model",
        )
    scans, labels = load_digits(return_X_y=True)
    pixels = np.round(scans.reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
    order = stratified_order(labels.tolist(), SPLIT_SEED)
    held_out, training = sorted(order[:HELD_OUT]), sorted(order[HELD_OUT:])
    return _part(pixels, labels, training), _part(pixels, labels, held_out)


def _part(pixels: np.ndarray, labels: np.ndarray, chosen: list[int]) -> Pool:
    def read(i: int) -> tuple[Image.Image, str]:
        scan = pixels[chosen[i]]
        return Image.fromarray(scan), digest(scan.tobytes())

    return Pool(
        where="the built-in digits",
        names=tuple(f"digits/{i:04d}" for i in chosen),
        labels=tuple(int(labels[i]) for i in chosen),
        read=read,
    )
