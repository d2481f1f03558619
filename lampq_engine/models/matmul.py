"""The two matrix products of attention as modules, without a copy of anybody's forward."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from lampq_engine.errors import InputError
from lampq_engine.models.probe import MATMULS, Trace, probe


class MatMul(nn.Module):
    """The product of two activations: `qk` (scores = QK^T) or `av` (context = AV) of an attention module."""

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """`a @ b`; shapes (..., n, k) and (..., k, m) give (..., n, m)."""
        return a @ b


def route_matmuls_(model: nn.Module, example: Tensor) -> list[str]:
    """Give every attention module of a model two `MatMul` submodules, `qk` and `av`, that its forward goes through.

    `example` is one image (1, C, H, W). Attention is found by running it: a module whose own forward makes exactly
    two products of two activations. Its class becomes a subclass that runs the same forward under a mode which
    hands the first product to `qk` and the second to `av`; state-dict keys do not change. Fused attention is
    switched off. Returns the attention modules in execution order; a second call changes nothing. `InputError` if
    there are none, or if a module already has something else by one of the two names.
    """
    for module in model.modules():
        if hasattr(module, "fused_attn"):
            setattr(module, "fused_attn", False)  # noqa: B010 - timm's attribute, unknown to nn.Module's types
    trace = probe(model, example)
    found = _attentions(trace)
    for name in found:
        _check_free(model.get_submodule(name), name)
    for name in found:
        _route_(model.get_submodule(name))
    routed = (call.name.rpartition(".")[0] if _is_matmul(model, call.name) else call.name for call in trace.calls)
    names = [name for name in dict.fromkeys(routed) if isinstance(getattr(model.get_submodule(name), "qk", 0), MatMul)]
    if not names:
        raise not_a_transformer(model)
    return names


def not_a_transformer(model: nn.Module) -> InputError:
    """The error for a model in which no attention was found."""
    config = getattr(model, "pretrained_cfg", None) or {}
    architecture = config.get("architecture") or type(model).__name__
    return InputError(
        f"{architecture} has no attention that can be quantized, so it is not a Vision Transformer that works here",
        expected="a model whose attention is two matrix products: timm's ViT, DeiT, Swin, SwinV2, BEiT, EVA-02, SigLIP",
        todo="Choose a model of one of these families, deit_tiny_patch16_224 for instance",
    )


def _attentions(trace: Trace) -> list[str]:
    """Modules that, on every call, run two activation products themselves and nothing in them runs another."""
    products: dict[int, list[bool]] = {}  # module call -> for each product inside it: is it the call's very own?
    for call in trace.calls:
        if call.op in ("matmul", "attention"):
            for run in call.path:
                own = run == call.path[-1] and call.op == "matmul" and not call.weight
                products.setdefault(run, []).append(own)
    verdicts: dict[str, list[bool]] = {}
    for run in products:
        verdicts.setdefault(trace.runs[run], []).append(products[run] == [True, True])
    return [name for name, fits in verdicts.items() if name and all(fits)]


def _is_matmul(model: nn.Module, name: str) -> bool:
    return isinstance(model.get_submodule(name), MatMul)


def _check_free(module: nn.Module, name: str) -> None:
    taken = [attribute for attribute in ("qk", "av") if hasattr(module, attribute)]
    if taken:
        raise InputError(
            f"the attention module {name} ({type(module).__name__}) already has an attribute {taken[0]!r}",
            expected="attention modules in which `qk` and `av` are free for the two matrix products",
            todo="Choose another architecture; ViT, DeiT, Swin, BEiT, EVA-02 and SigLIP work",
        )


def _route_(module: nn.Module) -> None:
    module.qk, module.av = MatMul(), MatMul()
    module.qk.training = module.av.training = module.training
    cls: Any = type(module)
    module.__class__ = _routed(cls)


@cache
def _routed(cls: Any) -> Any:
    """The subclass of an attention class whose forward is the same forward, seen by `_Route`."""
    inherited: Callable[..., Any] = cls.forward

    def forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        route = _Route(self)
        with route:
            output = inherited(self, *args, **kwargs)
        if route.seen != 2:
            # A product added inside the module after routing would be taken for QK^T in silence.
            raise RuntimeError(f"{cls.__name__} made {route.seen} matrix products, expected the 2 of its attention")
        return output

    return type(cls.__name__, (cls,), {"forward": forward, "__module__": cls.__module__, "__doc__": cls.__doc__})


class _Route(TorchFunctionMode):
    """Hands the first matrix product to `qk` and the second to `av`.

    Torch takes the mode off while the handler runs, so the product inside `qk` is not routed again.
    """

    def __init__(self, owner: nn.Module) -> None:
        super().__init__()
        self.owner, self.seen = owner, 0

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func not in MATMULS:
            return func(*args, **(kwargs or {}))
        self.seen += 1
        if self.seen > 2:
            return func(*args, **(kwargs or {}))
        product = self.owner.get_submodule("qk" if self.seen == 1 else "av")
        return product(*args, *(kwargs or {}).values())
