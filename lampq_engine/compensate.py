"""Rounding weights so that errors cancel: against the rounded inputs, towards what the float layer puts out.

Two classical steps in closed form. Ridge regression (ERQ's Aqer, TPAMI) moves the float weight to where, on the inputs
as the quantized model has them, it gives what the float model gives on its own. Rounding with feedback (GPTQ, ICLR
2023) then goes column by column and lets the columns that follow make up for each rounding error.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lampq_engine.fitting import Seen
from lampq_engine.quantized import Quantized
from lampq_engine.quantizers import Uniform, fake_quantize, fit_symmetric_weight, fit_weight
from lampq_engine.tokens import mean, rows, second_moment
from lampq_engine.types import FLOAT_BITS, Bits

DAMP = 0.01  # of the mean of the second moment's diagonal: what is added to it at least, as in GPTQ
BLOCK = 64  # columns whose feedback on the rest is applied at once


def damping(moment: Tensor, count: int, weights: Tensor | None) -> float:
    """What to add to the diagonal of a second moment (I, I) from `count` rows, weighted or not.

    GPTQ's hundredth of its mean, and more where rows are few for so many features: a head sees one row an image.
    `I / rows`, with the effective number `(sum w)^2 / sum w^2` of weighted rows, is our choice.
    """
    rows = count if weights is None else float(weights.sum() ** 2 / weights.square().sum())
    return (DAMP + len(moment) / rows) * float(moment.diagonal().mean())


def ridge(weight: Tensor, moment: Tensor, cross: Tensor, damp: float) -> Tensor:
    """The weight W' (O, I) of least `|W X - W' Y|^2 + damp |W - W'|^2`.

    `moment` is the mean of `y y^T` of the inputs Y it will get, `cross` that of `x y^T` with the inputs X that W is
    meant for, both (I, I).
    """
    eye = damp * torch.eye(len(moment), device=weight.device)
    return torch.linalg.solve(moment + eye, (weight @ (cross + eye)).t()).t()


def round_with_feedback(weight: Tensor, quantizer: Uniform, moment: Tensor, damp: float) -> Tensor:
    """The weight (O, I) rounded onto the grid of `quantizer`, each column's error fed to the columns after it (GPTQ).

    Columns go from the largest input to the smallest; `moment` (I, I) is the mean of `y y^T` of the inputs.
    """
    scale, zero = quantizer.step.view(-1, 1), quantizer.zero.view(-1, 1)
    order = moment.diagonal().argsort(descending=True)
    left = weight[:, order].clone()
    damped = (moment + damp * torch.eye(len(moment), device=weight.device))[order][:, order].double()
    upper = torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(damped)), upper=True).to(weight)
    rounded = torch.empty_like(left)
    for start in range(0, left.shape[1], BLOCK):
        stop = min(start + BLOCK, left.shape[1])
        errors = left.new_empty(len(left), stop - start)
        for i in range(start, stop):
            column = left[:, i : i + 1]
            rounded[:, i : i + 1] = fake_quantize(column, scale, zero, quantizer.levels)
            errors[:, i - start : i - start + 1] = error = (column - rounded[:, i : i + 1]) / upper[i, i]
            left[:, i:stop] -= error * upper[i, i:stop]
        left[:, stop:] -= errors @ upper[start:stop, stop:]
    return rounded[:, order.argsort()]


@torch.no_grad()
def compensated(seen: Seen, bits: Bits, wanted: Tensor, how: str) -> Quantized:
    """Fit and round one weight layer so that on the inputs it was `seen` to get it gives what float gives on `wanted`.

    `how`: `feedback`, rounding with feedback; `ridge`, only regression; `both`, one after the other. The layer's
    weight becomes the rounded one, its bias makes up for the means.
    """
    module = Quantized(seen.op, None, seen.fit_inputs(bits))
    ours = rows(seen.op, module.input_quantizers[0](seen.inputs[0]))
    theirs = rows(seen.op, wanted)
    weight, centred, heard = seen.weight.detach().flatten(1).float().clone(), seen.corrects_bias, seen.token_weights
    moment = second_moment(ours, centred=centred, weights=heard)
    damp = damping(moment, len(ours), heard)
    cross = second_moment(theirs, ours, centred=centred, weights=heard)
    goal = weight if how == "feedback" else ridge(weight, moment, cross, damp)
    if bits.weights == FLOAT_BITS:
        made = goal
    else:
        fit = fit_weight if seen.spec.grid == "asymmetric" else fit_symmetric_weight
        quantizer = fit(goal, bits.weights, seen.search, moment if seen.by_output else None)
        made = quantizer(goal) if how == "ridge" else round_with_feedback(goal, quantizer, moment, damp)
        column = (-1, *[1] * (seen.weight.dim() - 1))
        module.weight_quantizer = Uniform(bits.weights, quantizer.scale.view(column), quantizer.zero.view(column))
    seen.weight.copy_(made.view_as(seen.weight))
    if centred:
        seen.op.get_parameter("bias").add_(weight @ mean(theirs, heard) - made @ mean(ours, heard))
    return module
