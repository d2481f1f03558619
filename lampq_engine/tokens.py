"""A linear layer or convolution as what it is: one matrix that acts on tokens."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def tokens(module: nn.Module, x: Tensor, images: int) -> Tensor:
    """A layer's input as (images, tokens, features); a convolution's as its patches.

    Swin's windows come batch-major, so that a reshape joins those of one image.
    """
    if isinstance(module, nn.Conv2d):
        padding = module.padding if isinstance(module.padding, tuple) else (0, 0)
        patches = F.unfold(x, module.kernel_size, module.dilation, padding, module.stride)  # type: ignore[arg-type]
        return patches.transpose(1, 2)
    return x.reshape(images, -1, x.shape[-1])


def token_grads(module: nn.Module, grad: Tensor, images: int) -> Tensor:
    """The gradient of a layer's output as (images, tokens, outputs)."""
    if isinstance(module, nn.Conv2d):
        return grad.flatten(2).transpose(1, 2)
    return grad.reshape(images, -1, grad.shape[-1])


def dense(module: nn.Module) -> bool:
    """Whether every output reads every feature of its token: a linear layer, a convolution of one group."""
    return isinstance(module, nn.Linear) or (isinstance(module, nn.Conv2d) and module.groups == 1)


def rows(module: nn.Module, x: Tensor) -> Tensor:
    """All tokens of a layer's input as rows, (tokens, features)."""
    return tokens(module, x, len(x)).flatten(0, 1).float()


def mean(x: Tensor, weights: Tensor | None = None) -> Tensor:
    """Mean over rows of x (R, I), each row weighted by `weights` (R,)."""
    return x.mean(0) if weights is None else weights @ x / weights.sum()


def second_moment(x: Tensor, y: Tensor | None = None, *, centred: bool, weights: Tensor | None = None) -> Tensor:
    """Mean over rows of `x^T y` (I, J), about the means where `centred`; `y` is `x` unless given.

    `weights` (R,) weigh the rows.
    """
    y = x if y is None else y
    total = len(x) if weights is None else weights.sum()
    moment = (x if weights is None else x * weights[:, None]).t() @ y / total
    return moment - torch.outer(mean(x, weights), mean(y, weights)) if centred else moment
