"""Measuring a model: logits, accuracy with its interval, loss, and how far it is from the float model."""

from __future__ import annotations

import time

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lampq_engine.data import Images
from lampq_engine.journal import Report, silent
from lampq_engine.types import Evaluation


def device_of(model: nn.Module) -> torch.device:
    """Where a model's parameters are."""
    return next(model.parameters()).device


def best_device() -> torch.device:
    """CUDA where it is present, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@torch.no_grad()
def predict(
    model: nn.Module, images: Images, *, batch: int = 32, report: Report = silent, stage: str = "measure"
) -> Tensor:
    """Logits (N, classes) of every image, on the CPU in float32; the model is in eval mode meanwhile."""
    training, device = model.training, device_of(model)
    model.eval()
    parts: list[Tensor] = []
    for x, _ in images.batches(batch):
        out = model(x.to(device))
        parts.append((out if isinstance(out, Tensor) else sum(out) / len(out)).float().cpu())
        report(stage, sum(map(len, parts)), len(images))
    model.train(training)
    return torch.cat(parts)


def score(
    logits: Tensor, labels: Tensor, *, reference: Tensor | None = None, seconds: float = 0.0, split: str = "validation"
) -> Evaluation:
    """The evaluation that a set of logits (N, classes) amounts to, against labels and the float model's logits."""
    n = len(labels)
    top5 = logits.topk(min(5, logits.shape[1]), dim=1).indices
    hits = top5 == labels[:, None]
    extra: dict[str, float] = {}
    if reference is not None:
        same = (logits.argmax(1) == reference.argmax(1)).float().mean()
        kl = divergence(reference, logits).mean()
        extra = {"agreement": 100 * float(same), "kl": float(kl)}
    return Evaluation(
        images=n,
        top1=100 * float(hits[:, 0].float().mean()),
        top5=100 * float(hits.any(1).float().mean()),
        loss=float(F.cross_entropy(logits, labels)),
        seconds=seconds,
        split=split,
        **extra,
    )


def divergence(reference: Tensor, logits: Tensor) -> Tensor:
    """KL(reference || model) of every image, (N,), nats; both arguments are logits (N, classes)."""
    target = F.log_softmax(reference, dim=1)
    return (target.exp() * (target - F.log_softmax(logits, dim=1))).sum(1)


def evaluate(
    model: nn.Module,
    images: Images,
    *,
    reference: Tensor | None = None,
    report: Report = silent,
    split: str = "validation",
    stage: str = "measure",
) -> Evaluation:
    """Loss and accuracy of a model on a set of images, with the time it took."""
    start = time.perf_counter()
    logits = predict(model, images, report=report, stage=stage)
    return score(logits, images.labels, reference=reference, seconds=time.perf_counter() - start, split=split)
