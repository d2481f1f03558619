"""What the integer program is about: the choices of each layer, and what each of them harms and costs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from lampq_engine.cost import CostModel
from lampq_engine.errors import InputError
from lampq_engine.recipe import AllocationSpec
from lampq_engine.ties import groups
from lampq_engine.types import Bits, Layer, Sensitivity

UNITS = {"mean_bits": "bits", "mean_activation_bits": "bits", "megabytes": "MB", "gbops": "GBOPs"}

Key = tuple[str, Bits]


def options(layers: Sequence[Layer], spec: AllocationSpec) -> dict[str, tuple[Bits, ...]]:
    """The pairs of widths each layer may take under menus, pins and ties.

    `InputError` names a pin of no such layer, and tied layers that have no pair of widths in common.
    """
    unknown = sorted({*spec.pins, *spec.bits} - {layer.name for layer in layers})
    if unknown:
        raise InputError(
            f"The recipe names {len(unknown)} layers that this model does not have, first {unknown[0]!r}",
            expected=f"names such as {layers[0].name!r}",
            todo="Use a recipe made for this model",
        )
    rows = {
        layer.name: (spec.pins[layer.name],) if layer.name in spec.pins else spec.menu(layer.kind).options()
        for layer in layers
    }
    for group in groups(layers, spec.ties) if spec.ties else ():
        common = tuple(bits for bits in rows[group[0]] if all(bits in rows[name] for name in group))
        if not common:
            raise InputError(
                "Tied layers have no widths in common: "
                + "; ".join(f"{name} may take {', '.join(map(str, rows[name]))}" for name in group),
                todo="Widen a menu, change a pin or remove the tie",
            )
        rows |= dict.fromkeys(group, common)
    return rows


@dataclass(frozen=True)
class Problem:
    """The program as plain numbers: what each choice of each layer harms and costs.

    Tied layers are one choice, under the name of the first of them: its harm and costs are the sums of theirs.
    """

    costs: CostModel
    harm: Mapping[Key, float]
    terms: Mapping[Key, Mapping[str, float]]
    choices: Mapping[str, tuple[Bits, ...]]
    mates: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # name of a choice -> the layers it decides

    @staticmethod
    def of(costs: CostModel, sensitivity: Sensitivity, spec: AllocationSpec) -> Problem:
        allowed = options(costs.layers, spec)
        layers = {layer.name: layer for layer in costs.layers}
        mates = {group[0]: group for group in groups(costs.layers, spec.ties)}
        harm: dict[Key, float] = {}
        terms: dict[Key, Mapping[str, float]] = {}
        choices: dict[str, tuple[Bits, ...]] = {}
        for name, group in mates.items():
            tied = [layers[mate] for mate in group]
            row = {bits: (_harm(sensitivity, tied, bits), _terms(costs, tied, bits)) for bits in allowed[name]}
            choices[name] = tuple(bits for bits in row if not _dominated(bits, row))
            harm |= {(name, bits): row[bits][0] for bits in choices[name]}
            terms |= {(name, bits): row[bits][1] for bits in choices[name]}
        return Problem(costs, harm, terms, choices, mates)

    def extreme(self, pick: Callable[[Iterable[float]], float], budget: str) -> float:
        """The least (`min`) or the greatest (`max`) value that one cost can take at all."""
        per_layer = (pick(self.terms[name, bits][budget] for bits in row) for name, row in self.choices.items())
        return self.costs.constant[budget] + sum(per_layer)

    def total_harm(self, bits: Mapping[str, Bits]) -> float:
        return sum(self.harm[name, bits[name]] for name in self.choices)

    def spread(self, chosen: Mapping[str, Bits]) -> dict[str, Bits]:
        """The widths of every layer, in the order of the layers, from those of each choice."""
        found = {mate: bits for name, bits in chosen.items() for mate in self.mates[name]}
        return {layer.name: found[layer.name] for layer in self.costs.layers}


def _harm(sensitivity: Sensitivity, layers: Sequence[Layer], bits: Bits) -> float:
    for layer in layers:
        try:
            sensitivity.harm(layer.name, bits)
        except KeyError as error:
            raise InputError(
                f"The metric {sensitivity.metric!r} has no score of {layer.name} at {bits} bits",
                todo="Remove this width from the menu, or analyse the study again with it",
            ) from error
    return sum(sensitivity.harm(layer.name, bits) for layer in layers)


def _terms(costs: CostModel, layers: Sequence[Layer], bits: Bits) -> dict[str, float]:
    found = [costs.terms(layer, bits) for layer in layers]
    return {name: sum(terms[name] for terms in found) for name in UNITS}


def _dominated(bits: Bits, row: Mapping[Bits, tuple[float, Mapping[str, float]]]) -> bool:
    """Whether another choice harms no more and costs no more in any respect (exact: such a choice is never needed)."""
    harm, terms = row[bits]
    for other, (other_harm, other_terms) in row.items():
        no_worse = other_harm <= harm and all(other_terms[name] <= terms[name] for name in terms)
        same = other_harm == harm and all(other_terms[name] == terms[name] for name in terms)
        if other != bits and no_worse and not (same and other > bits):
            return True
    return False
