"""From the name of a data source to the two splits."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from PIL import Image
from torch import Tensor

from ..errors import InputError
from .classes import Labels
from .digits import digits_pools
from .folder import folder_pools
from .images import Dataset
from .pool import Drawn, Pool, draw, preprocessing, stratified_order
from .timm_sets import timm_pools


def load_dataset(
    source: str,
    *,
    model_config: dict[str, Any],
    num_classes: int,
    calibration_images: int,
    validation_images: int,
    seed: int,
    calibration_source: str = "",
    labels: Labels = "auto",
) -> Dataset:
    """Draw calibration and validation images for a model from a data source; the two never share an image.

    `source` is `builtin` (scikit-learn's digits), a folder of class folders, or `timm:<name>@<root>` for what timm's
    `create_dataset` reads. `model_config` is timm's `resolve_data_config` of the model. A count of 0 means all that
    there are; where one folder serves both splits, all that the other leaves (half, when both are 0). Images are
    drawn stratified by `seed` and decoded once; those that do not decode are replaced and listed in `skipped`.
    Raises InputError where the source is missing, does not fit the model's classes or has too few images.
    """
    if calibration_images < 0 or validation_images < 0:
        raise InputError(
            "A number of images is negative", expected="0 (all) or more", todo="Give a positive number, or 0"
        )
    if source == "builtin":
        model_config = model_config | {"crop_pct": 1.0}  # the scans have no margin to crop
    calibration, validation = _pools(
        source,
        calibration_source,
        num_classes=num_classes,
        images=(calibration_images, validation_images),
        labels=labels,
    )
    drawing = _Drawing(
        prepare=preprocessing(model_config), image_bytes=4 * math.prod(model_config["input_size"]), seed=seed
    )
    if validation is None:
        held, used = drawing.split(calibration, calibration_images, validation_images)
    else:
        held, used = drawing.two(calibration, validation, calibration_images, validation_images)
    return Dataset(
        calibration=used.images,
        validation=held.images,
        skipped=held.skipped + used.skipped,
        source=source,
        seed=seed,
    )


def _pools(
    source: str, calibration_source: str, *, num_classes: int, images: tuple[int, int], labels: Labels
) -> tuple[Pool, Pool | None]:
    if not source.strip():
        raise InputError("No data is given", expected="builtin, a folder, or timm:<name>@<folder>", todo="Name one")
    by_name = source == "builtin" or source.startswith("timm:")
    if by_name and calibration_source:
        raise InputError(
            f"{source} brings its own calibration images",
            expected="a second folder only beside an image folder",
            todo="Leave the calibration folder empty",
        )
    if source == "builtin":
        return digits_pools(num_classes)
    if source.startswith("timm:"):
        return timm_pools(source, num_classes=num_classes, images=images)
    return folder_pools(source, calibration_source, num_classes=num_classes, labels=labels)


@dataclass(frozen=True)
class _Drawing:
    prepare: Callable[[Image.Image], Tensor]
    image_bytes: int
    seed: int

    def two(
        self, calibration: Pool, validation: Pool, for_calibration: int, for_validation: int
    ) -> tuple[Drawn, Drawn]:
        """Validation, then calibration without what validation holds, from two pools."""
        held = self._draw(validation, stratified_order(validation.labels, self.seed), for_validation)
        _enough(held, for_validation, "validation", validation)
        used = self._draw(calibration, stratified_order(calibration.labels, self.seed), for_calibration, held)
        _enough(used, for_calibration, "calibration", calibration)
        return held, used

    def split(self, pool: Pool, for_calibration: int, for_validation: int) -> tuple[Drawn, Drawn]:
        """Both splits from one pool: one takes the front of the seeded order, the other goes on from there."""
        total = len(pool.names)
        if for_calibration + for_validation > total or total < 2:
            wanted = f"{for_calibration or 'at least 1'} to calibrate and {for_validation or 'at least 1'} to measure"
            raise InputError(
                f"{pool.where} holds {total} images",
                expected=f"{wanted}, none shared",
                todo="Ask for fewer images or give a larger folder",
            )
        order = stratified_order(pool.labels, self.seed)
        if for_calibration and not for_validation:  # the split with a number goes first, the other takes what is left
            used = self._draw(pool, order, for_calibration)
            held = self._draw(pool, used.left, 0, used)
        else:
            held = self._draw(pool, order, for_validation or total // 2)
            used = self._draw(pool, held.left, for_calibration, held)
        _enough(held, for_validation, "validation", pool)
        _enough(used, for_calibration, "calibration", pool)
        return held, used

    def _draw(self, pool: Pool, order: tuple[int, ...], count: int, other: Drawn | None = None) -> Drawn:
        taken = other.images.contents if other else ()
        return draw(pool, order, count=count, prepare=self.prepare, image_bytes=self.image_bytes, taken=taken)


def _enough(drawn: Drawn, wanted: int, split: str, pool: Pool) -> None:
    """Raise where a split has fewer images than were asked for, or none."""
    found = len(drawn.images)
    if found >= max(wanted, 1):
        return
    passed = f" ({len(drawn.skipped)} were skipped, first {drawn.skipped[0]})" if drawn.skipped else ""
    raise InputError(
        f"{pool.where} has {found} images for {split}{passed}",
        expected=f"{wanted}" if wanted else "at least 1",
        todo="Ask for fewer images or give a larger folder",
    )
