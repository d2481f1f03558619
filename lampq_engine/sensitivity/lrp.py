"""Layer-wise relevance propagation: how much of a prediction passes through each layer (LRP-QViT, Mix-QViT).

The rules are those of Chefer et al. (CVPR 2021), which Mix-QViT follows as far as is known. Autograd carries the
relevance R in place of a gradient: views, permutations, windows and fan-out then treat it rightly by themselves, and
a `TorchFunctionMode` gives every operation that computes something a backward which is its relevance rule. So timm's
own forward runs, whatever the architecture; that relevance is conserved is measured, not presumed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.grad import conv2d_input
from torch.overrides import TorchFunctionMode

from lampq_engine.controls import decay
from lampq_engine.data import Images
from lampq_engine.errors import InputError
from lampq_engine.evaluate import device_of
from lampq_engine.journal import Report, silent
from lampq_engine.sensitivity.capture import frozen
from lampq_engine.sensitivity.fisher import PAIRS
from lampq_engine.types import Layer, Sensitivity

CONSERVED = 1e-2  # a greater share of relevance lost or made means that some operation has no rule
Rule = Callable[..., tuple[Tensor | None, ...]]


@dataclass(frozen=True, eq=False)
class Relevance:
    """Positive relevance at every layer's input, and where in the image it lies; of each image, whose R sums to 1."""

    layers: dict[str, Tensor]  # (N,) sum of R+ at the layer's input
    totals: dict[str, Tensor]  # (N,) sum of R at each block's first input: 1 where relevance is conserved
    maps: Tensor  # (N, H, W) relevance of each patch of the image
    predicted: Tensor  # (N,) the class whose logit was explained

    @property
    def lost(self) -> float:
        """The greatest departure of a total from 1."""
        return max((float((total - 1).abs().max()) for total in self.totals.values()), default=0.0)


def relevance(
    model: nn.Module, layers: Sequence[Layer], images: Images, *, batch: int = 8, report: Report = silent
) -> Relevance:
    """Propagate the relevance of each image's predicted logit back through the model, to every layer and patch.

    Explaining the prediction rather than the label is our choice: it needs no label. `InputError` for an architecture
    in which relevance is not conserved.
    """
    found: list[Relevance] = []
    for x, _ in images.batches(batch):
        found.append(_propagate(model, layers, x.to(device_of(model))))
        report("relevance", sum(len(one.predicted) for one in found), len(images))
    whole = Relevance(
        {name: torch.cat([one.layers[name] for one in found]) for name in found[0].layers},
        {name: torch.cat([one.totals[name] for one in found]) for name in found[0].totals},
        torch.cat([one.maps for one in found]),
        torch.cat([one.predicted for one in found]),
    )
    if whole.lost > CONSERVED:
        raise InputError(
            f"Relevance is not conserved in this model: {100 * whole.lost:.1f} % of it is lost or made on the way",
            expected="a ViT, DeiT or Swin, whose every operation has a rule",
            todo="Choose another metric for this model",
        )
    return whole


