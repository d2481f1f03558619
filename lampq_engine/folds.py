"""Exact rewrites of a (norm, linear) pair that make activations easier to quantize: x' = (x - shift) / scale.

RepQ-ViT's reparameterisation, Mix-QViT's clipped variant and MPTQ-ViT's SQ-b are all this one rewrite; they differ in
how scale and shift are chosen (`fold_rules`). A pair is only folded after a probe has shown that the model does not
change.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lampq_engine.types import Layer

EXACT = 1e-8  # largest relative change of the output, in float64, that counts as none


@dataclass(frozen=True)
class Pair:
    """A LayerNorm and every linear layer that reads its output."""

    norm: str
    linears: tuple[str, ...]


@torch.no_grad()
def fold_(norm: nn.LayerNorm, linears: Sequence[nn.Linear], scale: Tensor, shift: Tensor) -> None:
    """Make the norm put out `(x - shift) / scale` and its readers undo it; `scale` and `shift` are (C,).

    Exact up to rounding: 1e-15 in float64. A linear layer without bias gets one where the shift needs it.
    """
    norm.weight.div_(scale)
    norm.bias.sub_(shift).div_(scale)
    for linear in linears:
        moved = linear.weight @ shift.to(linear.weight)
        if linear.bias is None:
            linear.bias = nn.Parameter(torch.zeros_like(moved))
        linear.bias.add_(moved)
        linear.weight.mul_(scale.to(linear.weight))


def norm_pairs(model: nn.Module, layers: Sequence[Layer], example: Tensor) -> list[Pair]:
    """The (norm, linears) pairs of a model that can be folded exactly, each proven on a float64 copy.

    Candidates are the linear layers that run right after a LayerNorm of their width; those for which a random scale
    and shift change the output (SwinV2's post-norm, a padded window) are left out.
    """
    candidates = _candidates(model, layers, example)
    if not candidates or _exact(model, candidates, example):
        return candidates
    return [pair for pair in candidates if _exact(model, [pair], example)]


def _candidates(model: nn.Module, layers: Sequence[Layer], example: Tensor) -> list[Pair]:
    order: list[str] = []
    readers = {layer.name for layer in layers if layer.kind in ("qkv", "fc1", "merge")}
    hooks = [
        module.register_forward_pre_hook(lambda _m, _x, name=name: order.append(name))
        for name, module in model.named_modules()
        if name in readers or _affine(module)
    ]
    try:
        with torch.no_grad():
            model(example)
    finally:
        for hook in hooks:
            hook.remove()
    found: dict[str, list[str]] = {}
    for position, name in enumerate(order):
        if name in readers:
            width = getattr(model.get_submodule(name), "in_features", 0)
            norm = next((n for n in reversed(order[:position]) if _width(model, n) == width), "")
            if norm:
                found.setdefault(norm, []).append(name)
    once = {norm for norm in found if order.count(norm) == 1 and all(order.count(n) == 1 for n in found[norm])}
    return [Pair(norm, tuple(names)) for norm, names in found.items() if norm in once]


def _affine(module: nn.Module) -> bool:
    return isinstance(module, nn.LayerNorm) and module.weight is not None and module.bias is not None


def _width(model: nn.Module, name: str) -> int:
    module = model.get_submodule(name)
    return module.normalized_shape[-1] if isinstance(module, nn.LayerNorm) else 0


@torch.no_grad()
def _exact(model: nn.Module, pairs: Sequence[Pair], example: Tensor) -> bool:
    """Whether random scales and shifts leave the output of a float64 copy as it is."""
    probe = copy.deepcopy(model).cpu().double().eval()
    image = example.cpu().double()
    before = probe(image)
    source = torch.Generator().manual_seed(0)
    for pair in pairs:
        norm, linears = modules_of(probe, pair)
        width = norm.normalized_shape[-1]
        scale = torch.rand(width, generator=source, dtype=torch.float64) + 0.5
        fold_(norm, linears, scale, torch.randn(width, generator=source, dtype=torch.float64) * 0.1)
    after = probe(image)
    first, second = (out if isinstance(out, Tensor) else out[0] for out in (before, after))
    return bool((first - second).abs().max() <= EXACT * first.abs().max())


def modules_of(model: nn.Module, pair: Pair) -> tuple[nn.LayerNorm, list[nn.Linear]]:
    """The modules of a pair."""
    norm, linears = model.get_submodule(pair.norm), [model.get_submodule(name) for name in pair.linears]
    assert isinstance(norm, nn.LayerNorm)
    return norm, [linear for linear in linears if isinstance(linear, nn.Linear)]
