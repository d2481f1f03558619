"""How much each token and each channel of a layer's output matters: the squared gradient of the log-likelihood.

An error dy of a layer's output moves the prediction by a KL divergence of about `1/2 sum g^2 dy^2` (the diagonal of the
Fisher information). Written as a factor a token times a factor a channel it weighs every search and regression: a
ViT's last block hears only its class token, and an unweighted error listens to the 196 others (our choice, after
BRECQ's Fisher-weighted reconstruction).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lampq_engine.tokens import token_grads

FLOOR = 0.02  # share of the weight that is spread evenly, so that no token is quite unheard


@dataclass(frozen=True, eq=False)
class Importance:
    """Weights of a layer's output with mean 1: `tokens` (R,) in the order of its rows, `channels` (O,).

    For a matmul the rows are those of its left operand, (B heads N,), and channels do not count.
    """

    tokens: Tensor
    channels: Tensor


def importances(
    model: nn.Module, names: Sequence[str], images: Tensor, *, seed: int = 0, batch: int = 16
) -> dict[str, Importance]:
    """The importance of tokens and channels of each named layer's output, on images (N, C, H, W).

    One backward sweep, with labels drawn from the model's own prediction; no label of the data is used.
    """
    if not names:
        return {}
    source = torch.Generator().manual_seed(seed)
    rows: dict[str, list[Tensor]] = {name: [] for name in names}
    columns: dict[str, Tensor] = {}
    for x in images.split(batch):
        outputs = _outputs(model, names, x)
        logits = outputs.pop("")
        labels = torch.multinomial(logits.detach().softmax(1).cpu(), 1, generator=source)[:, 0].to(x.device)
        with torch.enable_grad():
            loss = F.cross_entropy(logits, labels, reduction="sum")
        grads = torch.autograd.grad(loss, list(outputs.values()), allow_unused=True)
        for (name, output), grad in zip(outputs.items(), grads, strict=True):
            g = torch.zeros_like(output) if grad is None else grad
            flat = _rows(model, name, g)
            rows[name].append(flat.square().sum(1))
            columns[name] = columns.get(name, 0) + flat.square().sum(0)
    return {name: Importance(_levelled(torch.cat(rows[name])), _levelled(columns[name])) for name in names}


def _rows(model: nn.Module, name: str, grad: Tensor) -> Tensor:
    module = model.get_submodule(name)
    if isinstance(module, nn.Conv2d):
        return token_grads(module, grad, len(grad)).flatten(0, 1)
    return grad.flatten(0, -2)


def _outputs(model: nn.Module, names: Sequence[str], x: Tensor) -> dict[str, Tensor]:
    """The named layers' outputs, and the logits under the empty name, all in one graph."""
    found: dict[str, Tensor] = {}

    def keep(name: str) -> object:
        def hook(_module: nn.Module, _inputs: object, output: Tensor) -> None:
            if not output.requires_grad:
                output.requires_grad_()
            found[name] = output

        return hook

    hooks = [model.get_submodule(name).register_forward_hook(keep(name)) for name in names]  # type: ignore[arg-type]
    try:
        with torch.enable_grad():
            out = model(x)
    finally:
        for hook in hooks:
            hook.remove()
    return {**found, "": out if isinstance(out, Tensor) else sum(out) / len(out)}


def _levelled(weights: Tensor) -> Tensor:
    mean = weights.mean().clamp(min=1e-30)
    return (1 - FLOOR) * weights / mean + FLOOR
