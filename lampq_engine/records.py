"""What a study's JSON files hold, to and from the engine's own types."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from lampq_engine.cost import CostModel
from lampq_engine.errors import InputError
from lampq_engine.files import read_json
from lampq_engine.plain import to_plain
from lampq_engine.types import Allocation, Bits, Cell, Cost, Evaluation, Layer, Sensitivity, Solution

Value = TypeVar("Value")


def decoded(path: Path, of: Callable[[Any], Value]) -> Value:
    """What `of` makes of a JSON file; `InputError` names a file that holds something else."""
    plain = read_json(path)
    try:
        return of(plain)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        reason = str(error) if type(error) is ValueError else repr(error)
        raise InputError(
            f"{path} is damaged: {reason}",
            todo="Delete this file and run the command again; everything else in the study stays",
        ) from error


def _number(value: Any) -> float:
    return math.nan if value is None else float(value)


def costs_of(plain: Mapping[str, Any]) -> CostModel:
    return CostModel(tuple(Layer(**{"block": None, **layer}) for layer in plain["layers"]), plain["fixed_bytes"])


def evaluation_of(plain: Mapping[str, Any]) -> Evaluation:
    numbers: dict[str, Any] = {k: v if k in ("images", "split") else _number(v) for k, v in plain.items()}
    return Evaluation(**numbers)


def allocation_of(plain: Mapping[str, Any]) -> Allocation:
    bits = {name: Bits(*pair) for name, pair in plain["bits"].items()}
    solution = dict(plain["solution"])
    solution |= {k: _number(solution.get(k)) for k in ("harm", "bound", "gap", "milliseconds")}
    solution["binding"] = tuple(solution.get("binding", ()))
    return Allocation(bits, Cost(**plain["cost"]), Solution(**solution))


def sensitivity_plain(table: Sensitivity) -> dict[str, Any]:
    """A sensitivity as plain data, one row `[weight bits, activation bits, harm, error]` per cell."""
    cells = {
        name: [[b.weights, b.activations, c.harm, c.error] for b, c in row.items()] for name, row in table.cells.items()
    }
    plain = {k: to_plain(getattr(table, k)) for k in ("metric", "unit", "images", "raw", "raw_error", "notes")}
    return {**plain, "cells": cells}


def sensitivity_of(plain: Mapping[str, Any]) -> Sensitivity:
    cells = {
        name: {Bits(w, a): Cell(_number(h), _number(e)) for w, a, h, e in row} for name, row in plain["cells"].items()
    }
    return Sensitivity(**{**plain, "cells": cells})
