"""Dataclasses to and from plain data (dicts, lists, scalars), with every name and type checked on the way in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, Field, field, fields, is_dataclass
from typing import Any, cast, get_type_hints

from lampq_engine.errors import InputError
from lampq_engine.types import FLOAT_BITS, Bits


def setting(default: Any, help: str, choices: tuple[str, ...] = ()) -> Any:
    """A dataclass field with its help text, and its choices where it has any."""
    metadata = {"help": help, "choices": choices}
    if isinstance(default, dict):
        return field(default_factory=lambda: dict(default), metadata=metadata)
    return field(default=default, metadata=metadata)


def help_of(spec: type, name: str) -> str:
    """Help text of one setting, for the command line, tooltips and documentation."""
    return field_of(spec, name).metadata.get("help", "")


def field_of(spec: type, name: str) -> Field:
    return next(f for f in fields(spec) if f.name == name)


def check(good: bool, name: str, value: object, expected: str) -> None:
    """Raise `InputError` that names setting, value and what was expected, unless `good`."""
    if not good:
        raise InputError(f"The setting {name} is {value!r}", expected=expected, todo=f"Change {name} and try again")


def check_choices(spec: Any) -> None:
    for f in fields(spec):
        choices = f.metadata.get("choices")
        if choices and getattr(spec, f.name) not in choices:
            check(False, f.name, getattr(spec, f.name), "one of " + ", ".join(choices))


def to_plain(value: Any) -> Any:
    """A dataclass as plain dicts, lists and scalars; absent values are left out."""
    if is_dataclass(value) and not isinstance(value, type):
        value = {f.name: getattr(value, f.name) for f in fields(value)}
    if isinstance(value, Mapping):
        return {str(k): to_plain(v) for k, v in value.items() if v is not None}
    if isinstance(value, tuple | list):
        return [to_plain(v) for v in value]
    return value


def from_plain(spec: type, plain: Any, where: str = "") -> Any:
    """Build a dataclass from plain data, checking names and types on the way."""
    check(isinstance(plain, Mapping), where, plain, f"a table of the settings of {spec.__name__}")
    hints, known = get_type_hints(spec), {f.name: f for f in fields(spec)}
    unknown = sorted(set(plain) - set(known))
    if unknown:
        named = ", ".join(map(repr, unknown))
        raise InputError(
            f"{where} has no setting {named}", expected="only " + ", ".join(known), todo="Correct its name"
        )
    missing = [n for n, f in known.items() if n not in plain and f.default is MISSING and f.default_factory is MISSING]
    if missing:
        raise InputError(f"{where} lacks the setting {', '.join(missing)}", todo="Add it")
    return spec(**{name: _convert(hints[name], value, f"{where}.{name}") for name, value in plain.items()})


def _convert(hint: Any, value: Any, where: str) -> Any:
    if hint is Bits:
        check(_is_bits(value), where, value, "two widths, [weights, activations]")
        return Bits(*value)
    if is_dataclass(hint):
        return from_plain(cast(type, hint), value, where)
    origin, args = getattr(hint, "__origin__", None), tuple[Any, ...](getattr(hint, "__args__", ()))
    if origin is dict:
        check(isinstance(value, Mapping), where, value, "a table")
        return {key: _convert(args[1], item, f"{where}.{key}") for key, item in value.items()}
    if origin is tuple:
        check(isinstance(value, list | tuple), where, value, "a list")
        return tuple(tuple(item) if isinstance(item, list) else item for item in value)
    wanted = float if float in args or hint is float else hint
    good = (
        isinstance(value, int | float) and not isinstance(value, bool) if wanted is float else isinstance(value, wanted)
    )
    good = good and not (wanted is int and isinstance(value, bool))
    check(good, where, value, f"a value of type {wanted.__name__}")
    return float(value) if wanted is float else value


def _is_bits(value: Any) -> bool:
    return (
        isinstance(value, list | tuple)
        and len(value) == 2
        and all(isinstance(b, int) and (1 <= b <= 8 or b == FLOAT_BITS) for b in value)
    )
