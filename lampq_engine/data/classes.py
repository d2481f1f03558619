"""Which class of the model a folder name stands for."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Literal, get_args

from timm.data import ImageNetInfo, infer_imagenet_subset

from ..errors import InputError

Labels = Literal["auto", "imagenet", "sorted"]
WNID = re.compile(r"n\d{8}")


def class_indices(folders: Iterable[str], *, num_classes: int, where: str, labels: Labels = "auto") -> dict[str, int]:
    """The model's class index of each folder name.

    `imagenet`: the names are WordNet ids, looked up in the ImageNet variant that has `num_classes` classes.
    `sorted`: one folder a class, in sorted order. `auto`: the first where it fits, otherwise the second.
    """
    names = sorted(set(folders))
    if labels not in get_args(Labels):
        raise InputError(
            f"'{labels}' is not a way to read class folders",
            expected=", ".join(get_args(Labels)),
            todo="Leave it at auto",
        )
    variant = infer_imagenet_subset({"num_classes": num_classes})
    wnids = all(WNID.fullmatch(name) for name in names)
    if labels == "imagenet" or (labels == "auto" and wnids and variant):
        return _imagenet(names, variant=variant, num_classes=num_classes, where=where)
    if len(names) != num_classes:
        raise InputError(
            f"{where} has {len(names)} class folders, the model's head has {num_classes} classes",
            expected=f"{num_classes} class folders" + (", or ImageNet's folder names (n01440764)" if variant else ""),
            todo="Choose a folder with the classes that the model was trained on",
        )
    return {name: index for index, name in enumerate(names)}


def _imagenet(names: list[str], *, variant: str | None, num_classes: int, where: str) -> dict[str, int]:
    if variant is None:
        raise InputError(
            f"The model's head has {num_classes} classes, which is no ImageNet variant",
            expected="1000, 11221, 11821, 21841, 21842 or 21843 classes",
            todo="Read the class folders in sorted order",
        )
    index = {wnid: i for i, wnid in enumerate(ImageNetInfo(variant).label_names())}
    unknown = [name for name in names if name not in index]
    if unknown:
        shown = ", ".join(unknown[:3]) + (", ..." if len(unknown) > 3 else "")
        raise InputError(
            f"{where} has {len(unknown)} class folders that the model does not know: {shown}",
            expected=f"the {num_classes} classes of {variant}",
            todo="Remove these folders, or choose a model that was trained on them",
        )
    return {name: index[name] for name in names}
