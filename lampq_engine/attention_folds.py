"""An exact rewrite inside attention: channels of the values get scales and shifts that cost nothing in float.

The context is linear in the values and every row of the softmax sums to 1, so `v' = (v - shift) / scale` moves and
shrinks each channel of the context likewise, which the projection undoes: one range then fits all channels of the
values and of the projection's input, and values of mean zero make the context forgive rounded rows that do not sum to 1
(our choice, in the spirit of RepQ-ViT's rewrite after LayerNorm). Queries and keys allow the like, but rounded keys
got worse by it on DeiT-Tiny. The rewrite is used only where a probe has shown that the model does not change.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lampq_engine.fold_rules import SMALLEST
from lampq_engine.folds import EXACT
from lampq_engine.quantizers import fit_channels
from lampq_engine.types import Layer


@dataclass(frozen=True)
class Attention:
    """The module paths of one attention whose queries, keys and values come from one linear layer, in that order."""

    context: str
    qkv: str
    proj: str


@torch.no_grad()
def fold_values_(qkv: nn.Linear, proj: nn.Linear, scale: Tensor, shift: Tensor) -> None:
    """Make the values `(v - shift) / scale`, both (C,) over all heads, and let the projection undo it."""
    part = proj.in_features
    qkv.weight[2 * part :].div_(scale[:, None])
    qkv.bias[2 * part :].sub_(shift).div_(scale)
    proj.bias.add_(proj.weight @ shift)
    proj.weight.mul_(scale)


@torch.no_grad()
def value_rule(values: Tensor, context: Tensor, bits: int, search: str = "mse") -> tuple[Tensor, Tensor]:
    """Scale and shift (C,) of the values (B, heads, N, D), given the context (B, N, C) they are mixed into.

    The shift is the mean of the context, the scale the geometric mean of the scales that the values' and the
    context's channels would have of their own (our choice). A constant channel is left alone.
    """
    v, c = values.float().transpose(1, 2).flatten(2).flatten(0, 1), context.float().flatten(0, -2)
    scale = (fit_channels(v, bits, search)[0] * fit_channels(c, bits, search)[0]).sqrt()
    common = scale.mean().clamp(min=1e-12)
    dead = scale < SMALLEST * common
    return (scale / common).masked_fill(dead, 1.0), c.mean(0).masked_fill(dead, 0.0)


def attentions(model: nn.Module, layers: Sequence[Layer], example: Tensor) -> list[Attention]:
    """The attentions of a model that can be rewritten, each proven on a float64 copy."""
    found = [one for one in _candidates(model, layers) if _fits(model, one)]
    return found if _exact(model, found, example) else [one for one in found if _exact(model, [one], example)]


def _candidates(model: nn.Module, layers: Sequence[Layer]) -> list[Attention]:
    by_parent: dict[str, dict[str, list[str]]] = {}
    for layer in layers:
        if layer.kind in ("context", "qkv", "proj"):
            parent = layer.name.rpartition(".")[0]
            by_parent.setdefault(parent, {}).setdefault(layer.kind, []).append(layer.name)
    whole = [kinds for kinds in by_parent.values() if sorted(map(len, kinds.values())) == [1, 1, 1]]
    return [Attention(k["context"][0], k["qkv"][0], k["proj"][0]) for k in whole]


def _fits(model: nn.Module, one: Attention) -> bool:
    qkv, proj = model.get_submodule(one.qkv), model.get_submodule(one.proj)
    if not (isinstance(qkv, nn.Linear) and isinstance(proj, nn.Linear)):
        return False
    return qkv.bias is not None and proj.bias is not None and qkv.out_features == 3 * proj.in_features


def linears(model: nn.Module, one: Attention) -> tuple[nn.Linear, nn.Linear]:
    """The layers before and after an attention's products."""
    qkv, proj = model.get_submodule(one.qkv), model.get_submodule(one.proj)
    assert isinstance(qkv, nn.Linear)
    assert isinstance(proj, nn.Linear)
    return qkv, proj


@torch.no_grad()
def _exact(model: nn.Module, found: Sequence[Attention], example: Tensor) -> bool:
    """Whether random scales and shifts leave the output of a float64 copy as it is."""
    if not found:
        return True
    probe, image = copy.deepcopy(model).cpu().double().eval(), example.cpu().double()
    before, source = probe(image), torch.Generator().manual_seed(0)
    for one in found:
        qkv, proj = linears(probe, one)
        scale = torch.rand(proj.in_features, generator=source, dtype=torch.float64) + 0.5
        fold_values_(qkv, proj, scale, torch.randn(len(scale), generator=source, dtype=torch.float64) * 0.1)
    first, second = (out if isinstance(out, Tensor) else out[0] for out in (before, probe(image)))
    return bool((first - second).abs().max() <= EXACT * first.abs().max())
