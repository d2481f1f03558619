"""Fast progressive search of scale and zero point: many candidates at once, the best of them searched around again.

AdaLog's FPCS (ECCV 2024): a coarse grid over scale and zero point, then ever finer ones around the survivors. Here a
candidate is never run: its error is a sum over a histogram of the inputs (`values`), or for weights a quadratic form in
the Gram matrix of the inputs, so that a whole grid is one batched computation (our choice).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from lampq_engine.quantizers.rounding import fake_quantize
from lampq_engine.quantizers.values import Values

Errors = Callable[[Tensor, Tensor], Tensor]  # scales and zeros (K, R) -> errors (K, R) of R rows

SPANS = 24  # coarse scales, from the whole range down to `LEAST_SPAN` of it
LEAST_SPAN = 0.12
ROUNDS = 3
CHUNK = 1 << 22  # numbers a batch of candidates may hold


def progressive(
    errors: Errors, low: Tensor, high: Tensor, bits: int, *, halves: bool, keep: int = 4
) -> tuple[Tensor, Tensor]:
    """Scale and zero point (R,) of least error, for rows with ranges `low` to `high` (R,).

    Coarse: `SPANS` scales, each with the zero points that shift the range by up to half its unused part. Then `ROUNDS`
    times around the `keep` best of each row, with steps a third as wide.
    """
    levels, unit = 2**bits - 1, 0.5 if halves else 1.0
    whole = ((high - low) / levels).clamp(min=1e-12)
    share = torch.linspace(1.0, LEAST_SPAN, SPANS, device=low.device)
    middle = (high + low) / 2
    moves = torch.tensor([-0.5, -0.25, 0.0, 0.25, 0.5], device=low.device)
    # candidates as shares of the whole range and as moves of its middle, in units of the whole range
    span, move = (grid.reshape(-1, 1) for grid in torch.meshgrid(share, moves, indexing="ij"))
    spare = (1 - span).clamp(min=0.06)
    span, move = span.expand(-1, len(low)), (move * spare).expand(-1, len(low))

    def grid(span: Tensor, move: Tensor) -> tuple[Tensor, Tensor]:
        scale = span * whole
        bottom = middle + (move - span / 2) * (high - low)
        zero = (-bottom / scale / unit).round_().mul_(unit)
        return scale, zero.clamp_(0, levels)

    step_span, step_move = float(share[0] - share[1]), 0.12
    found_span, found_move, found_error = span, move, errors(*grid(span, move))
    for _ in range(ROUNDS):
        order = found_error.topk(min(keep, len(found_error)), dim=0, largest=False).indices
        best_span, best_move = found_span.gather(0, order), found_move.gather(0, order)
        around = torch.tensor([-2, -1, 0, 1, 2], device=low.device) / 3
        ds, dm = (g.reshape(-1, 1, 1) for g in torch.meshgrid(around * step_span, around * step_move, indexing="ij"))
        span = (best_span + ds).reshape(-1, len(low)).clamp(min=0.02)
        move = (best_move + dm).reshape(-1, len(low))
        error = errors(*grid(span, move))
        found_span, found_move = torch.cat([best_span, span]), torch.cat([best_move, move])
        found_error = torch.cat([found_error.gather(0, order), error])
        step_span, step_move = step_span / 3, step_move / 3
    best = found_error.argmin(0, keepdim=True)
    scale, zero = grid(found_span.gather(0, best), found_move.gather(0, best))
    return scale[0], zero[0]


def chunked(errors: Errors, numbers: int) -> Errors:
    """The same errors, computed in batches of candidates so that none holds more than `CHUNK` numbers."""

    def run(scale: Tensor, zero: Tensor) -> Tensor:
        size = max(1, CHUNK // numbers)
        parts = zip(scale.split(size), zero.split(size), strict=True)
        return torch.cat([errors(s, z) for s, z in parts])

    return run


def value_errors(values: Values, bits: int) -> Errors:
    """Weighted squared rounding error on a histogram (R, B) or (B,)."""
    at, weight = (t if t.dim() == 2 else t[None] for t in (values.at, values.weight))

    def errors(scale: Tensor, zero: Tensor) -> Tensor:
        e = fake_quantize(at, scale[..., None], zero[..., None], 2**bits - 1).sub_(at)
        return (e.square_() * weight).sum(-1)

    return chunked(errors, at.numel())


def gram_errors(weight: Tensor, gram: Tensor, bits: int) -> Errors:
    """Squared output error `dw G dw^T` of each row of a weight (O, I), with G (I, I) the Gram matrix of its inputs."""

    def errors(scale: Tensor, zero: Tensor) -> Tensor:
        e = fake_quantize(weight, scale[..., None], zero[..., None], 2**bits - 1).sub_(weight)
        return (e @ gram).mul_(e).sum(-1)

    return chunked(errors, weight.numel())


def row_errors(rows: Tensor, bits: int) -> Errors:
    """Squared rounding error of each row (R, N)."""

    def errors(scale: Tensor, zero: Tensor) -> Tensor:
        return fake_quantize(rows, scale[..., None], zero[..., None], 2**bits - 1).sub_(rows).square_().sum(-1)

    return chunked(errors, rows.numel())
