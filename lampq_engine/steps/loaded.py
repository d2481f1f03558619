"""A study's model and images in memory, surveyed and ready to work on."""

from __future__ import annotations

import copy
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version

import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn

from lampq_engine.cost import CostModel
from lampq_engine.data import Dataset, load_dataset
from lampq_engine.errors import InputError
from lampq_engine.evaluate import best_device, device_of, predict
from lampq_engine.files import key_of, write_bytes
from lampq_engine.journal import Report, silent
from lampq_engine.models import bypassed, load_model, preprocessing, route_matmuls_, survey, weights_hash
from lampq_engine.pack import fixed_bytes
from lampq_engine.quantize import Folds, folds_of
from lampq_engine.recipe import DataSpec, ModelSpec
from lampq_engine.store import Study
from lampq_engine.types import Layer


@dataclass(frozen=True, eq=False)
class Loaded:
    """A float model on its device, its data, its layers with their costs, and what can be folded."""

    model: nn.Module
    data: Dataset
    costs: CostModel
    bypassed: tuple[str, ...]
    folds: Folds
    hash: str  # of the weights

    @property
    def layers(self) -> Sequence[Layer]:
        return self.costs.layers

    @property
    def device(self) -> torch.device:
        return device_of(self.model)

    @property
    def device_name(self) -> str:
        """`cpu` with its architecture, or the name of the GPU."""
        return torch.cuda.get_device_name() if self.device.type == "cuda" else f"cpu ({platform.machine()})"

    @cached_property
    def key(self) -> str:
        """What any result on this model and these images depends on."""
        return key_of(self.hash, self.data.calibration.hash, self.data.validation.hash)

    def copy(self) -> nn.Module:
        """A float model to change in place."""
        return copy.deepcopy(self.model)

    def calibration(self, images: int) -> Tensor:
        """The first `images` calibration images on the device, (N, C, H, W)."""
        count = min(images, len(self.data.calibration))
        return self.data.calibration.batch(range(count)).to(self.device)


def versions() -> dict[str, str]:
    """Versions of everything a result depends on."""
    names = ("torch", "timm", "torchvision", "numpy", "ortools", "safetensors", "lampq-studio")
    return {"python": platform.python_version(), **{name: version(name) for name in names}}


def load(model: ModelSpec, data: DataSpec, *, report: Report = silent) -> Loaded:
    """Load model and images, route and survey the model, find what can be folded.

    `InputError` for a model that is no Vision Transformer, for data that do not fit it, for too few images.
    """
    report("load model")
    net = load_model(model.name, checkpoint=model.checkpoint)
    config = preprocessing(net)
    example = torch.zeros(1, *config["input_size"])
    route_matmuls_(net, example)
    found = weights_hash(net)
    if model.hash and model.hash != found:
        raise InputError(
            f"The recipe was made for other weights of {model.name!r} ({model.hash}; these are {found})",
            expected="the model that the recipe was made for",
            todo="Choose that model, or remove `hash` from the recipe to use it all the same",
        )
    report("load images")
    images = load_dataset(
        data.source,
        model_config=config,
        num_classes=int(getattr(net, "num_classes", 0)),
        calibration_images=data.calibration_images,
        validation_images=data.validation_images,
        seed=data.seed,
        calibration_source=data.calibration_source,
    )
    report("survey")
    torch.manual_seed(0)
    probe = torch.randn(example.shape)  # no image: what is zero-shot must not have seen one
    layers = tuple(survey(net, probe))
    folds = folds_of(net, layers, probe)
    costs = CostModel(layers, fixed_bytes(net, layers))
    return Loaded(net.to(best_device()), images, costs, tuple(bypassed(net, probe)), folds, found)


def float_logits(study: Study, loaded: Loaded, split: str, *, report: Report = silent) -> Tensor:
    """The float model's logits on a split, (N, classes), computed once per study."""
    path = study.path / "logits" / f"{split}-{loaded.key}.safetensors"
    images = getattr(loaded.data, split)
    try:
        logits = load_file(path)["logits"]
        if len(logits) == len(images):
            return logits
    except Exception:
        pass
    logits = predict(loaded.model, images, report=report, stage="float model")
    write_bytes(path, save({"logits": logits}))
    return logits
