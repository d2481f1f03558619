"""The per-image Fisher traces that a study keeps, read without torch; and how much ranks depend on the images drawn."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lampq_engine.errors import InputError
from lampq_engine.store import Study
from lampq_engine.types import Sensitivity

Array = NDArray[np.float64]


def read_float64(path: Path) -> dict[str, Array]:
    """The float64 tensors of a safetensors file; `InputError` names a file that is none."""
    try:
        content = path.read_bytes()
        size = int.from_bytes(content[:8], "little")
        header = json.loads(content[8 : 8 + size])
        found = {}
        for name, entry in header.items():
            if name != "__metadata__" and entry["dtype"] == "F64":
                start, stop = entry["data_offsets"]
                raw = content[8 + size + start : 8 + size + stop]
                found[name] = np.frombuffer(raw, np.float64).reshape(entry["shape"])
        return found
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is damaged: {error!r}", todo="Delete it and analyse the study again") from error


def traces(study: Study) -> dict[str, Array]:
    """Fisher trace of each layer for each calibration image, (images,); empty where the study keeps none."""
    files = sorted((study.path / "sensitivity").glob("traces-*.safetensors"), key=lambda path: path.stat().st_mtime)
    return read_float64(files[-1]) if files else {}


@dataclass(frozen=True)
class Rank:
    """Where a layer stands among all, 1 the most sensitive, and between which ranks other images would put it."""

    layer: str
    rank: int
    low: int  # 5th percentile over the draws
    high: int  # 95th percentile


def resampled_ranks(
    found: Mapping[str, Array], sensitivity: Sensitivity, *, draws: int = 400, seed: int = 0
) -> list[Rank]:
    """Ranks of the layers by their width-free score, most sensitive first, under resampling of the images.

    Bootstrap: as many images are drawn with replacement as there are, and the mean traces ranked anew. What the metric
    makes of a trace (type factors, division by size) is held fixed, so the spread is that of the images alone.
    """
    names = [name for name in sensitivity.raw if name in found and found[name].mean() > 0]
    if not names:
        return []
    table = np.stack([found[name] for name in names])
    scale = np.array([sensitivity.raw[name] for name in names]) / table.mean(axis=1)
    source = np.random.default_rng(seed)
    count = table.shape[1]
    weights = source.multinomial(count, np.full(count, 1 / count), size=draws) / count
    scores = (weights @ table.T) * scale  # draws x layers
    ranks = (-scores).argsort(axis=1).argsort(axis=1) + 1
    low, high = np.percentile(ranks, [5, 95], axis=0)
    order = np.argsort([-sensitivity.raw[name] for name in names])
    return [Rank(names[i], place + 1, round(low[i]), round(high[i])) for place, i in enumerate(order)]


def rank_correlation(first: Mapping[str, float], second: Mapping[str, float]) -> float:
    """Spearman's rank correlation of two scores over the layers that both have; NaN for fewer than three."""
    names = [name for name in first if name in second]
    if len(names) < 3:
        return float("nan")
    a, b = (_ranks(np.array([scores[name] for name in names])) for scores in (first, second))
    return float(np.corrcoef(a, b)[0, 1]) if a.std() and b.std() else float("nan")


def _ranks(values: Array) -> Array:
    """Ranks from 0, equal values sharing the mean of theirs."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return (ends - (counts + 1) / 2)[inverse]
