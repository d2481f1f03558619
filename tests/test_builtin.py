"""The built-in model: what ships, and the script that makes it."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors import safe_open
from timm.data import resolve_data_config

from lampq_engine.builtin import FOLDER, PREPROCESSING, main, train_builtin, warp
from lampq_engine.data import load_dataset
from lampq_engine.errors import InputError


@pytest.fixture(scope="module")
def model() -> Any:
    return timm.create_model(f"local-dir:{FOLDER}", pretrained=True).eval()


def test_loads_like_any_model_without_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        timm.create_model(f"local-dir:{FOLDER}", pretrained=True)
    assert not caplog.records


def test_has_the_shape_of_deit(model: Any) -> None:
    assert len(model.blocks) == 12
    assert {block.attn.num_heads for block in model.blocks} == {3}
    assert model.cls_token is not None
    assert model.embed_dim == 96
    assert sum(p.numel() for p in model.parameters()) == 1_351_210
    assert all(p.dtype == torch.float32 for p in model.parameters())
    assert model(torch.zeros(2, 1, 32, 32)).shape == (2, 10)


def test_files_are_small_and_hold_float16() -> None:
    assert (FOLDER / "model.safetensors").stat().st_size < 5_000_000
    with safe_open(FOLDER / "model.safetensors", framework="pt") as stored:
        assert all(stored.get_tensor(name).dtype == torch.float16 for name in stored.keys())  # noqa: SIM118


def test_reads_at_least_97_percent_of_the_held_out_digits(model: Any) -> None:
    config = resolve_data_config({}, model=model)
    assert config["input_size"] == (1, 32, 32)
    assert list(config["mean"]) == PREPROCESSING["mean"]
    data = load_dataset(
        "builtin", model_config=config, num_classes=10, calibration_images=16, validation_images=0, seed=0
    )
    with torch.inference_mode():
        right = sum(int((model(x).argmax(1) == y).sum()) for x, y in data.validation.batches(64))
    assert len(data.validation) == 450
    assert right / 450 >= 0.97


def test_training_lowers_the_loss_and_writes_a_folder_that_loads(tmp_path: Path) -> None:
    lines: list[str] = []
    run = train_builtin(tmp_path / "made", epochs=2, seed=0, training_images=192, progress=lines.append)
    assert run.losses[1] < run.losses[0]
    assert run.images == 450
    assert len(lines) == 3
    assert "95 % interval" in lines[-1]
    again = timm.create_model(f"local-dir:{tmp_path / 'made'}", pretrained=True)
    assert sorted(path.name for path in (tmp_path / "made").iterdir()) == ["config.json", "model.safetensors"]
    assert (tmp_path / "made" / "config.json").read_text() == (FOLDER / "config.json").read_text()
    assert again(torch.zeros(1, 1, 32, 32)).isfinite().all()


def test_warp_moves_the_scan_and_keeps_the_background() -> None:
    torch.manual_seed(0)
    flat = torch.full((4, 1, 32, 32), -0.8)
    assert torch.allclose(warp(flat, strength=1.0, background=-0.8), flat)
    dot = flat.clone()
    dot[:, :, 14:18, 14:18] = 1.0
    moved = warp(dot, strength=1.0, background=-0.8)
    assert torch.allclose(warp(dot, strength=0.0, background=-0.8), dot, atol=1e-5)
    assert moved.shape == dot.shape
    assert len({round(float(image.sum()), 3) for image in moved}) == 4
    assert moved.max() <= 1.0
    assert moved.min() >= -0.8 - 1e-6


def test_complaints(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(InputError, match="0 epochs train nothing"):
        train_builtin(tmp_path, epochs=0, seed=0)
    file = tmp_path / "file"
    file.write_text("")
    assert main(["--folder", str(file / "under"), "--epochs", "1"]) == 2
    assert "cannot be written to" in capsys.readouterr().err