def _propagate(model: nn.Module, layers: Sequence[Layer], x: Tensor) -> Relevance:
    count, seen, totals, maps = len(x), dict[str, Tensor](), dict[str, Tensor](), list[Tensor]()

    def at_input(name: str) -> Callable[..., None]:
        def hook(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            for one in inputs:
                if one.requires_grad:
                    one.register_hook(lambda r: keep(seen, name, r.clamp(min=0)))

        return hook

    def keep(into: dict[str, Tensor], name: str, r: Tensor) -> None:
        total = r.detach().reshape(count, -1).double().sum(1).cpu()
        into[name] = into.get(name, torch.zeros_like(total)) + total

    def at_block(name: str) -> Callable[..., None]:
        def hook(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            inputs[0].register_hook(lambda r: keep(totals, name, r))

        return hook

    def at_patches(_: nn.Module, _x: tuple[Tensor, ...], out: Tensor) -> None:
        out.register_hook(lambda r: maps.append(r.detach().double().sum(1).cpu()))

    hooks = [model.get_submodule(layer.name).register_forward_pre_hook(at_input(layer.name)) for layer in layers]
    hooks += [module.register_forward_pre_hook(at_block(name)) for name, module in _blocks(model)]
    patch = next(layer.name for layer in layers if layer.kind == "patch")
    hooks.append(model.get_submodule(patch).register_forward_hook(at_patches))
    try:
        with frozen(model), torch.enable_grad(), _Rules():
            out = model(x.clone().requires_grad_())
            logits = out if isinstance(out, Tensor) else sum(out) / len(out)
            chosen = logits.detach().argmax(1)
            logits.backward(F.one_hot(chosen, logits.shape[1]).to(logits))
    finally:
        for handle in hooks:
            handle.remove()
    return Relevance(seen, totals, maps[0], chosen.cpu())


def _blocks(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """The residual blocks: modules that own an attention and its norm."""
    return [(name, m) for name, m in model.named_modules() if hasattr(m, "attn") and hasattr(m, "norm1")]


class _Rules(TorchFunctionMode):
    """Gives every operation whose inputs carry relevance the backward of its rule."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        rule = RULES.get(func)
        carriers = [a for a in args if isinstance(a, Tensor) and a.requires_grad]
        if rule is None or not carriers:
            return func(*args, **(kwargs or {}))
        with torch.no_grad():
            out = func(*args, **(kwargs or {})).detach().clone()
        return _Carried.apply(rule, args, kwargs or {}, out, *carriers)


class _Carried(torch.autograd.Function):
    """Forward what was computed, backward the relevance that each input carries."""

    @staticmethod
    def forward(ctx: Any, rule: Rule, args: Any, kwargs: Any, out: Tensor, *carriers: Tensor) -> Tensor:
        ctx.rule, ctx.kwargs, ctx.out = rule, kwargs, out.detach()
        ctx.args = [a.detach() if isinstance(a, Tensor) else a for a in args]
        ctx.carry = [isinstance(a, Tensor) and a.requires_grad for a in args]
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        parts = ctx.rule(grads[0], ctx.out, ctx.args, ctx.carry, ctx.kwargs)
        carried = [part for part, carry in zip(parts, ctx.carry, strict=False) if carry]
        return None, None, None, None, *carried


def _divide(r: Tensor, z: Tensor) -> Tensor:
    """R / z, and 0 where z is 0."""
    safe = z + 1e-9 * torch.where(z >= 0, 1.0, -1.0)
    return torch.where(z == 0, 0.0, r / safe)


def _same(r: Tensor, out: Tensor, args: Any, carry: Any, kwargs: Any) -> tuple[Tensor, ...]:
    """Softmax, GELU, LayerNorm, a factor: relevance passes as it is."""
    return (r,)


def _product(r: Tensor, out: Tensor, args: Any, carry: list[bool], kwargs: Any) -> tuple[Tensor | None, ...]:
    """An elementwise product: all to the one that carries; halves where both do."""
    both = sum(carry)
    return tuple(_shaped(r / both, a.shape) if c else None for a, c in zip(args, carry, strict=True))


def _linear(r: Tensor, out: Tensor, args: Any, carry: Any, kwargs: Any) -> tuple[Tensor, ...]:
    """z+ (alpha 1, beta 0): `x+ (W+^T S) + x- (W-^T S)` with `S = R / (x+ W+ + x- W-)`; the bias takes nothing."""
    x, w = args[0], args[1] if len(args) > 1 else kwargs["weight"]
    up, down, wp, wn = x.clamp(min=0), x.clamp(max=0), w.clamp(min=0), w.clamp(max=0)
    s = _divide(r, F.linear(up, wp) + F.linear(down, wn))
    return (up * (s @ wp) + down * (s @ wn),)


def _conv(r: Tensor, out: Tensor, args: Any, carry: Any, kwargs: Any) -> tuple[Tensor, ...]:
    """z+ of a convolution."""
    x, w, more = args[0], args[1], args[3:]
    up, down, wp, wn = x.clamp(min=0), x.clamp(max=0), w.clamp(min=0), w.clamp(max=0)
    s = _divide(r, F.conv2d(up, wp, None, *more) + F.conv2d(down, wn, None, *more))
    back = conv2d_input
    return (up * back(x.shape, wp, s, *more) + down * back(x.shape, wn, s, *more),)


def _add(r: Tensor, out: Tensor, args: Any, carry: list[bool], kwargs: Any) -> tuple[Tensor | None, ...]:
    """Branches share R in proportion `|sum of a's part| : |sum of b's|`, each image's (or window's) own.

    A part is `a R / (a + b)`. What carries no relevance (position embedding, mask) takes none.
    """
    if sum(carry) < 2:
        return tuple(_shaped(r, a.shape) if c else None for a, c in zip(args, carry, strict=True))
    s = _divide(r, out)
    parts = [a * s for a in args[:2]]
    sums = [part.flatten(1).sum(1).view(-1, *[1] * (r.dim() - 1)) for part in parts]
    whole = r.flatten(1).sum(1).view_as(sums[0])
    share = sums[0].abs() + sums[1].abs()
    return tuple(
        part * _divide(_divide(total.abs(), share) * whole, total) for part, total in zip(parts, sums, strict=True)
    )


def _matmul(r: Tensor, out: Tensor, args: Any, carry: Any, kwargs: Any) -> tuple[Tensor, ...]:
    """A product of two activations: gradient x input on each, halved."""
    a, b = args[0], args[1]
    s = _divide(r, out) / 2
    return _shaped(a * (s @ b.transpose(-1, -2)), a.shape), _shaped(b * (a.transpose(-1, -2) @ s), b.shape)


def _mean(r: Tensor, out: Tensor, args: Any, carry: Any, kwargs: Any) -> tuple[Tensor, ...]:
    """Pooling is a linear layer with equal positive weights: z+."""
    x = args[0]
    dim = kwargs.get("dim", args[1] if len(args) > 1 else None)
    keep = kwargs.get("keepdim", args[2] if len(args) > 2 else False)
    dims = sorted(d % x.dim() for d in ((dim,) if isinstance(dim, int) else dim or range(x.dim())))
    for d in dims if not keep else ():
        r = r.unsqueeze(d)
    up = x.clamp(min=0)
    return (up * _divide(r, up.sum(dims, keepdim=True)),)


def _shaped(r: Tensor, shape: torch.Size) -> Tensor:
    return r.sum_to_size(shape) if r.shape != shape else r


RULES: dict[Callable[..., Any], Rule] = {
    F.linear: _linear,
    torch.conv2d: _conv,
    F.conv2d: _conv,
    **dict.fromkeys((torch.matmul, Tensor.matmul, Tensor.__matmul__, torch.bmm, Tensor.bmm), _matmul),
    **dict.fromkeys((torch.add, Tensor.add, Tensor.__add__, Tensor.__radd__, Tensor.__iadd__, Tensor.add_), _add),
    **dict.fromkeys((torch.mul, Tensor.mul, Tensor.__mul__, Tensor.__rmul__, Tensor.__imul__, Tensor.mul_), _product),
    **dict.fromkeys((torch.div, Tensor.div, Tensor.__truediv__), _same),
    **dict.fromkeys((torch.mean, Tensor.mean), _mean),
    **dict.fromkeys((torch.softmax, F.softmax, Tensor.softmax, F.gelu, F.layer_norm, torch.layer_norm), _same),
    **dict.fromkeys((F.silu, F.relu, torch.relu, torch.tanh, Tensor.tanh, torch.sigmoid, Tensor.sigmoid), _same),
}


def importance(found: Relevance) -> tuple[dict[str, float], dict[str, float]]:
    """Each layer's share of relevance, `I_l / sum I_k`, and its standard error over images (Mix-QViT's criterion 1)."""
    mean = {name: float(found.layers[name].mean()) for name in reversed(found.layers)}
    whole = sum(mean.values()) or 1.0
    count = len(found.predicted) ** 0.5
    return (
        {name: value / whole for name, value in mean.items()},
        {name: float(found.layers[name].std()) / count / whole if count > 1 else 0.0 for name in mean},
    )


def lrp_sensitivity(found: Relevance, base: float) -> Sensitivity:
    """LRP-QViT's score alone, falling by `base` with each bit (our choice: how it uses its score is not known)."""
    shares, errors = importance(found)
    cells = {name: decay(shares[name], errors[name], PAIRS, base) for name in shares}
    notes = {"lost": found.lost, "explains": "prediction"}
    return Sensitivity("lrp", "share of relevance", len(found.predicted), cells, shares, errors, notes)
