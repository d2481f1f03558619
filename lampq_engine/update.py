"""LampQ's iterative bit update: two layers trade a bit for as long as the accuracy on the calibration images rises.

LampQ's step I3.2, with estimates from its Table 2, so that only the errors at the current widths are ever measured.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from lampq_engine.allocate import ROUNDING, options
from lampq_engine.cost import CostModel
from lampq_engine.journal import Report, silent
from lampq_engine.recipe import AllocationSpec, Budgets, UpdateSpec
from lampq_engine.ties import groups
from lampq_engine.types import FLOAT_BITS, Bits

RHO = {2: 82.74, 3: 6.59, 4: 4.70, 5: 4.29, 6: 4.13, 7: 4.12, 8: 4.03}  # LampQ, Table 2: E[L^(B-1)] / E[L^(B)]
EXPECTED = {b: math.prod(1 / RHO[c] for c in range(2, b + 1)) for b in range(1, 9)} | {FLOAT_BITS: 0.0}


@dataclass(frozen=True)
class Measured:
    """What one re-quantized model showed on the calibration images."""

    errors: Mapping[str, float]  # relative output error L of each layer at its current widths
    top1: float  # percent
    loss: float  # mean cross-entropy, nats

    def beats(self, other: Measured) -> bool:
        """Whether accuracy is higher, or equal with a lower loss (the tie rule is our choice)."""
        return (self.top1, -self.loss) > (other.top1, -other.loss)


@dataclass(frozen=True)
class Step:
    """One pair of layers that traded a bit on trial: what was expected, what was measured, whether it stayed."""

    up: str
    down: str
    gain: float  # error expected to vanish in `up`
    degradation: float  # error expected to appear in `down`
    accepted: bool
    before: Measured
    after: Measured
    bits: Mapping[str, Bits]  # the allocation that was tried
    mean_bits: float  # its parameter-weighted mean, whatever rule kept the budget


def gain(error: float, bits: Bits, wider: Bits) -> float:
    """Error removed if a layer whose error at `bits` is `error` goes to `wider`: L^(B) - L^(B+1).

    LampQ's verbal definition; its two printed formulas are swapped. L^(B+1) is expected to be L^(B) / rho(B+1).
    """
    return error * (1 - _expected(wider) / _expected(bits)) if _expected(bits) else 0.0


def degradation(error: float, bits: Bits, narrower: Bits) -> float:
    """Error added if a layer whose error at `bits` is `error` goes to `narrower`: L^(B-1) - L^(B).

    L^(B-1) is expected to be L^(B) x rho(B). Of a layer left in float nothing can be told: infinite.
    """
    return error * (_expected(narrower) / _expected(bits) - 1) if _expected(bits) else math.inf


def _expected(bits: Bits) -> float:
    """Relative error expected at a pair of widths: Table 2 where they are equal, else each half's own share of it.

    That is Lemma 3's k(B) to first order (our choice for unequal widths, which the paper does not have).
    """
    return (EXPECTED[bits.weights] + EXPECTED[bits.activations]) / 2


def update_bits(
    bits: Mapping[str, Bits],
    *,
    costs: CostModel,
    spec: AllocationSpec,
    update: UpdateSpec,
    limits: Budgets | None = None,
    measure: Callable[[Mapping[str, Bits]], Measured],
    report: Report = silent,
) -> tuple[Mapping[str, Bits], Measured, list[Step]]:
    """Let pairs of layers trade a bit while accuracy rises; returns widths, what they measured, and every trial.

    The pair of greatest gain less degradation is tried while its gain is the greater one (LampQ 1.4). If the
    re-quantized model is no better, the next-best pair is tried, `patience` times, then the update stops (our choice).
    At most `update.steps` pairs trade. Only layers whose menu leaves a choice and whose error was measured take part.
    Costs stay within `limits` and the start's mean bits; with `strict_paper` only the plain mean of bits is kept.
    Tied layers trade together. Deterministic if `measure` is.
    """
    rows = {name: row for name, row in options(costs.layers, spec).items() if len(row) > 1 and name in bits}
    within = _plain_mean(bits, rows) if update.strict_paper else _weighted_mean(bits, costs, limits)
    mates = {group[0]: group for group in groups(costs.layers, spec.ties)}
    bits, steps, accepted, failures = dict(bits), [], 0, 0
    now = measure(bits)
    seen = {tuple(bits.items())}
    report("update", 0, update.steps, top1=now.top1, loss=now.loss)
    while accepted < update.steps and failures <= update.patience:
        trade = next(
            (t for t in _trades(bits, rows, mates, now) if _key(t, bits) not in seen and within(t.apply(bits))), None
        )
        if trade is None:
            break
        tried = trade.apply(bits)
        seen.add(_key(trade, bits))
        after = measure(tried)
        better = after.beats(now)
        mean = costs.cost(tried).mean_bits
        steps.append(Step(trade.up, trade.down, trade.gain, trade.degradation, better, now, after, tried, mean))
        failures = 0 if better else failures + 1
        if better:
            bits, now, accepted = tried, after, accepted + 1
        report("update", accepted, update.steps, top1=now.top1, loss=now.loss, up=trade.up, down=trade.down)
    return bits, now, steps


@dataclass(frozen=True)
class _Trade:
    """A pair of layers and what is expected of moving both."""

    up: str
    down: str
    wider: Bits
    narrower: Bits
    gain: float
    degradation: float
    mates: Mapping[str, tuple[str, ...]]  # the layers that each of the two stands for

    def apply(self, bits: Mapping[str, Bits]) -> dict[str, Bits]:
        up, down = dict.fromkeys(self.mates[self.up], self.wider), dict.fromkeys(self.mates[self.down], self.narrower)
        return {**bits, **up, **down}


def _key(trade: _Trade, bits: Mapping[str, Bits]) -> tuple[tuple[str, Bits], ...]:
    """What names the state after a trade; one that was measured before was no better than the current one."""
    return tuple(trade.apply(bits).items())


def _trades(
    bits: Mapping[str, Bits],
    rows: Mapping[str, tuple[Bits, ...]],
    mates: Mapping[str, tuple[str, ...]],
    now: Measured,
) -> Iterator[_Trade]:
    """Every pair of layers whose expected gain is above the expected degradation, best first; equals in layer order."""
    ups, downs = {}, {}
    for name, row in rows.items():
        errors = [now.errors[mate] for mate in mates.get(name, ()) if mate in now.errors]
        if not errors:
            continue
        error = sum(errors)
        if wider := _moved(bits[name], row, 1):
            ups[name] = (gain(error, bits[name], wider), wider)
        if narrower := _moved(bits[name], row, -1):
            downs[name] = (degradation(error, bits[name], narrower), narrower)
    pairs = [
        _Trade(up, down, wider, narrower, plus, minus, mates)
        for up, (plus, wider) in ups.items()
        for down, (minus, narrower) in downs.items()
        if up != down and plus > minus
    ]
    yield from sorted(pairs, key=lambda trade: trade.degradation - trade.gain)


def _moved(bits: Bits, row: tuple[Bits, ...], way: int) -> Bits | None:
    """The pair of widths one step up or down the menu: both halves, or the one that can move; None at the end."""
    halves = [
        _neighbour(bits.weights, {pair.weights for pair in row}, way),
        _neighbour(bits.activations, {pair.activations for pair in row}, way),
    ]
    moved = Bits(*halves)
    return moved if moved != bits and moved in row else None


def _neighbour(width: int, widths: set[int], way: int) -> int:
    beyond = [other for other in widths if (other - width) * way > 0]
    return min(beyond, key=lambda other: abs(other - width), default=width)


def _weighted_mean(
    start: Mapping[str, Bits], costs: CostModel, limits: Budgets | None
) -> Callable[[Mapping[str, Bits]], bool]:
    """Whether an allocation keeps the given budgets and the start's mean bits, weighted by parameters (our choice).

    A budget on mean bits that the start does not use up leaves both means that much room.
    """
    cost, given = costs.cost(start), (limits or Budgets()).given()
    slack = max(0.0, given.get("mean_bits", 0.0) - cost.mean_bits)
    means = {"mean_bits": cost.mean_bits + slack, "mean_activation_bits": cost.mean_activation_bits + slack}
    caps = {name: max(limit, getattr(cost, name)) for name, limit in {**means, **given}.items()}

    def within(bits: Mapping[str, Bits]) -> bool:
        tried = costs.cost(bits)
        return all(getattr(tried, name) <= cap * (1 + ROUNDING) for name, cap in caps.items())

    return within


def _plain_mean(
    start: Mapping[str, Bits], rows: Mapping[str, tuple[Bits, ...]]
) -> Callable[[Mapping[str, Bits]], bool]:
    """Whether an allocation keeps the start's plain mean of bits, each layer counted alike, as LampQ's text has it."""
    most = [sum(start[name][half] for name in rows) for half in (0, 1)]
    return lambda bits: all(sum(bits[name][half] for name in rows) <= most[half] for half in (0, 1))
