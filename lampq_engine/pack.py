"""The packed file: a safetensors file whose weights take their bits, and which loads back to the simulated model.

Tensors: `codes` (uint8, every layer's codes as one dense bit stream per layer, first bit first), `scales` (float32) and
`zeros` (int16, twice the zero point, which may be half-integer) per output channel, `inputs` (float32, scales and zero
points of every quantized input, or scales, bases and shifts of a logarithmic one), and every other tensor of the model
under its own name. The metadata say which layer takes how much of each, and how to build the model.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from lampq_engine.errors import InputError
from lampq_engine.files import write_bytes
from lampq_engine.models import route_matmuls_
from lampq_engine.quantized import Quantized, quantized_layers
from lampq_engine.quantizers import Log, Quantizer, Twin, Uniform
from lampq_engine.recipe import Recipe, to_toml
from lampq_engine.types import FLOAT_BITS, Layer

FORMAT = "lampq-packed-2"
KINDS: dict[type[nn.Module], str] = {Uniform: "u", Log: "l", Twin: "t"}  # first character of an input's tag
BUFFERS = ("scale", "zero", "log_step", "shift")


def pack_bits(codes: Tensor, bits: int) -> Tensor:
    """Integer codes (N,) as a dense little-endian bit stream, ceil(N bits / 8) bytes of uint8."""
    rows = np.unpackbits(codes.cpu().numpy().astype(np.uint8)[:, None], axis=1, bitorder="little")[:, :bits]
    return torch.from_numpy(np.packbits(rows.reshape(-1), bitorder="little"))


def unpack_bits(stream: Tensor, bits: int, count: int) -> Tensor:
    """The inverse of `pack_bits`: `count` codes of `bits` bits as float32."""
    rows = np.unpackbits(stream.numpy(), bitorder="little")[: count * bits].reshape(count, bits)
    return torch.from_numpy(np.packbits(rows, axis=1, bitorder="little")[:, 0].astype(np.float32))


def write_packed(path: Path, model: nn.Module, recipe: Recipe) -> int:
    """Write a quantized model (see `quantize_`) as a packed file; returns its size in bytes."""
    content = save(*_content(model, recipe))
    write_bytes(path, content)
    return len(content)


def fixed_bytes(model: nn.Module, layers: Sequence[Layer]) -> int:
    """Bytes of a packed file beside its layers' codes, scales and zero points: floats, header, recipe."""
    weights = {f"{layer.name}.weight" for layer in layers if layer.weights}
    floats = {name: tensor for name, tensor in _floats(model).items() if name not in weights}
    table = [_row(layer.name, 4, [f"u4x{layer.heads}"] * 2 if layer.is_matmul else ["u4"]) for layer in layers]
    empty = {name: torch.zeros(0) for name in ("codes", "scales", "zeros", "inputs")}
    return len(save(empty | floats, _metadata(model, table, Recipe())))


def _content(model: nn.Module, recipe: Recipe) -> tuple[dict[str, Tensor], dict[str, str]]:
    wrapped, table = quantized_layers(model), []
    codes, scales, zeros, inputs = [], [], [], []
    floats = _floats(model)
    for name, module in wrapped.items():
        quantizer = module.weight_quantizer
        if quantizer is not None:
            codes.append(pack_bits(quantizer.codes(module.weight.detach()).flatten(), quantizer.bits))
            scales.append(quantizer.step.detach().flatten().float().cpu())
            zeros.append((2 * quantizer.zero).round().to(torch.int16).flatten().cpu())
            floats.pop(f"{name}.weight")
        inputs += [_numbers(q) for q in module.input_quantizers if isinstance(q, Uniform | Log | Twin)]
        tags = [_tag(q) for q in module.input_quantizers]
        table.append(_row(name, quantizer.bits if quantizer else FLOAT_BITS, tags))
    tensors = {
        "codes": _joined(codes, torch.uint8),
        "scales": _joined(scales, torch.float32),
        "zeros": _joined(zeros, torch.int16),
        "inputs": _joined(inputs, torch.float32),
    }
    return tensors | floats, _metadata(model, table, recipe)


def _joined(parts: Sequence[Tensor], dtype: torch.dtype) -> Tensor:
    return torch.cat(list(parts)) if parts else torch.zeros(0, dtype=dtype)


def _floats(model: nn.Module) -> dict[str, Tensor]:
    """Every tensor of the model that is not a quantizer's, under the name it has in the float model."""
    found = {}
    for name, tensor in model.state_dict().items():
        if "_quantizer" not in name and not name.endswith(".shift"):
            found[name.replace(".op.", ".")] = tensor.detach().cpu().contiguous()
    return found


def _row(name: str, bits: int, tags: Sequence[str]) -> list[Any]:
    return [name, bits, ",".join(tags)]


def _tag(quantizer: nn.Module) -> str:
    """The kind of an input's quantizer, its width, and its number of scales where that is not one: `u4x3`."""
    if not isinstance(quantizer, Uniform | Log | Twin):
        return ""
    count = quantizer.scale.numel()
    return f"{KINDS[type(quantizer)]}{quantizer.bits}" + (f"x{count}" if count > 1 else "")


