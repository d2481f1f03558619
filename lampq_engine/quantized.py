"""The one wrapper that makes a layer take its bit-widths: linear, convolution or matmul."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.func import functional_call

from lampq_engine.quantizers import Log, Quantizer, Twin, Uniform


class Quantized(nn.Module):
    """A linear layer, convolution or matmul whose weight and inputs are rounded before it runs.

    `shift` (O,), where there is one, is added to the layer's bias: the bias correction.
    """

    shift: Tensor | None

    def __init__(self, op: nn.Module, weight: Uniform | None, inputs: Sequence[Quantizer | None]) -> None:
        super().__init__()
        self.op = op
        self.weight_quantizer = weight
        self.input_quantizers = nn.ModuleList([nn.Identity() if q is None else q for q in inputs])
        self.register_buffer("shift", None, persistent=False)

    def forward(self, *inputs: Tensor) -> Tensor:
        rounded = tuple(q(x) for q, x in zip(self.input_quantizers, inputs, strict=True))
        changed = {} if self.weight_quantizer is None else {"weight": self.weight_quantizer(self.op.weight)}
        if self.shift is not None:
            changed["bias"] = self.op.get_parameter("bias") + self.shift
        return functional_call(self.op, changed, rounded) if changed else self.op(*rounded)

    def settle_(self) -> None:
        """Make the corrected bias the bias."""
        if self.shift is not None:
            with torch.no_grad():
                self.op.get_parameter("bias").add_(self.shift)
            self.shift = None

    @property
    def weight(self) -> Tensor:
        """The float weight behind the quantizer."""
        return self.op.weight  # type: ignore[return-value]

    @property
    def bias(self) -> Tensor | None:
        return self.op.bias  # type: ignore[return-value]


def quantizers_of(model: nn.Module) -> Iterator[Quantizer]:
    """Every fitted quantizer of a model."""
    return (module for module in model.modules() if isinstance(module, Uniform | Log | Twin))


def quantized_layers(model: nn.Module) -> dict[str, Quantized]:
    """The wrapped layers of a model, by the name of the layer they wrap."""
    return {name: module for name, module in model.named_modules() if isinstance(module, Quantized)}


def place_(model: nn.Module, wrapped: Mapping[str, Quantized]) -> None:
    """Put wrapped layers where the layers they wrap are, their corrected biases settled."""
    for name, module in wrapped.items():
        module.settle_()
        model.set_submodule(name, module)


@contextmanager
def alone(model: nn.Module, name: str, module: Quantized) -> Iterator[None]:
    """The model with one layer quantized and everything else in float, for a while."""
    model.set_submodule(name, module)
    try:
        yield
    finally:
        model.set_submodule(name, module.op)
