"""Where each layer stands in a map of block x kind: a plain record that every heatmap draws from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lampq_engine.figures.names import KIND_NAMES
from lampq_engine.types import KINDS, Layer, blocks

OUTSIDE = "outside"  # row of what stands outside the blocks: patch embedding, merging, head


@dataclass(frozen=True)
class Grid:
    """Rows (kinds) and columns (blocks) of a map, and the layer in each place; a place may be empty."""

    rows: tuple[str, ...]
    columns: tuple[str, ...]
    places: Mapping[tuple[str, str], Layer]

    def table(self, value: Mapping[str, object]) -> list[list[object]]:
        """`value[layer name]` row by row; None where there is no layer or no value."""
        return [[self._at(row, column, value) for column in self.columns] for row in self.rows]

    def _at(self, row: str, column: str, value: Mapping[str, object]) -> object:
        layer = self.places.get((row, column))
        return value.get(layer.name) if layer else None


def grid(layers: Sequence[Layer]) -> Grid:
    """The map of a model's layers. A second layer of one kind in a block gets a row of its own.

    A layer outside the blocks stands in the last row, under the block it follows.
    """
    columns = tuple(str(block) for block in blocks(layers)) or ("0",)
    places: dict[tuple[str, str], Layer] = {}
    column = 0
    for layer in layers:
        if layer.block is None:
            while (OUTSIDE, columns[column]) in places and column + 1 < len(columns):
                column += 1
            places.setdefault((OUTSIDE, columns[column]), layer)
            continue
        column = columns.index(str(layer.block))
        places[_free_row(KIND_NAMES[layer.kind], columns[column], places), columns[column]] = layer
    present = {row for row, _ in places}
    order = [f"{KIND_NAMES[kind]}{more}" for kind in KINDS for more in ("", *(f" {n}" for n in range(2, 10)))]
    return Grid(tuple(row for row in [*order, OUTSIDE] if row in present), columns, places)


def _free_row(name: str, column: str, places: Mapping[tuple[str, str], Layer]) -> str:
    rows = (f"{name} {n}" if n > 1 else name for n in range(1, 10))
    return next((row for row in rows if (row, column) not in places), name)
