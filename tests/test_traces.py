"""Ranks under resampling and rank correlation, against what must come out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lampq_engine.errors import InputError
from lampq_engine.traces import rank_correlation, read_float64, resampled_ranks
from lampq_engine.types import Sensitivity


def sensitivity(found: dict[str, np.ndarray], scale: float = 1.0) -> Sensitivity:
    return Sensitivity("x", "", 1, {}, raw={name: scale * float(values.mean()) for name, values in found.items()})


def test_images_that_agree_leave_no_doubt() -> None:
    found = {f"l{i}": np.full(50, float(10 - i)) for i in range(5)}
    ranks = resampled_ranks(found, sensitivity(found))
    assert [(rank.layer, rank.rank, rank.low, rank.high) for rank in ranks] == [
        (f"l{i}", i + 1, i + 1, i + 1) for i in range(5)
    ]


def test_equal_layers_swap_ranks_and_a_clear_one_does_not() -> None:
    source = np.random.default_rng(0)
    found = {f"noisy{i}": source.exponential(1.0, 40) for i in range(6)} | {"clear": np.full(40, 100.0)}
    first, *others = resampled_ranks(found, sensitivity(found, scale=3.0))
    assert (first.layer, first.low, first.high) == ("clear", 1, 1)
    assert all(rank.low < rank.high for rank in others)
    assert all(rank.low <= rank.rank <= rank.high for rank in others)


def test_more_images_make_ranks_firmer() -> None:
    def spread(images: int) -> float:
        source = np.random.default_rng(1)
        found = {f"l{i}": source.exponential(1.0 + 0.3 * i, images) for i in range(8)}
        return sum(rank.high - rank.low for rank in resampled_ranks(found, sensitivity(found)))

    assert spread(2000) < spread(30) / 2


def test_resampling_is_seeded() -> None:
    found = {f"l{i}": np.random.default_rng(i).exponential(1.0, 20) for i in range(5)}
    assert resampled_ranks(found, sensitivity(found), seed=1) == resampled_ranks(found, sensitivity(found), seed=1)


def test_rank_correlation_is_spearmans() -> None:
    scores = {f"l{i}": float(i) for i in range(6)}
    assert rank_correlation(scores, {name: value**3 for name, value in scores.items()}) == pytest.approx(1)
    assert rank_correlation(scores, {name: -value for name, value in scores.items()}) == pytest.approx(-1)
    tied = dict(zip(scores, (1.0, 1.0, 2.0, 2.0, 3.0, 3.0), strict=True))
    assert rank_correlation(scores, tied) == pytest.approx(0.9562, abs=1e-4)
    assert np.isnan(rank_correlation(scores, {"l0": 1.0}))


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "traces-0.safetensors"
    path.write_bytes(b"\x10\x00\x00\x00\x00\x00\x00\x00 not json at all ")
    with pytest.raises(InputError, match=r"traces-0\.safetensors is damaged"):
        read_float64(path)
