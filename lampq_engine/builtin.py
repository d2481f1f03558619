"""How the built-in model was made: a ViT of DeiT's shape, trained on the built-in digits.

`python -m lampq_engine.builtin` makes it again, in about a quarter of an hour on one core.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors.torch import save_file
from timm.data import resolve_data_config
from torch import Tensor, nn
from torch.nn import functional as F

from .data import Images, load_dataset
from .errors import InputError
from .types import wilson

FOLDER = Path(__file__).resolve().parents[1] / "assets" / "models" / "digits_vit"
EPOCHS = 80
BATCH = 64
WEIGHT_DECAY, SMOOTHING = 0.05, 0.1
WARM_UP = 0.08  # share of all steps over which the learning rate rises
TURN, ZOOM, SLANT, SHIFT = 0.20, 0.15, 0.15, 0.12  # augmentation: radians, share, share, share of the image's width
ARCHITECTURE = "deit_tiny_patch16_224"  # 12 blocks, 3 heads; the arguments make it narrow and its images small
MODEL_ARGS: dict[str, Any] = {"img_size": 32, "patch_size": 4, "in_chans": 1, "num_classes": 10, "embed_dim": 96}
PREPROCESSING: dict[str, Any] = {
    "input_size": [1, 32, 32],
    "mean": [0.3],
    "std": [0.37],
    "crop_pct": 1.0,
    "crop_mode": "center",
    "interpolation": "bicubic",
}


@dataclass(frozen=True)
class Stage:
    """A part of the training, with a warm-up and a cosine decay of its own."""

    epochs: int
    learning_rate: float
    warping: float  # 1: the whole augmentation, 0: none


@dataclass(frozen=True)
class Training:
    """How a training run went."""

    losses: tuple[float, ...]  # mean training loss of each epoch, nats
    top1: float  # percent of the held-out scans, with the weights as they are stored
    images: int  # held-out scans


def train_builtin(
    folder: str | Path,
    *,
    epochs: int = EPOCHS,
    seed: int = 0,
    training_images: int = 0,
    progress: Callable[[str], None] = print,
) -> Training:
    """Train the built-in model from nothing and write it to `folder` in timm's local-dir layout.

    `training_images` limits the training part (0: all 1347 scans). The last epoch is what is kept; the held-out scans
    are only measured, after the weights are rounded to the float16 that the file stores.
    """
    if epochs < 1:
        raise InputError(f"{epochs} epochs train nothing", expected="1 or more", todo=f"Leave it at {EPOCHS}")
    folder = _writable(Path(folder))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = timm.create_model(ARCHITECTURE, **MODEL_ARGS).to(device)
        data = load_dataset(
            "builtin",
            model_config=resolve_data_config(PREPROCESSING | {"input_size": (1, 32, 32)}, model=model),
            num_classes=10,
            calibration_images=training_images,
            validation_images=0,
            seed=seed,
        )
        losses: tuple[float, ...] = ()
        for number, stage in enumerate(stages(epochs), start=1):
            losses += _fit_(model, data.calibration, stage, progress=progress)
            weights = _round_(model)
            torch.manual_seed(seed + number)  # so that a stage can be run again from the weights of the one before
    save_file(weights, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(_config(), indent=2) + "\n")
    top1 = _top1(model, data.validation)
    low, high = wilson(top1 / 100, len(data.validation))
    progress(f"held-out top-1 {top1:.2f} % of {len(data.validation)} scans (95 % interval {low:.1f} to {high:.1f})")
    return Training(losses=losses, top1=top1, images=len(data.validation))


def stages(epochs: int) -> tuple[Stage, ...]:
    """Three quarters of the epochs with strong augmentation, the rest with half of it at half the learning rate."""
    first = math.ceil(0.75 * epochs)
    parts = (Stage(first, learning_rate=1e-3, warping=1.0), Stage(epochs - first, learning_rate=5e-4, warping=0.5))
    return tuple(stage for stage in parts if stage.epochs)


def _round_(model: nn.Module) -> dict[str, Tensor]:
    """Round the weights to what float16 can hold, in place; returns them in float16."""
    weights = {name: weight.half().cpu().contiguous() for name, weight in model.state_dict().items()}
    model.load_state_dict(weights)
    return weights


def _fit_(model: nn.Module, images: Images, stage: Stage, *, progress: Callable[[str], None]) -> tuple[float, ...]:
    """AdamW with warm-up and cosine decay; every batch is warped anew."""
    device = next(model.parameters()).device
    inputs, labels = images.tensor().to(device), images.labels.to(device)
    background = -PREPROCESSING["mean"][0] / PREPROCESSING["std"][0]
    steps = stage.epochs * math.ceil(len(images) / BATCH)
    optimizer = torch.optim.AdamW(model.parameters(), lr=stage.learning_rate, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step / steps))
    losses: list[float] = []
    model.train()
    for epoch in range(stage.epochs):
        total = 0.0
        for chosen in torch.randperm(len(images)).split(BATCH):
            chosen = chosen.to(device)
            logits = model(warp(inputs[chosen], strength=stage.warping, background=background))
            loss = F.cross_entropy(logits, labels[chosen], label_smoothing=SMOOTHING)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item() * len(chosen)
        losses.append(total / len(images))
        progress(f"epoch {epoch + 1} of {stage.epochs}: training loss {losses[-1]:.4f}")
    return tuple(losses)


def _rate(done: float) -> float:
    """Share of the learning rate after this share of the steps."""
    if done < WARM_UP:
        return 0.01 + 0.99 * done / WARM_UP
    return 0.5 * (1 + math.cos(math.pi * (done - WARM_UP) / (1 - WARM_UP)))


def warp(images: Tensor, *, strength: float, background: float) -> Tensor:
    """Each image (B, C, H, W) turned, stretched, slanted and shifted a little at random, on `background`."""
    batch = images.shape[0]
    turn, slant, wide, high, right, down = (strength * (2 * torch.rand(6, batch) - 1)).to(images)
    cosine, sine = torch.cos(TURN * turn), torch.sin(TURN * turn)
    wide, high = 1 + ZOOM * wide, 1 + ZOOM * high
    first = torch.stack([cosine * wide, SLANT * slant - sine * wide, 2 * SHIFT * right], dim=1)
    second = torch.stack([sine * high, cosine * high, 2 * SHIFT * down], dim=1)
    grid = F.affine_grid(torch.stack([first, second], dim=1), list(images.shape), align_corners=False)
    return F.grid_sample(images - background, grid, align_corners=False) + background


@torch.inference_mode()
def _top1(model: nn.Module, images: Images) -> float:
    model.eval()
    device = next(model.parameters()).device
    right = sum(
        int((model(inputs.to(device)).argmax(dim=1).cpu() == labels).sum()) for inputs, labels in images.batches(BATCH)
    )
    return 100 * right / len(images)


def _config() -> dict[str, Any]:
    """What timm reads beside the weights."""
    return {
        "architecture": ARCHITECTURE,
        "num_classes": 10,
        "num_features": MODEL_ARGS["embed_dim"],
        "global_pool": "token",
        "label_names": [str(digit) for digit in range(10)],
        "model_args": MODEL_ARGS,
        "pretrained_cfg": {
            "tag": "digits",
            "custom_load": False,
            "fixed_input_size": True,
            **PREPROCESSING,
            "num_classes": 10,
            "pool_size": None,
            "first_conv": "patch_embed.proj",
            "classifier": "head",
            "license": "apache-2.0",
        },
    }


def _writable(folder: Path) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"The model cannot be written to {folder}: {error.strerror}",
            expected="a folder that can be written to",
            todo="Choose another folder",
        ) from error
    return folder


def main(arguments: list[str] | None = None) -> int:
    """The command line; 0 when the model was written, 2 when what was asked for cannot be done."""
    parser = argparse.ArgumentParser(
        prog="python -m lampq_engine.builtin", description="Train the built-in digits model again."
    )
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where to write config.json and model.safetensors")
    parser.add_argument(
        "--epochs", type=int, default=EPOCHS, help="passes over the training scans (default %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of weights, order and augmentation (default 0)")
    asked = parser.parse_args(arguments)
    try:
        train_builtin(asked.folder, epochs=asked.epochs, seed=asked.seed, progress=lambda line: print(line, flush=True))
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
