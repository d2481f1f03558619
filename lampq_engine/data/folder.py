"""Images in class folders: `root/<class>/*.jpg`, or the same under `calibration` and `validation` (`train`, `val`)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from ..errors import InputError
from .classes import Labels, class_indices
from .pool import Pool, decode

CALIBRATION = ("calibration", "calib", "train", "training")
VALIDATION = ("validation", "val", "valid", "eval")
SPLITS = (*CALIBRATION, *VALIDATION, "test")
ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")


@dataclass(frozen=True)
class Folder:
    """Where the two splits of a data folder lie; None where there is no folder for one of them."""

    calibration: Path | None
    validation: Path | None


def folder_pools(
    source: str, calibration_source: str, *, num_classes: int, labels: Labels = "auto"
) -> tuple[Pool, Pool | None]:
    """The calibration and the validation candidates of one or two folders.

    One folder without splits gives one pool and None: the two splits are then drawn from it.
    """
    calibration, validation = _places(source, calibration_source)
    names = sorted({child.name for root in (calibration, validation) if root for child in _folders(root)})
    classes = class_indices(names, num_classes=num_classes, where=source, labels=labels)
    pool = _pool(calibration, classes)
    return pool, _pool(validation, classes) if validation else None


def _places(source: str, calibration_source: str) -> tuple[Path, Path | None]:
    """The folder to calibrate on, and the folder to measure on where it is another."""
    own = _splits(_existing(source))
    if calibration_source:
        other = _splits(_existing(calibration_source))
        calibration, validation = other.calibration or other.validation, own.validation or own.calibration
    else:
        calibration, validation = own.calibration or own.validation, own.validation or own.calibration
    assert calibration
    assert validation
    same = calibration.resolve() == validation.resolve()
    return calibration, None if same else validation


def _existing(source: str) -> Path:
    root = Path(source).expanduser()
    if not root.is_dir():
        raise InputError(
            f"There is no folder at {source}" if not root.exists() else f"{source} is not a folder",
            expected="a folder with one folder of images for each class",
            todo="Check the path",
        )
    if not _folders(root):
        loose = any(child.suffix.lower() in ENDINGS for child in root.iterdir())
        raise InputError(
            f"{source} holds images but no class folders" if loose else f"{source} is empty: it has no class folders",
            expected="a folder with one folder of images for each class",
            todo="Put each image into a folder named after its class" if loose else "Check the path",
        )
    return root


def _splits(root: Path) -> Folder:
    """`root` itself for both splits, unless all its folders are named like splits and hold class folders."""
    children = {child.name.lower(): child for child in _folders(root)}
    if not set(children) <= set(SPLITS) or not any(_folders(child) for child in children.values()):
        return Folder(root, root)
    calibration = next((children[name] for name in CALIBRATION if name in children), None)
    validation = next((children[name] for name in VALIDATION if name in children), None)
    if calibration is None and validation is None:  # only `test`
        validation = children["test"]
    return Folder(calibration, validation)


def _folders(root: Path) -> list[Path]:
    return sorted(child for child in root.iterdir() if child.is_dir() and not child.name.startswith("."))


def _pool(root: Path, classes: dict[str, int]) -> Pool:
    files = [
        (path, classes[child.name])
        for child in _folders(root)
        for path in sorted(child.rglob("*"))
        if path.suffix.lower() in ENDINGS and path.is_file() and not path.name.startswith(".")
    ]
    if not files:
        raise InputError(
            f"There is no image in the class folders of {root}",
            expected=f"files that end in {' '.join(ENDINGS)}",
            todo="Check the path",
        )
    paths = [path for path, _ in files]

    def read(i: int) -> tuple[Image.Image, str]:
        return decode(paths[i].read_bytes())

    return Pool(
        where=str(root),
        names=tuple(path.relative_to(root).as_posix() for path in paths),
        labels=tuple(label for _, label in files),
        read=read,
    )
