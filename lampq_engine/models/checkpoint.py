"""Weights out of a file, into a model that they must fit."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from lampq_engine.errors import InputError


def load_checkpoint_(model: nn.Module, file: Path) -> None:
    """Put the weights of a file into a model; every name and size must match."""
    weights, own = _read_weights(file), model.state_dict()
    sizes = [
        f"{key} is {tuple(weights[key].shape)}, not {tuple(own[key].shape)}"
        for key in own
        if key in weights and weights[key].shape != own[key].shape
    ]
    problems = {
        "missing": [key for key in own if key not in weights],
        "unexpected": [key for key in weights if key not in own],
        "of another size": sizes,
    }
    if any(problems.values()):
        said = ", ".join(f"{len(keys)} {what} ({_some(keys)})" for what, keys in problems.items() if keys)
        raise InputError(
            f"the checkpoint {file} does not fit {type(model).__name__}: {said}",
            expected="every weight of the model by its timm name, in its size",
        )
    model.load_state_dict(weights)


def _read_weights(file: Path) -> Mapping[str, Tensor]:
    if not file.is_file():
        raise InputError(f"the checkpoint {file} does not exist")
    try:
        if file.suffix == ".safetensors":
            return load_file(file)
        content = torch.load(file, map_location="cpu", weights_only=True)
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError) as error:
        raise corrupt(file, error) from error
    for key in ("state_dict", "model"):  # how timm's and DeiT's training scripts wrap the weights
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise InputError(f"the checkpoint {file} holds no state dict", expected="a mapping from names to tensors")
    return content


def corrupt(file: Path, error: Exception) -> InputError:
    """The error for a file of weights that cannot be decoded."""
    return InputError(
        f"{file} cannot be read as weights, it is truncated or damaged ({short(error)})",
        todo="Fetch or copy the file again",
    )


def short(error: Exception) -> str:
    """The text of a foreign error in one line of at most 200 characters."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 200 else f"{text[:200]} ..."


def _some(keys: list[str]) -> str:
    return ", ".join(keys[:3]) + (", ..." if len(keys) > 3 else "")
