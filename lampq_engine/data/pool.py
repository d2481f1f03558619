"""Candidate images, and how some of them are drawn: stratified, seeded, each one decoded once before it is used."""

from __future__ import annotations

import hashlib
import io
import random
import struct
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image, UnidentifiedImageError
from timm.data import create_transform
from torch import Tensor

from ..errors import InputError
from .images import Images

CACHE_BYTES = 1_500_000_000  # a split smaller than this stays in memory as float32
# What PIL's decoders raise on damaged files.
UNREADABLE = (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError)


@dataclass(frozen=True)
class Pool:
    """Candidate images of one or both splits, none of them decoded yet."""

    where: str  # what a message calls it
    names: tuple[str, ...]
    labels: tuple[int, ...]
    read: Callable[[int], tuple[Image.Image, str]]  # the decoded image and the hash of its bytes; raises UNREADABLE


@dataclass(frozen=True)
class Drawn:
    """The images drawn from a pool, what was passed over, and which candidates are still left."""

    images: Images
    skipped: tuple[str, ...]
    left: tuple[int, ...]


def digest(data: bytes) -> str:
    """sha256 of an image's bytes, first 16 hex digits."""
    return hashlib.sha256(data).hexdigest()[:16]


def decode(data: bytes) -> tuple[Image.Image, str]:
    """The decoded image of a file's bytes, and their hash; raises one of UNREADABLE."""
    image = Image.open(io.BytesIO(data))
    image.load()
    return image, digest(data)


def preprocessing(config: dict[str, Any]) -> Callable[[Image.Image], Tensor]:
    """The model's own evaluation transform, PIL image -> (C, H, W) float32.

    `config` is timm's `resolve_data_config`. A model with one input channel reads the image in grey.
    """
    channels = config["input_size"][0]
    if channels not in (1, 3):
        raise InputError(
            f"The model reads images of {channels} channels",
            expected="1 (grey) or 3 (RGB)",
            todo="Choose a model for grey or colour images",
        )
    for key in ("mean", "std"):  # three colour statistics on one grey channel would broadcast to three channels
        if len(config[key]) != channels:
            config = config | {key: (sum(config[key]) / len(config[key]),) * channels}
    transform = create_transform(**config)
    mode = "L" if channels == 1 else "RGB"
    return lambda image: transform(image.convert(mode))


def stratified_order(labels: Sequence[int], seed: int) -> tuple[int, ...]:
    """A seeded order of all positions in which every prefix holds the classes about in proportion (our choice).

    Each class is shuffled and spread evenly over [0, 1) from a random start; the order is that of the places.
    """
    rng = random.Random(seed)
    groups: dict[int, list[int]] = defaultdict(list)
    for position, label in enumerate(labels):
        groups[label].append(position)
    places: list[tuple[float, int]] = []
    for label in sorted(groups):
        members = groups[label]
        rng.shuffle(members)
        start = rng.random()
        places += [((rank + start) / len(members), position) for rank, position in enumerate(members)]
    return tuple(position for _, position in sorted(places))


def draw(
    pool: Pool,
    order: Sequence[int],
    *,
    count: int,
    prepare: Callable[[Image.Image], Tensor],
    image_bytes: int,
    taken: Iterable[str] = (),
) -> Drawn:
    """The first `count` images of `order` that decode and whose content is not in `taken`; 0 means all of them.

    Every image is decoded here once. The tensors are kept when they are less than `CACHE_BYTES` together, and made
    again on demand otherwise. `image_bytes` is the size of one preprocessed image.
    """
    wanted = min(count or len(order), len(order))
    keep = wanted * image_bytes < CACHE_BYTES
    known = frozenset(taken)
    positions: list[int] = []
    contents: list[str] = []
    tensors: list[Tensor] = []
    skipped: list[str] = []
    tried = 0
    for position in order:
        if len(positions) == wanted:
            break
        tried += 1
        try:
            image, content = pool.read(position)
        except UNREADABLE as error:
            skipped.append(f"{pool.names[position]}: {_reason(error)}")
            continue
        if content in known:
            skipped.append(f"{pool.names[position]}: same content as an image of the other split")
            continue
        positions.append(position)
        contents.append(content)
        if keep:
            tensors.append(prepare(image))
    source = tensors.__getitem__ if keep else lambda i: prepare(pool.read(positions[i])[0])
    images = Images(
        names=tuple(pool.names[p] for p in positions),
        labels=torch.tensor([pool.labels[p] for p in positions], dtype=torch.int64),
        contents=tuple(contents),
        source=source,
    )
    return Drawn(images, tuple(skipped), tuple(order[tried:]))


def _reason(error: BaseException) -> str:
    """One line that says why an image was not read, without memory addresses or absolute paths."""
    if isinstance(error, Image.DecompressionBombError):
        return "too many pixels"
    if isinstance(error, UnidentifiedImageError):
        return "not an image that can be read"
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(text.split()) or type(error).__name__
