"""What the integer program is about: the choices of each layer, and what each of them harms and costs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from lampq_engine.cost import CostModel
from lampq_engine.errors import InputError
from lampq_engine.recipe import AllocationSpec
from lampq_engine.types import Bits, Layer, Sensitivity

UNITS = {"mean_bits": "bits", "mean_activation_bits": "bits", "megabytes": "MB", "gbops": "GBOPs"}

Key = tuple[str, Bits]


def options(layers: Sequence[Layer], spec: AllocationSpec) -> dict[str, tuple[Bits, ...]]:
    """The pairs of widths each layer may take under menus and pins; `InputError` names a pin of no such layer."""
    unknown = sorted({*spec.pins, *spec.bits} - {layer.name for layer in layers})
    if unknown:
        raise InputError(
            f"The recipe names {len(unknown)} layers that this model does not have, first {unknown[0]!r}",
            expected=f"names such as {layers[0].name!r}",
            todo="Use a recipe made for this model",
        )
    return {
        layer.name: (spec.pins[layer.name],) if layer.name in spec.pins else spec.menu(layer.kind).options()
        for layer in layers
    }


@dataclass(frozen=True)
class Problem:
    """The program as plain numbers: what each choice of each layer harms and costs."""

    costs: CostModel
    harm: Mapping[Key, float]
    terms: Mapping[Key, Mapping[str, float]]
    choices: Mapping[str, tuple[Bits, ...]]

    @staticmethod
    def of(costs: CostModel, sensitivity: Sensitivity, spec: AllocationSpec) -> Problem:
        allowed = options(costs.layers, spec)
        harm: dict[Key, float] = {}
        terms: dict[Key, Mapping[str, float]] = {}
        choices: dict[str, tuple[Bits, ...]] = {}
        for layer in costs.layers:
            row = {bits: (_harm(sensitivity, layer, bits), costs.terms(layer, bits)) for bits in allowed[layer.name]}
            choices[layer.name] = tuple(bits for bits in row if not _dominated(bits, row))
            harm |= {(layer.name, bits): row[bits][0] for bits in choices[layer.name]}
            terms |= {(layer.name, bits): row[bits][1] for bits in choices[layer.name]}
        return Problem(costs, harm, terms, choices)

    def extreme(self, pick: Callable[[Iterable[float]], float], budget: str) -> float:
        """The least (`min`) or the greatest (`max`) value that one cost can take at all."""
        per_layer = (pick(self.terms[name, bits][budget] for bits in row) for name, row in self.choices.items())
        return self.costs.constant[budget] + sum(per_layer)

    def total_harm(self, bits: Mapping[str, Bits]) -> float:
        return sum(self.harm[name, pair] for name, pair in bits.items())


def _harm(sensitivity: Sensitivity, layer: Layer, bits: Bits) -> float:
    try:
        return sensitivity.harm(layer.name, bits)
    except KeyError as error:
        raise InputError(
            f"The metric {sensitivity.metric!r} has no score of {layer.name} at {bits} bits",
            todo="Remove this width from the menu, or analyse the study again with it",
        ) from error


def _dominated(bits: Bits, row: Mapping[Bits, tuple[float, Mapping[str, float]]]) -> bool:
    """Whether another choice harms no more and costs no more in any respect (exact: such a choice is never needed)."""
    harm, terms = row[bits]
    for other, (other_harm, other_terms) in row.items():
        no_worse = other_harm <= harm and all(other_terms[name] <= terms[name] for name in terms)
        same = other_harm == harm and all(other_terms[name] == terms[name] for name in terms)
        if other != bits and no_worse and not (same and other > bits):
            return True
    return False
