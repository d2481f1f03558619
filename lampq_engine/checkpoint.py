"""The state of a training run as one file: written whole after every epoch, read back whole or not at all."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from lampq_engine.files import write_bytes
from lampq_engine.quantized import Quantized, quantized_layers
from lampq_engine.quantizers import Log, Quantizer, Twin, Uniform

NAME = "checkpoint.safetensors"
Form = tuple[str, int] | None  # class and width of a quantizer; None: float

State = dict[str, Tensor]


@dataclass
class Progress:
    """How far a training run is: its epochs, and the state of the one to keep."""

    epoch: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)
    best: State = field(default_factory=dict)  # of the model
    best_epoch: int = 0  # 0: as it was before training
    best_loss: float = float("inf")  # on the held-out training images, nats


def write_checkpoint(
    folder: Path, *, key: str, model: nn.Module, optimizer: torch.optim.Optimizer, progress: Progress
) -> None:
    """Write model, optimizer and progress into `folder`, in place of the epoch before; whole or not at all."""
    slots = optimizer.state_dict()["state"]
    parts = {
        "model": model.state_dict(),
        "best": progress.best,
        "optimizer": {f"{i}.{name}": value for i, slot in slots.items() for name, value in slot.items()},
    }
    tensors = {f"{part}.{k}": v.detach().cpu().clone() for part, state in parts.items() for k, v in state.items()}
    record = {
        "epoch": progress.epoch,
        "history": progress.history,
        "best_epoch": progress.best_epoch,
        "best_loss": progress.best_loss,
        "forms": forms(model),
    }
    metadata = {"key": key, "hash": _hash(tensors), "record": json.dumps(record)}
    write_bytes(folder / NAME, save(tensors, metadata=metadata))


def read_checkpoint(folder: Path, key: str) -> tuple[State, dict[str, Any]] | None:
    """The tensors and the record of `folder`'s checkpoint; None where it is missing, damaged or of another key."""
    for unfinished in folder.glob(f".{NAME}.*"):  # what a process killed in mid-write leaves
        unfinished.unlink(missing_ok=True)
    with contextlib.suppress(OSError, SafetensorError, ValueError), safe_open(folder / NAME, framework="pt") as file:
        metadata = file.metadata() or {}
        if metadata.get("key") != key:
            return None
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping
        if metadata.get("hash") == _hash(tensors):
            return tensors, json.loads(metadata["record"])
    return None


def restore_(model: nn.Module, tensors: State, record: Mapping[str, Any]) -> Progress:
    """Give the model the quantizers and the state of a checkpoint; returns how far the run was."""
    state = _part(tensors, "model")
    _rebuild_(model, record["forms"], state)
    model.load_state_dict(state)
    device = next(model.parameters()).device
    best = {name: value.to(device) for name, value in _part(tensors, "best").items()}
    return Progress(record["epoch"], record["history"], best, record["best_epoch"], record["best_loss"])


def restore_optimizer_(optimizer: torch.optim.Optimizer, tensors: State) -> None:
    """Give the optimizer, made for the restored model, the state of a checkpoint."""
    slots: dict[int, State] = {}
    for name, value in _part(tensors, "optimizer").items():
        index, _, slot = name.partition(".")
        slots.setdefault(int(index), {})[slot] = value
    optimizer.load_state_dict(optimizer.state_dict() | {"state": slots})


def forms(model: nn.Module) -> dict[str, list[Form]]:
    """Class and width of the quantizers of every layer, its weight's first; a state dict does not say them."""

    def form(quantizer: nn.Module | None) -> Form:
        known = isinstance(quantizer, Uniform | Log | Twin)
        return (type(quantizer).__name__, quantizer.bits) if known else None  # type: ignore[union-attr,return-value]

    return {
        name: [form(layer.weight_quantizer), *map(form, layer.input_quantizers)]
        for name, layer in quantized_layers(model).items()
    }


def _rebuild_(model: nn.Module, wanted: Mapping[str, list[Form]], state: State) -> None:
    """Wrap the layers anew where the widths were changed during training; the others keep their quantizers."""
    have = json.loads(json.dumps(forms(model)))
    for name in have.keys() - wanted.keys():
        model.set_submodule(name, model.get_submodule(name).op)  # type: ignore[arg-type]
    device = next(model.parameters()).device
    for name, row in wanted.items():
        if have.get(name) == row:
            continue
        old = model.get_submodule(name)
        places = ["weight_quantizer", *(f"input_quantizers.{i}" for i in range(len(row) - 1))]
        made = [
            None if form is None else _quantizer(form, {k: state[f"{name}.{place}.{k}"] for k in _BUFFERS[form[0]]})
            for form, place in zip(row, places, strict=True)
        ]
        weight = made[0]
        assert weight is None or isinstance(weight, Uniform)
        op = old.op if isinstance(old, Quantized) else old
        model.set_submodule(name, Quantized(op, weight, made[1:]).to(device))
    learn_(model)


_BUFFERS = {"Uniform": ("scale", "zero"), "Log": ("scale", "q", "shift"), "Twin": ("scale", "ratio")}
_CLASSES: dict[str, type[Quantizer]] = {"Uniform": Uniform, "Log": Log, "Twin": Twin}


def _quantizer(form: tuple[str, int], buffers: State) -> Quantizer:
    kind, bits = form
    return _CLASSES[kind](bits, **buffers)


def learn_(model: nn.Module) -> None:
    """Make every step size that is not yet learned a parameter."""
    for module in model.modules():
        if isinstance(module, Uniform | Twin) and module.log_step is None:
            module.learn_()


def _part(tensors: State, part: str) -> State:
    return {name.removeprefix(f"{part}."): value for name, value in tensors.items() if name.startswith(f"{part}.")}


def _hash(tensors: State) -> str:
    """What every byte of the tensors amounts to: safetensors itself notices a short file but not a changed one."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
