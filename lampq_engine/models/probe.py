"""One forward of one image that writes down every linear, convolution and matrix product, and who ran it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

Op = Literal["linear", "conv", "matmul", "attention"]

# A frozenset of functions, because `a @ b`, `a.matmul(b)` and `torch.matmul(a, b)` are different objects.
MATMULS: frozenset[Any] = frozenset(
    {torch.matmul, torch.bmm, torch.Tensor.matmul, torch.Tensor.__matmul__, torch.Tensor.bmm}
)


@dataclass(frozen=True, slots=True)
class Call:
    """One linear, convolution, matrix product or fused attention that ran, with its element counts."""

    op: Op
    name: str  # module path of the innermost module that was running
    path: tuple[int, ...]  # numbers of the module calls that it ran inside of, outermost first
    weight: str  # module path of the module that owns the weight operand; empty where there is none
    inputs: int
    outputs: int
    macs: int
    heads: int  # size of dimension 1 of a 4-D matrix product, else 0


@dataclass(frozen=True, slots=True)
class Trace:
    """Everything that one image made a model compute, in execution order."""

    calls: tuple[Call, ...]
    runs: Mapping[int, str]  # number of a module call -> module path
    classes: int  # size of the last dimension of the output


def probe(model: nn.Module, example: Tensor) -> Trace:
    """Run one image of shape (1, C, H, W) through a model and record what it computes.

    The model is put into eval mode for the run and left as it was found. `ValueError` on a batch of several
    images, because counts are for one.
    """
    if example.dim() != 4 or example.shape[0] != 1:
        raise ValueError(f"the example must be one image of shape (1, C, H, W), got {tuple(example.shape)}")
    recorder = _Recorder(model)
    with _eval(model), recorder.hooks(model), torch.no_grad(), recorder:
        output = model(example)
    first = output if isinstance(output, Tensor) else output[0]
    return Trace(calls=tuple(recorder.calls), runs=recorder.runs, classes=first.shape[-1])


@contextmanager
def _eval(model: nn.Module) -> Iterator[None]:
    """Eval mode for a while; each module gets back its own flag, since parts may be frozen in eval."""
    training = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, flag in training:
            module.training = flag


class _Recorder(TorchFunctionMode):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.calls: list[Call] = []
        self.runs: dict[int, str] = {}
        self.path: list[int] = []
        # By storage, so that a slice or transpose of a weight is still known as that weight.
        self.owners = {
            parameter.untyped_storage().data_ptr(): path.rpartition(".")[0]
            for path, parameter in reversed(list(model.named_parameters()))
        }

    @contextmanager
    def hooks(self, model: nn.Module) -> Iterator[None]:
        handles = []
        for name, module in model.named_modules():
            handles.append(module.register_forward_pre_hook(partial(self._enter, name)))
            handles.append(module.register_forward_hook(self._leave))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _enter(self, name: str, *_: object) -> None:
        self.path.append(len(self.runs))
        self.runs[len(self.runs)] = name

    def _leave(self, *_: object) -> None:
        self.path.pop()

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        output = func(*args, **kwargs)
        if func in MATMULS:
            self._matmul(args, kwargs, output)
        elif func is F.linear or func is torch.conv2d:
            weight = args[1] if len(args) > 1 else kwargs["weight"]
            self._weighted("linear" if func is F.linear else "conv", args[0], weight, output)
        elif func is F.scaled_dot_product_attention:
            query, key = args[0], args[1]
            macs = query.numel() * key.shape[-2] + output.numel() * key.shape[-2]
            self._add("attention", "", sum(x.numel() for x in args[:3]), output, macs, 0)
        return output

    def _weighted(self, op: Op, x: Tensor, weight: Tensor, output: Tensor) -> None:
        macs = output.numel() * (weight.numel() // weight.shape[0])
        self._add(op, self._owner(weight), x.numel(), output, macs, 0)

    def _matmul(self, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Tensor) -> None:
        a, b = (*args, *kwargs.values())
        heads = a.shape[1] if a.dim() == 4 else 0
        macs = output.numel() * a.shape[-1]
        self._add("matmul", self._owner(a) or self._owner(b), a.numel() + b.numel(), output, macs, heads)

    def _owner(self, tensor: Tensor) -> str:
        return self.owners.get(tensor.untyped_storage().data_ptr(), "")

    def _add(self, op: Op, weight: str, inputs: int, output: Tensor, macs: int, heads: int) -> None:
        name = self.runs[self.path[-1]]
        self.calls.append(Call(op, name, tuple(self.path), weight, inputs, output.numel(), macs, heads))