def _numbers(quantizer: Quantizer) -> Tensor:
    if isinstance(quantizer, Log):
        return torch.cat([t.reshape(-1) for t in (quantizer.scale, quantizer.q, quantizer.shift)]).float().cpu()
    offset = quantizer.ratio if isinstance(quantizer, Twin) else quantizer.zero
    return torch.cat([quantizer.step.detach().reshape(-1), offset.reshape(-1)]).float().cpu()


def _metadata(model: nn.Module, table: Sequence[list[Any]], recipe: Recipe) -> dict[str, str]:
    return {
        "format": FORMAT,
        "model": json.dumps(construction(model), separators=(",", ":")),
        "layers": json.dumps(table, separators=(",", ":")),
        "recipe": to_toml(recipe),
    }


def construction(model: nn.Module) -> dict[str, Any]:
    """What `timm.create_model` needs to build the same architecture without any weights."""
    config = dict(getattr(model, "pretrained_cfg", {}) or {})
    arguments = dict(config.get("model_args") or getattr(model, "lampq_arguments", {}) or {})
    return {
        "architecture": config.get("architecture", ""),
        "arguments": arguments,
        "config": {k: config[k] for k in ("input_size", "mean", "std", "interpolation", "crop_pct") if k in config},
        "num_classes": getattr(model, "num_classes", 1000),
    }


def load_packed(path: Path) -> nn.Module:
    """The simulated model of a packed file, in eval mode; `InputError` names a damaged or foreign file."""
    try:
        with safe_open(path, framework="pt") as file:
            metadata = dict(file.metadata() or {})
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    except (OSError, SafetensorError) as error:
        raise InputError(
            f"{path} is not a whole safetensors file: {error}", todo="Export it again from its trial"
        ) from error
    if metadata.get("format") != FORMAT:
        raise InputError(
            f"{path} is not a packed file",
            expected=f"a safetensors file with format {FORMAT}",
            todo="Choose another file",
        )
    try:
        model = _build(json.loads(metadata["model"]))
        _fill_(model, json.loads(metadata["layers"]), tensors)
    except (KeyError, ValueError, TypeError, AttributeError, IndexError, RuntimeError) as error:
        raise InputError(
            f"{path} is damaged: what it says of itself does not fit its tensors ({error!r})",
            todo="Export it again from its trial",
        ) from error
    return model.eval()


def _build(plan: Mapping[str, Any]) -> nn.Module:
    arguments = {"num_classes": plan["num_classes"], **plan["arguments"]}
    arguments = {k: tuple(v) if isinstance(v, list) else v for k, v in arguments.items()}
    overlay = {k: tuple(v) if isinstance(v, list) else v for k, v in plan["config"].items()}
    model = timm.create_model(plan["architecture"], pretrained=False, pretrained_cfg_overlay=overlay, **arguments)
    channels, *size = overlay.get("input_size", (3, 224, 224))
    size = _sides(arguments.get("img_size"), size)
    route_matmuls_(model, torch.zeros(1, channels, *size))
    return model


def _sides(asked: Any, otherwise: Sequence[int]) -> Sequence[int]:
    """Height and width of the images a model was built for: an `img_size` argument overrides its configuration."""
    if asked is None:
        return otherwise
    return (asked, asked) if isinstance(asked, int) else asked


def _fill_(model: nn.Module, table: Sequence[Sequence[Any]], tensors: dict[str, Tensor]) -> None:
    codes, scales, zeros, inputs = (iter_split(tensors.pop(k)) for k in ("codes", "scales", "zeros", "inputs"))
    for name, bits, tags in table:
        op, weight = model.get_submodule(name), None
        if bits != FLOAT_BITS:
            assert isinstance(op.weight, Tensor)
            shape, channels = op.weight.shape, op.weight.shape[0]
            column = (-1, *[1] * (len(shape) - 1))
            weight = Uniform(bits, scales(channels).view(column), (zeros(channels).float() / 2).view(column))
            count = op.weight.numel()
            level = unpack_bits(codes(-(-count * bits // 8)), bits, count).view(shape)
            tensors[f"{name}.weight"] = (level - weight.zero) * weight.scale
            if f"{name}.bias" in tensors and op.bias is None:
                op.bias = nn.Parameter(tensors[f"{name}.bias"].clone())
        quantizers = [_restored(tag, inputs) if tag else None for tag in tags.split(",")]
        model.set_submodule(name, Quantized(op, weight, quantizers))
    own = {name: name.replace(".op.", ".") for name in model.state_dict() if "_quantizer" not in name}
    model.load_state_dict({name: tensors[plain] for name, plain in own.items()}, strict=False)


def _restored(tag: str, numbers: Any) -> Quantizer:
    bits, _, count = tag[1:].partition("x")
    shape = (int(count), 1, 1) if count else ()

    def number() -> Tensor:
        return numbers(int(count or 1)).view(shape)

    if tag[0] == "l":
        return Log(int(bits), number(), number(), number())
    return (Twin if tag[0] == "t" else Uniform)(int(bits), number(), number())


def iter_split(tensor: Tensor) -> Any:
    """A function that returns the next `count` elements of a tensor at each call."""
    place = [0]

    def take(count: int) -> Tensor:
        place[0] += count
        return tensor[place[0] - count : place[0]]

    return take
