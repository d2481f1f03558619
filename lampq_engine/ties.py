"""Which layers take the same widths: a recipe's ties as groups of layers, each layer in exactly one of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from lampq_engine.errors import InputError
from lampq_engine.recipe import TIES, Tie
from lampq_engine.types import Layer, blocks


def groups(layers: Sequence[Layer], ties: Sequence[Tie]) -> list[tuple[str, ...]]:
    """Every layer in a group with those it is tied to, directly or through others; a free layer is a group of one.

    Groups and their members stand in the order of the layers. `InputError` names a layer that is not there.
    """
    found = {layer.name: {layer.name} for layer in layers}
    for names in _named(layers, ties):
        unknown = [name for name in names if name not in found]
        if unknown:
            raise InputError(
                f"The tie {' = '.join(names)} names the layer {unknown[0]!r}, which this model does not have",
                expected=f"names such as {layers[0].name!r}",
                todo="Correct the name or remove the tie",
            )
        joined = set().union(*(found[name] for name in names))
        found |= dict.fromkeys(joined, joined)
    order = [layer.name for layer in layers]
    whole = {name: tuple(other for other in order if other in mates) for name, mates in found.items()}
    return list(dict.fromkeys(whole[name] for name in order))


def _named(layers: Sequence[Layer], ties: Sequence[Tie]) -> Iterator[tuple[str, ...]]:
    """The ties as lists of names; a rule gives one list for each block."""
    for tie in ties:
        if not isinstance(tie, str):
            yield tie
            continue
        for block in blocks(layers):
            names = tuple(layer.name for layer in layers if layer.block == block and layer.kind in TIES[tie])
            if len(names) > 1:
                yield names
