"""Files that are never half written and never silently stale: atomic JSON with a key, and compute-once."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import math
import os
import re
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lampq_engine.errors import InputError


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file whole or not at all; a full disk leaves what was there and raises `InputError`."""
    # not `tempfile`, whose files nobody but their owner may read
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise InputError(
                f"The disk is full: {path.name} ({len(content) / 1e6:.1f} MB) could not be written",
                todo=f"Free space under {path.parent} and run the same command again; nothing was lost",
            ) from error
        raise


def write_json(path: Path, value: Any) -> None:
    """Write plain data as JSON, atomically; NaN and infinity become null."""
    write_bytes(path, json.dumps(finite(value), indent=1, allow_nan=False).encode())


def read_json(path: Path) -> Any:
    """Read a JSON file; `InputError` names a missing, unreadable or damaged one and says what to do."""
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise InputError(f"{path} does not exist", todo="Check the name, or make it first") from error
    except (ValueError, UnicodeDecodeError) as error:
        raise InputError(
            f"{path} is damaged: {error}",
            expected="a whole JSON file",
            todo="Delete this file and run the command again; everything else in the study stays",
        ) from error


def once(path: Path, key: str, make: Callable[[], Any]) -> tuple[Any, bool]:
    """Plain data from `path` if it is whole and was made for `key`; else make it, write it and return it.

    Returns the data and whether it was read. A damaged or stale file is made anew: cache and resume are one thing.
    """
    with contextlib.suppress(InputError):
        record = read_json(path)
        if isinstance(record, dict) and record.get("key") == key and "value" in record:
            return record["value"], True
    write_json(path, {"key": key, "value": make()})
    return read_json(path)["value"], False


def key_of(*parts: Any) -> str:
    """First 16 hex digits of the SHA-256 of plain data: what a cached file was made for."""
    return hashlib.sha256(json.dumps(finite(list(parts)), sort_keys=True).encode()).hexdigest()[:16]


def safe_name(name: str, what: str) -> str:
    """`name` if it is a plain file name; `InputError` for anything that could lead out of a folder."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,119}", name):
        raise InputError(
            f"{name!r} is not a name for a {what}",
            expected="letters, digits, dots, dashes and underscores",
            todo="Choose another name",
        )
    return name


def slug(text: str) -> str:
    """A file name that still reads like `text`."""
    return re.sub(r"[^A-Za-z0-9]+", "-", text).strip("-").lower()[:48] or "x"


def finite(value: Any) -> Any:
    """Plain data in which NaN and infinity are null, as JSON wants it."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {k: finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [finite(v) for v in value]
    return value
