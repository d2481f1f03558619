"""Quantization-aware training: the rounded model learns from the float one, its step sizes with it.

LSQ (Esser et al. 2020): weights by straight-through, step sizes by the gradient of `quantizers.rounding`, here of
their logarithms, which keeps them positive (our choice); soft and hard labels together as OFQ does.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lampq_engine.checkpoint import (
    Progress,
    learn_,
    read_checkpoint,
    restore_,
    restore_optimizer_,
    write_checkpoint,
)
from lampq_engine.data import Images
from lampq_engine.errors import InputError
from lampq_engine.evaluate import device_of, divergence, evaluate
from lampq_engine.journal import Report, silent
from lampq_engine.quantized import quantizers_of
from lampq_engine.recipe import TrainingSpec

HELD = 0.1  # share of the training images that are kept from training, to choose the epoch on
MOST_HELD = 1024
SHIFT = 1 / 16  # of the image's side: how far an image may be shifted
EVERY = 5  # steps between reports


def finetune_(
    model: nn.Module,
    *,
    teacher: nn.Module,
    training: Images,
    validation: Images,
    reference: Tensor | None,
    spec: TrainingSpec,
    folder: Path,
    key: str,
    report: Report = silent,
    on_epoch: Callable[[int], object] | None = None,
) -> list[dict[str, Any]]:
    """Train a quantized model in place on what the float `teacher` says of the training images and on their labels.

    After every epoch the whole state goes to `folder`; a later call with the same `key`, which must stand for model,
    images and `spec`, goes on from there and ends as if it had never stopped. One training image in ten is held out;
    the model ends at the epoch with the least loss on those, or as it was where no epoch helped, so that validation
    only measures. Every `update_every` epochs but the last `on_epoch(epoch)` may change bits: the choice of the best
    epoch then starts anew. Returns a row for every epoch: epoch, loss (training, nats), held (the loss on the
    held-out images), top1, low, high (validation, percent), images, kept. Model and teacher are on one device.
    `InputError` where the loss is not finite.
    """
    if spec.epochs == 0:
        return []
    teacher.eval()
    learned, held = split(training, spec)
    progress, optimizer = start(model, spec, folder, key)
    if not progress.best:
        note_best_(progress, model, held_loss(model, teacher, held, spec))
    while progress.epoch < spec.epochs:
        epoch = progress.epoch + 1
        with torch.random.fork_rng(_cuda(model)):  # an epoch's randomness is its number's: a resumed one draws the same
            torch.manual_seed(1_000_003 * spec.seed + epoch)
            loss = train_epoch_(model, teacher, learned, optimizer, spec=spec, epoch=epoch, report=report)
            found = evaluate(model, validation, reference=reference)
            low, high = found.interval
            row = {"epoch": epoch, "loss": loss, "top1": found.top1, "low": low, "high": high}
            lost = held_loss(model, teacher, held, spec)
            progress.epoch = epoch
            progress.history.append(row | {"held": lost, "images": found.images})
            if lost < progress.best_loss:
                note_best_(progress, model, lost)
            if on_epoch and spec.update_every and epoch % spec.update_every == 0 and epoch < spec.epochs:
                on_epoch(epoch)
                learn_(model)
                optimizer = renewed(model, spec, optimizer)
                note_best_(progress, model, math.inf)
        write_checkpoint(folder, key=key, model=model, optimizer=optimizer, progress=progress)
        steps = math.ceil(len(learned) / spec.batch)
        report("train", epoch * steps, spec.epochs * steps, **row)
    model.load_state_dict(progress.best)
    for quantizer in quantizers_of(model):
        quantizer.bake_()
    model.eval()
    return [row | {"kept": row["epoch"] == progress.best_epoch} for row in progress.history]


def split(training: Images, spec: TrainingSpec) -> tuple[Images, Images]:
    """The images to learn from and those held out, drawn by the seed of the recipe."""
    count = min(spec.images or len(training), len(training))
    if count < 2:
        raise InputError(
            f"{count} training images are too few", expected="2 or more", todo="Set training.images to 0 for all"
        )
    order = torch.randperm(count, generator=torch.Generator().manual_seed(spec.seed)).tolist()
    kept = min(MOST_HELD, max(1, round(HELD * count)))
    return training.subset(order[kept:]), training.subset(order[:kept])


def start(model: nn.Module, spec: TrainingSpec, folder: Path, key: str) -> tuple[Progress, torch.optim.Optimizer]:
    """Where a run stands: at the folder's checkpoint where that is whole and of this key, else at its beginning."""
    learn_(model)
    found = read_checkpoint(folder, key)
    if found is None:
        return Progress(), new_optimizer(model, spec)
    tensors, record = found
    progress = restore_(model, tensors, record)
    optimizer = new_optimizer(model, spec)
    restore_optimizer_(optimizer, tensors)
    return progress, optimizer


def note_best_(progress: Progress, model: nn.Module, loss: float) -> None:
    """Take the model as it is for the best so far."""
    progress.best = {name: value.detach().clone() for name, value in model.state_dict().items()}
    progress.best_epoch, progress.best_loss = progress.epoch, loss


