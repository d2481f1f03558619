"""What every data source ends as: the labelled, preprocessed images of a split."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Images:
    """Labelled images of one split: tensors made on demand by the model's own preprocessing."""

    names: tuple[str, ...]  # path relative to the data folder, or `digits/0123`
    labels: Tensor  # (N,) int64, indices into the model's classes
    contents: tuple[str, ...]  # sha256 of each image's bytes, 16 hex digits
    source: Callable[[int], Tensor]  # position -> (C, H, W) float32

    def __len__(self) -> int:
        return len(self.names)

    @cached_property
    def hash(self) -> str:
        """What the list is, as 16 hex digits: names, labels and contents, in order; not where the folder lies."""
        rows = zip(self.names, self.labels.tolist(), self.contents, strict=True)
        return hashlib.sha256("\n".join(f"{name}\t{label}\t{key}" for name, label, key in rows).encode()).hexdigest()[
            :16
        ]

    def batch(self, indices: Sequence[int]) -> Tensor:
        """The images at these positions, (B, C, H, W) float32."""
        return torch.stack([self.source(int(i)) for i in indices])

    def batches(self, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """All images in order, as pairs of images (B, C, H, W) and labels (B,); the last may be shorter."""
        for start in range(0, len(self), size):
            stop = min(start + size, len(self))
            yield self.batch(range(start, stop)), self.labels[start:stop]

    def subset(self, indices: Sequence[int]) -> Images:
        """The same images at these positions only, in this order."""
        chosen = tuple(int(i) for i in indices)
        return Images(
            names=tuple(self.names[i] for i in chosen),
            labels=self.labels[list(chosen)],
            contents=tuple(self.contents[i] for i in chosen),
            source=lambda i: self.source(chosen[i]),
        )

    def tensor(self) -> Tensor:
        """All images at once, (N, C, H, W) float32; for sets that fit into memory."""
        return self.batch(range(len(self)))


@dataclass(frozen=True, eq=False)
class Dataset:
    """The images to calibrate on and the images to measure on; they share none."""

    calibration: Images
    validation: Images
    skipped: tuple[str, ...]  # `path: reason`: images that do not decode, and calibration images met in validation
    source: str
    seed: int
