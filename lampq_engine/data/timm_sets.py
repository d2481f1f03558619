"""Data sets that timm's `create_dataset` reads: torchvision's, Hugging Face's, TFDS, WebDataset."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from typing import Any

from PIL import Image
from timm.data import create_dataset

from ..errors import InputError
from .classes import WNID, class_indices
from .pool import Pool, decode, digest

# timm's readers and what lies under them fail in many ways on a missing, partial or unreachable data set.
FAILURES = (RuntimeError, AssertionError, OSError, ValueError, KeyError, TypeError, AttributeError, ImportError)
FETCHED = ("hfds/", "hfids/")  # these readers ask the network even when everything is in their cache


def timm_pools(source: str, *, num_classes: int, images: tuple[int, int]) -> tuple[Pool, Pool]:
    """The `train` and the `validation` split of `timm:<name>@<root>`; `?download` at the end allows a download.

    `images` is how many of each are wanted (0: all): that many are read from the front of a set that only streams.
    """
    address = source.removeprefix("timm:")
    download = address.endswith("?download")
    name, _, root = address.removesuffix("?download").partition("@")
    if name.lower().startswith(FETCHED) and not download:
        raise InputError(
            f"{source} may be fetched from the network",
            expected="permission to download",
            todo=f"Write {source}?download",
        )
    if name.lower().startswith("torch/") and not root:
        raise InputError(f"{source} does not say where the data lies", expected=f"timm:{name}@<folder>", todo="Add it")
    # Hugging Face and TensorFlow sets often have `test` in place of `validation`; timm translates for the others.
    named = name.lower().startswith((*FETCHED, "tfds/"))
    splits = (("train",), ("validation", "test") if named else ("validation",))
    calibration, validation = (
        _split(source, name, root, names=names, download=download, num_classes=num_classes, count=count)
        for names, count in zip(splits, images, strict=True)
    )
    return calibration, validation


def _split(
    source: str, name: str, root: str, *, names: tuple[str, ...], download: bool, num_classes: int, count: int
) -> Pool:
    """The first of these splits that the data set has."""
    failure: Exception | None = None
    for split in names:
        try:
            found = create_dataset(name, root=root or None, split=split, download=download)
            return _pool(found, f"{source} ({split})", num_classes=num_classes, count=count)
        except InputError:
            raise
        except FAILURES as error:
            failure = failure or error
    why = " ".join(str(failure).split()) or type(failure).__name__
    raise InputError(
        f"timm cannot read the {names[0]} split of {source}: {why}",
        expected="a data set that is on this machine",
        todo="Check name and folder" + ("" if download else f", or allow a download: {source}?download"),
    ) from failure


def _pool(found: Any, where: str, *, num_classes: int, count: int) -> Pool:
    if not hasattr(found, "__getitem__") or not hasattr(found, "__len__"):  # it streams: keep what is needed
        found = list(islice(iter(found), count or None))
    targets = _targets(found)
    label_of = _label_of(_class_names(found), num_classes=num_classes, where=where)
    wrong = [target for target in targets if not 0 <= label_of(target) < num_classes]
    if wrong:
        raise InputError(
            f"{where} has the label {wrong[0]}, the model's head has {num_classes} classes",
            expected=f"labels from 0 to {num_classes - 1}",
            todo="Choose the data that the model was trained on",
        )

    def read(i: int) -> tuple[Image.Image, str]:
        if (reader := getattr(found, "reader", None)) is not None:
            # timm's own data sets answer with the next image, and its label, where one does not decode.
            with reader[i][0] as file:
                return decode(file.read())
        image = found[i][0]
        if not isinstance(image, Image.Image):
            raise ValueError(f"a {type(image).__name__} and not an image")
        image.load()
        return image, digest(f"{image.mode}{image.size}".encode() + image.tobytes())

    names = tuple(_name(found, i) for i in range(len(targets)))
    return Pool(where=where, names=names, labels=tuple(label_of(target) for target in targets), read=read)


def _targets(found: Any) -> list[int]:
    """The label of every sample, without decoding the images where the data set keeps its labels apart."""
    keeper = getattr(found, "reader", found)  # timm's own data sets read through one
    if hasattr(keeper, "iter_targets"):
        return [int(target) for target in keeper.iter_targets()]
    for attribute in ("targets", "labels", "_labels"):
        if (targets := getattr(keeper, attribute, None)) is not None:
            return [int(target) for target in targets]
    if (samples := getattr(keeper, "samples", None)) is not None:
        return [int(sample[1]) for sample in samples]
    return [int(found[i][1]) for i in range(len(found))]


def _name(found: Any, i: int) -> str:
    named = getattr(found, "filename", None)  # timm's own data sets
    return str(named(i)) if callable(named) else f"{i:06d}"


def _class_names(found: Any) -> list[str]:
    """The names of the classes in the order of their labels; empty where they are not known."""
    index = getattr(getattr(found, "reader", found), "class_to_idx", None)
    return sorted(index, key=index.__getitem__) if index else []


def _label_of(names: list[str], *, num_classes: int, where: str) -> Callable[[int], int]:
    """What turns a data set's label into the model's: through ImageNet's ids where they are the class names."""
    if names and all(WNID.fullmatch(str(name)) for name in names):
        index = class_indices(names, num_classes=num_classes, where=where)
        return lambda target: index[names[target]]
    if names and len(names) != num_classes:
        raise InputError(
            f"{where} has {len(names)} classes, the model's head has {num_classes}",
            expected=f"{num_classes} classes",
            todo="Choose the data that the model was trained on",
        )
    return int
