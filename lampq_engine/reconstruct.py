"""Block reconstruction: a quantized block learns to put out what the float block puts out on the calibration images.

BRECQ (ICLR 2021): one block after the other, the squared error of its output weighted by the diagonal of the Fisher
information. Weights move freely behind straight-through rounding and step sizes with them (LSQ), in place of
AdaRound's rounding variables (our choice: a few hundred images and minutes are what there is).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lampq_engine.importance import Importance
from lampq_engine.quantizers import Twin, Uniform
from lampq_engine.stages import Call, outputs_of

BATCH = 16  # images in a step
STEP_RATE = 20.0  # times the weights' learning rate: that of the logarithms of the step sizes


def reconstruct_(
    stage: nn.Module,
    calls: Sequence[Call],
    target: Sequence[Tensor],
    importance: Importance,
    *,
    epochs: int,
    learning_rate: float,
    seed: int = 0,
) -> tuple[float, float]:
    """Train a quantized stage in place on its own inputs `calls` towards the float stage's outputs `target`.

    Batches of `calls` and `target` correspond. Returns the weighted relative error before and after, and keeps the
    stage as it was where training did not lower it.
    """
    wanted = torch.cat(list(target))
    weights = (importance.tokens.view(wanted.shape[:-1])[..., None] * importance.channels).expand(wanted.shape)
    scale = float((weights * wanted.square()).mean().clamp(min=1e-30))
    args, images = _joined(calls), len(wanted)
    before = _error(stage, calls, wanted, weights, scale)
    kept = {name: value.detach().clone() for name, value in stage.state_dict().items()}
    quantizers = [module for module in stage.modules() if isinstance(module, Uniform | Twin)]
    for quantizer in quantizers:
        quantizer.learn_()
    trained = [(parameter, parameter.requires_grad) for parameter in stage.parameters()]
    groups = _groups(stage, learning_rate)
    optimizer = torch.optim.Adam(groups, lr=learning_rate)
    source, steps, done = torch.Generator().manual_seed(seed), epochs * math.ceil(images / BATCH), 0
    with torch.enable_grad():
        for _ in range(epochs):
            for chosen in torch.randperm(images, generator=source).split(BATCH):
                for group in optimizer.param_groups:
                    group["lr"] = group["peak"] * 0.5 * (1 + math.cos(math.pi * done / steps))
                x = tuple(value[chosen] if isinstance(value, Tensor) else value for value in args)
                lost = stage(*x, **calls[0][1]) - wanted[chosen]
                loss = (weights[chosen] * lost.square()).mean() / scale
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                done += 1
    for quantizer in quantizers:
        quantizer.bake_()
    for parameter, wished in trained:
        parameter.grad = None
        parameter.requires_grad_(wished)
    after = _error(stage, calls, wanted, weights, scale)
    if not after < before:
        stage.load_state_dict(kept)
        after = before
    return before, after


def _groups(stage: nn.Module, learning_rate: float) -> list[dict[str, object]]:
    named = list(stage.named_parameters())
    for _, parameter in named:
        parameter.requires_grad_(True)
    steps = [p for name, p in named if name.endswith("log_step")]
    others = [p for name, p in named if not name.endswith("log_step")]
    return [{"params": others, "peak": learning_rate}, {"params": steps, "peak": STEP_RATE * learning_rate}]


def _joined(calls: Sequence[Call]) -> tuple[object, ...]:
    """The positional arguments of all batches as one call; what is no tensor is the same in each."""
    columns = zip(*(args for args, _ in calls), strict=True)
    return tuple(torch.cat(column) if isinstance(column[0], Tensor) else column[0] for column in columns)  # type: ignore[arg-type]


@torch.no_grad()
def _error(stage: nn.Module, calls: Sequence[Call], wanted: Tensor, weights: Tensor, scale: float) -> float:
    lost = torch.cat(list(outputs_of(stage, calls))) - wanted
    return float((weights * lost.square()).mean()) / scale
