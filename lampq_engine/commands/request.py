"""From command-line options to specs and recipes."""

from __future__ import annotations

import argparse
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, TypeVar

from lampq_engine.errors import InputError
from lampq_engine.recipe import TIES, Budgets, DataSpec, Menu, ModelSpec, Recipe, Tie, from_toml
from lampq_engine.types import KINDS, Bits

Spec = TypeVar("Spec")


def settings(spec: Spec, options: argparse.Namespace) -> Spec:
    """A spec with the options that were given in place of its own values."""
    names = {f.name for f in fields(spec)}  # type: ignore[arg-type]
    asked = {name: value for name, value in vars(options).items() if name in names and value is not None}
    return replace(spec, **asked)  # type: ignore[type-var]


def model_spec(options: argparse.Namespace) -> ModelSpec:
    return ModelSpec(name=_absolute(options.model, "local-dir:"), checkpoint=_absolute(options.checkpoint))


def data_spec(options: argparse.Namespace) -> DataSpec:
    named = options.data == "builtin" or options.data.startswith("timm:")
    source = options.data if named else _absolute(options.data)
    spec = settings(DataSpec(source=source), options)
    return replace(spec, calibration_source=_absolute(spec.calibration_source))


def _absolute(path: str, prefix: str = "") -> str:
    """A local path made absolute, so that a study means the same from any folder; other names as they are."""
    if not path or (prefix and not path.startswith(prefix)):
        return path
    return prefix + str(Path(path.removeprefix(prefix)).expanduser().resolve())


def shipped_recipes() -> Path:
    """The folder of recipes that come with the project."""
    return Path(__file__).resolve().parents[2] / "assets" / "recipes"


def adjusted(recipe: Recipe, options: argparse.Namespace) -> Recipe:
    """A recipe with the options that were given laid over it."""
    spec = recipe.allocation
    budgets = settings(Budgets(), options)
    if options.uniform:
        spec = replace(spec, solver="uniform", uniform=widths(options.uniform), budgets=Budgets())
    elif budgets.given():
        spec = replace(spec, solver="ilp", budgets=budgets)
    menus = dict(spec.menus)
    for text in options.menu:
        kind, menu = menu_of(text)
        menus[kind] = menu
    if options.free:
        menus = {kind: replace(menu, tied=False) for kind, menu in menus.items()}
    pins = {**spec.pins, **dict(pin_of(text) for text in options.pin)}
    ties = (*spec.ties, *map(tie_of, options.tie))
    metric = options.metric or recipe.sensitivity.metric
    return replace(
        recipe,
        allocation=replace(spec, menus=menus, pins=pins, ties=ties),
        sensitivity=replace(recipe.sensitivity, metric=metric),
    )


def read_recipe(name: str) -> Recipe:
    """A recipe file by path, or a shipped recipe by name."""
    shipped = shipped_recipes() / f"{name}.toml"
    path = shipped if shipped.is_file() and not Path(name).is_file() else Path(name)
    if not path.is_file():
        names = ", ".join(sorted(p.stem for p in shipped_recipes().glob("*.toml"))) or "none"
        raise InputError(f"There is no recipe {name!r}", expected=f"a TOML file, or a shipped recipe: {names}")
    try:
        text = path.read_text(encoding="utf-8")
    except (UnicodeDecodeError, OSError) as error:
        raise InputError(f"The recipe {path} cannot be read: {error}", expected="a TOML text file") from error
    return from_toml(text, where=path.name)


def widths(text: str) -> Bits:
    """`4/8`, or `4` for both, as widths."""
    try:
        parts = [int(part) for part in text.split("/")]
        weights, activations = parts * 2 if len(parts) == 1 else parts
        Menu((weights,), (activations,))
    except ValueError as error:
        raise InputError(
            f"{text!r} is not a pair of widths", expected="W/A, such as 4/8, from 1 to 8 or 32 for float"
        ) from error
    return Bits(weights, activations)


def pin_of(text: str) -> tuple[str, Bits]:
    name, _, bits = text.rpartition("=")
    if not name:
        raise InputError(f"{text!r} is not a pin", expected="LAYER=W/A, such as blocks.0.attn.qkv=8/8")
    return name, widths(bits)


def tie_of(text: str) -> Tie:
    """`residual`, or `blocks.0.attn.qkv=blocks.0.attn.proj`, as a tie."""
    names = tuple(name.strip() for name in text.split("="))
    if not all(names) or (len(names) == 1 and names[0] not in TIES):
        raise InputError(
            f"{text!r} is not a tie", expected=f"one of {', '.join(TIES)}, or LAYER=LAYER with two or more layers"
        )
    return names if len(names) > 1 else names[0]


def menu_of(text: str) -> tuple[Any, Menu]:
    """`qkv=2,4,8` or `patch=4/8` as a kind and its menu."""
    kind, _, rest = text.partition("=")
    if kind not in KINDS:
        raise InputError(f"{kind!r} is not a kind of layer", expected="one of " + ", ".join(KINDS))
    try:
        sides = [tuple(int(b) for b in side.split(",")) for side in rest.split("/")]
        weights, activations = sides * 2 if len(sides) == 1 else sides
    except ValueError as error:
        raise InputError(f"{text!r} is not a menu", expected="KIND=WIDTHS, such as qkv=2,4,8 or patch=4/8") from error
    return kind, Menu(weights, activations)
