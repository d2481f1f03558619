"""A model as stages in execution order: each transformer block is one, and each layer outside of the blocks is one.

A stage is a module that can be run again on the inputs it was seen to get, without the rest of the model.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

import torch
from torch import Tensor, nn

from lampq_engine.types import Layer

BATCH = 32  # images in one run of a stage

Call = tuple[tuple[Any, ...], dict[str, Any]]  # positional and keyword arguments of one run


@dataclass(frozen=True)
class Stage:
    """A module path with the layers it holds, in execution order."""

    path: str
    layers: tuple[Layer, ...]


def stages_of(layers: Sequence[Layer]) -> list[Stage]:
    """The stages of a model with these layers."""
    groups: dict[object, list[Layer]] = {}
    for layer in layers:
        groups.setdefault(layer.name if layer.block is None else layer.block, []).append(layer)
    return [Stage(_common([layer.name for layer in group]), tuple(group)) for group in groups.values()]


def _common(names: Sequence[str]) -> str:
    """The innermost module that holds all of them; a single name itself."""
    if len(names) == 1:
        return names[0]
    shared = takewhile(lambda parts: len(set(parts)) == 1, zip(*(name.split(".") for name in names), strict=False))
    return ".".join(parts[0] for parts in shared)


class _Reached(Exception):  # noqa: N818 - no error: it ends a run once the module is reached
    """The module that was waited for is about to run."""


def calls_of(model: nn.Module, path: str, images: Tensor, *, batch: int = BATCH) -> list[Call]:
    """The arguments a module gets when the model runs on images (N, C, H, W), one call a batch."""
    return [_until(model, model.get_submodule(path), ((x,), {})) for x in images.split(batch)]


def inputs_of(stage: nn.Module, module: nn.Module, calls: Sequence[Call]) -> tuple[Tensor, ...]:
    """What a module inside a stage gets when the stage runs on these calls, all batches joined."""
    parts = [call[0] if stage is module else _until(stage, module, call)[0] for call in calls]
    return tuple(torch.cat(list(column)) for column in zip(*parts, strict=True))


@torch.no_grad()
def _until(outer: nn.Module, inner: nn.Module, call: Call) -> Call:
    """Run `outer` until `inner` is about to run; returns the arguments `inner` would have got."""
    seen: list[Call] = []

    def stop(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        seen.append((args, kwargs))
        raise _Reached

    hook = inner.register_forward_pre_hook(stop, with_kwargs=True)
    try:
        outer(*call[0], **call[1])
    except _Reached:
        pass
    finally:
        hook.remove()
    return seen[0]


@torch.no_grad()
def outputs_of(stage: nn.Module, calls: Sequence[Call]) -> Iterator[Tensor]:
    """What a stage makes of each call."""
    for args, kwargs in calls:
        yield stage(*args, **kwargs)
