"""Leave out the choices that no optimal allocation makes, so that the integer program that remains is small.

Reduced-cost fixing on the Lagrangian bound of the multiple-choice knapsack: with prices >= 0 on the budgets, the
least priced harm is a lower bound; where forcing one choice lifts it above the harm of an allocation in hand, no
optimum makes that choice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from lampq_engine.problem import Problem
from lampq_engine.types import Bits

ROUNDS, HALVINGS, CLIMBS = 2, 36, 80  # any prices give a valid bound; better ones only leave out more
LOWEST, HIGHEST = 1e-12, 1e12  # prices in harm per budget, harm and budget scaled to about 1
SAFE = 1e-9  # a choice is left out only if the bound exceeds the harm in hand by this share

Array = NDArray[np.float64]


class Grid:
    """Harm and costs of every choice as arrays, layers x choices; absent choices harm infinitely."""

    def __init__(self, problem: Problem, most: Mapping[str, float]) -> None:
        self.problem, self.most = problem, most
        self.keys = [[(name, bits) for bits in row] for name, row in problem.choices.items()]
        shape = (len(self.keys), max(map(len, self.keys)))
        self.harm = np.full(shape, np.inf)
        self.costs = {budget: np.zeros(shape) for budget in most}
        for i, row in enumerate(self.keys):
            self.harm[i, : len(row)] = [problem.harm[key] for key in row]
            for budget, cost in self.costs.items():
                cost[i, : len(row)] = [problem.terms[key][budget] / (most[budget] or 1.0) for key in row]
        self.unit = sum(max(span) - min(span) for span in ([problem.harm[key] for key in row] for row in self.keys))
        self.layers = np.arange(len(self.keys))

    def narrow(self, limits: Mapping[str, float]) -> dict[str, tuple[Bits, ...]]:
        """The choices of each layer that an optimal allocation within `limits` may make; all, if that is unclear."""
        rooms = [(limit - self.problem.costs.constant[b]) / (self.most[b] or 1.0) for b, limit in limits.items()]
        costs = np.stack([self.costs[b] for b in limits]) if limits else np.zeros((0, *self.harm.shape))
        room = np.array(rooms)
        prices = self._prices(costs, room)
        harm = self._harm_in_hand(costs, room, prices)
        if len(room) > 1 and harm < np.inf:
            prices = self._climb(costs, room, prices, harm)
            harm = min(harm, self._harm_in_hand(costs, room, prices))
        priced = self.harm + np.tensordot(prices, costs, 1)
        least = priced.min(axis=1)
        bound = least.sum() - prices @ room
        slack = SAFE * abs(harm) + 1e-12 * (abs(least).sum() + prices @ abs(room))
        keep = bound + (priced - least[:, None]) <= harm + slack
        rows = zip(self.problem.choices.items(), keep, strict=True)
        return {name: tuple(b for b, kept in zip(row, line, strict=False) if kept) for (name, row), line in rows}

    def _prices(self, costs: Array, room: Array) -> Array:
        """Prices near those of the best bound: each in turn just high enough that its budget is kept."""
        prices = np.zeros(len(room))
        for _ in range(ROUNDS if len(room) > 1 else 1):
            for b in range(len(room)):
                prices[b] = 0.0
                others = self.harm + np.tensordot(prices, costs, 1)
                low, high = LOWEST, HIGHEST
                if self._used(others, costs[b]) <= room[b]:
                    continue
                for _ in range(HALVINGS):
                    middle = (low * high) ** 0.5
                    over = self._used(others + middle * self.unit * costs[b], costs[b]) > room[b]
                    low, high = (middle, high) if over else (low, middle)
                prices[b] = high * self.unit
        return prices

    def _climb(self, costs: Array, room: Array, prices: Array, harm: float) -> Array:
        """Better prices for several budgets at once, by subgradient steps of Polyak's length; the best ones seen."""
        best, highest = prices, -np.inf
        for step in range(CLIMBS):
            priced = self.harm + np.tensordot(prices, costs, 1)
            picks = priced.argmin(axis=1)
            bound = priced[self.layers, picks].sum() - prices @ room
            if bound > highest:
                best, highest = prices, bound
            slope = costs[:, self.layers, picks].sum(axis=1) - room
            slope[(prices == 0) & (slope < 0)] = 0.0
            if not slope.any():
                break
            length = max(0.0, harm - bound) / (slope @ slope) / (1 + step / 10)
            prices = np.maximum(0.0, prices + length * slope)
        return best

    def _used(self, priced: Array, cost: Array) -> float:
        return float(cost[self.layers, priced.argmin(axis=1)].sum())

    def _harm_in_hand(self, costs: Array, room: Array, prices: Array) -> float:
        """Harm of a good allocation within budget: cheapest at raised prices, then improved while there is room."""
        for raised in _steps():
            picks = (self.harm + raised * np.tensordot(prices, costs, 1)).argmin(axis=1)
            used = costs[:, self.layers, picks].sum(axis=1)
            if (used <= room).all():
                break
        else:
            return float("inf")
        while True:
            now = self.harm[self.layers, picks]
            change = costs - costs[:, self.layers, picks][:, :, None]
            fits = ((used[:, None, None] + change) <= room[:, None, None]).all(axis=0)
            saved = np.where(fits, now[:, None] - self.harm, 0.0)
            best = int(saved.argmax())
            if saved.flat[best] <= 0:
                return float(now.sum())
            layer, choice = divmod(best, saved.shape[1])
            picks[layer] = choice
            used = costs[:, self.layers, picks].sum(axis=1)


def _steps() -> Sequence[float]:
    return [1 + 1e-6 * 4**k for k in range(16)]