def new_optimizer(model: nn.Module, spec: TrainingSpec) -> torch.optim.Optimizer:
    """AdamW with a rate of its own for the step sizes; only matrices decay."""
    named = list(model.named_parameters())
    steps = [p for name, p in named if name.endswith("log_step")]
    matrices = [p for name, p in named if not name.endswith("log_step") and p.dim() > 1]
    vectors = [p for name, p in named if not name.endswith("log_step") and p.dim() <= 1]
    groups = [
        {"params": matrices, "peak": spec.learning_rate, "weight_decay": spec.weight_decay},
        {"params": vectors, "peak": spec.learning_rate, "weight_decay": 0.0},
        {"params": steps, "peak": spec.scale_learning_rate, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW([group for group in groups if group["params"]], lr=spec.learning_rate)


def renewed(model: nn.Module, spec: TrainingSpec, old: torch.optim.Optimizer) -> torch.optim.Optimizer:
    """An optimizer for the parameters the model has now; those that stayed keep their moments."""
    optimizer = new_optimizer(model, spec)
    optimizer.state.update({p: old.state[p] for p in model.parameters() if p in old.state})
    return optimizer


def train_epoch_(
    model: nn.Module,
    teacher: nn.Module,
    images: Images,
    optimizer: torch.optim.Optimizer,
    *,
    spec: TrainingSpec,
    epoch: int,
    report: Report,
) -> float:
    """One pass over the images in random order; returns the mean loss, nats."""
    device, steps = device_of(model), math.ceil(len(images) / spec.batch)
    total = torch.zeros((), device=device)
    model.train()
    for number, chosen in enumerate(torch.randperm(len(images)).split(spec.batch)):
        step = (epoch - 1) * steps + number
        for group in optimizer.param_groups:
            group["lr"] = group["peak"] * rate(step / (spec.epochs * steps), spec.warmup)
        x, labels = images.batch(chosen.tolist()).to(device), images.labels[chosen].to(device)
        if spec.augment:
            x = shifted(x)
        loss = objective(model, teacher, x, labels, spec)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total += loss.detach() * len(chosen)
        if (step + 1) % EVERY == 0:
            report("train", step + 1, spec.epochs * steps, epoch=epoch, loss=_finite(loss, epoch))
    return _finite(total / len(images), epoch)


def objective(model: nn.Module, teacher: nn.Module, x: Tensor, labels: Tensor, spec: TrainingSpec) -> Tensor:
    """`d T^2 KL(teacher / T || model / T) + (1 - d) cross-entropy`, nats, mean over the images (Hinton et al. 2015)."""
    logits = _logits(model, x)
    hard = F.cross_entropy(logits, labels)
    if spec.distill == 0:
        return hard
    with torch.no_grad():
        target = _logits(teacher, x)
    soft = divergence(target / spec.temperature, logits / spec.temperature).mean() * spec.temperature**2
    return spec.distill * soft + (1 - spec.distill) * hard


@torch.no_grad()
def held_loss(model: nn.Module, teacher: nn.Module, images: Images, spec: TrainingSpec) -> float:
    """The objective on images that are not trained on, as they are, nats."""
    model.eval()
    device, total = device_of(model), 0.0
    for x, labels in images.batches(spec.batch):
        total += len(labels) * float(objective(model, teacher, x.to(device), labels.to(device), spec))
    return total / len(images)


def rate(done: float, warmup: float) -> float:
    """Share of the peak learning rate after this share of the steps: a linear warm-up, then half a cosine."""
    if done < warmup:
        return done / warmup
    return 0.5 * (1 + math.cos(math.pi * (done - warmup) / (1 - warmup)))


def shifted(x: Tensor) -> Tensor:
    """Each image of (B, C, H, W) shifted by whole pixels at random, its border repeated."""
    batch, _, height, width = x.shape
    most = max(1, round(SHIFT * min(height, width)))
    down, right = torch.randint(-most, most + 1, (2, batch, 1)).to(x.device)
    rows = (torch.arange(height, device=x.device) + down).clamp_(0, height - 1)
    columns = (torch.arange(width, device=x.device) + right).clamp_(0, width - 1)
    which = torch.arange(batch, device=x.device)[:, None, None]
    return x[which, :, rows[:, :, None], columns[:, None, :]].movedim(-1, 1).contiguous()


def _logits(model: nn.Module, x: Tensor) -> Tensor:
    """One (B, classes) tensor, also of a model with a distillation head."""
    out = model(x)
    return out if isinstance(out, Tensor) else sum(out) / len(out)


def _finite(loss: Tensor, epoch: int) -> float:
    value = float(loss.detach())
    if not math.isfinite(value):
        raise InputError(
            f"Training diverged in epoch {epoch}: the loss is {value}",
            expected="a finite loss",
            todo="Lower training.learning_rate and run again",
        )
    return value


def _cuda(model: nn.Module) -> list[torch.device]:
    device = device_of(model)
    return [device] if device.type == "cuda" else []
