"""Calibration images made from the model alone: PSAQ-ViT's patch-similarity objective (ECCV 2022).

Real images differ from noise in how their patches relate: an attention output is diverse over patches for the one and
alike for the other. Noise is optimised until the patch similarities of every block spread out, towards random classes
and a natural total variation.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lampq_engine.evaluate import device_of
from lampq_engine.recipe import GenerationSpec
from lampq_engine.sensitivity.capture import frozen

BANDWIDTH = 0.01  # of the Gaussian kernels over similarities
POINTS = 10  # at which their density is taken
PAIRS = 4096  # similarities an image and block gives to it (our choice: all 38416 of DeiT-Tiny cost 3 x the time)
JITTER = 15 / 224  # of the image's side: how far images are rolled in the first round
NATURAL = (2500.0, 3000.0)  # total variation of 32 natural images of 3 x 224 x 224
REFERENCE = 32 * 3 * 224 * 224
WARMUP = 0.2  # share of a round's steps (PSAQ-ViT: 100 of 500)


def patch_entropy(context: Tensor, prefix: int = 0) -> Tensor:
    """Mean differential entropy of the density of patch similarities, from attention outputs (B, heads, tokens, d).

    PSAQ-ViT: mean over heads, `prefix` tokens (CLS) left out, cosine similarity of every pair of patches, Gaussian
    kernel density at 10 points from the least to the greatest, trapezoid of `-p log p`.
    """
    patches = F.normalize(context.mean(1)[:, prefix:], dim=-1)
    similar = (patches @ patches.transpose(1, 2)).flatten(1)
    low, high = similar.amin(1, keepdim=True), similar.amax(1, keepdim=True)
    stride = max(1, similar.shape[1] // PAIRS) | 1  # odd, so that it walks through rows and columns alike
    some = similar[:, ::stride]
    points = low + (high - low) * torch.linspace(0, 1, POINTS, device=context.device)
    kernels = torch.exp(-0.5 * ((points[:, :, None] - some[:, None]) / BANDWIDTH).square())
    density = kernels.mean(2) / (BANDWIDTH * math.sqrt(2 * math.pi))
    return torch.trapezoid(-density * torch.log(density + 1e-4), points, dim=1).mean()


def total_variation(x: Tensor) -> Tensor:
    """Sum of the L2 norms of the differences to four neighbours: right, below, and both diagonals."""
    return (
        (x[..., :, :-1] - x[..., :, 1:]).norm()
        + (x[..., :-1, :] - x[..., 1:, :]).norm()
        + (x[..., 1:, :-1] - x[..., :-1, 1:]).norm()
        + (x[..., :-1, :-1] - x[..., 1:, 1:]).norm()
    )


def natural_variation(shape: torch.Size, source: torch.Generator) -> float:
    """A total variation that `shape` natural images would have; the norm grows as the root of their size."""
    low, high = NATURAL
    return (low + (high - low) * float(torch.rand((), generator=source))) * math.sqrt(shape.numel() / REFERENCE)


def synthesize(
    model: nn.Module,
    count: int,
    spec: GenerationSpec,
    *,
    size: tuple[int, ...],
    bounds: tuple[Tensor, Tensor],
    seed: int,
    on_step: Callable[[int, float, float], None] = lambda step, loss, entropy: None,
) -> tuple[Tensor, Tensor]:
    """`count` images (count, *size) and the classes they were drawn towards, from noise and the model alone.

    `bounds` are the least and greatest valid value of each channel, (C, 1, 1). `on_step(step, loss, entropy)` sees
    every step. Adam with betas 0.5 and 0.9; each round warms up and falls as a cosine, the second with twice the
    shifts; all of it as PSAQ-ViT does.
    """
    source, device = torch.Generator().manual_seed(seed), device_of(model)
    classes = int(getattr(model, "num_classes", 1000))
    labels = torch.randint(classes, (count,), generator=source)
    x = torch.randn(count, *size, generator=source).to(device).requires_grad_()
    aim, step = natural_variation(x.shape, source), 0
    low, high = (bound.to(device) for bound in bounds)
    prefix = int(getattr(model, "num_prefix_tokens", 0))
    with frozen(model), _watched(model) as seen, torch.enable_grad():
        for part in range(spec.rounds):
            optimizer = torch.optim.Adam([x], lr=spec.learning_rate, betas=(0.5, 0.9), eps=1e-8)
            for now in range(spec.iterations):
                optimizer.param_groups[0]["lr"] = spec.learning_rate * _schedule(now, spec.iterations)
                seen.clear()
                out = model(_moved(x, min(part + 1, 2), spec.flip, source))
                logits = out if isinstance(out, Tensor) else sum(out) / len(out)
                entropy = sum((patch_entropy(one, prefix) for one in seen), torch.zeros((), device=device))
                loss = -entropy + spec.prior * F.cross_entropy(logits, labels.to(device))
                loss = loss + spec.variation * (total_variation(x) - aim).abs()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                with torch.no_grad():
                    x.copy_(x.clamp(low, high))
                step += 1
                on_step(step, float(loss.detach()), float(entropy.detach()))
    return x.detach().cpu(), labels


def _schedule(step: int, steps: int) -> float:
    """Linear warm-up, then a cosine to zero."""
    warm = max(1, int(WARMUP * steps))
    if step < warm:
        return (step + 1) / warm
    return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))


def _moved(x: Tensor, far: int, flip: bool, source: torch.Generator) -> Tensor:
    """The images rolled by some pixels and perhaps mirrored."""
    limit = max(1, round(JITTER * far * x.shape[-1]))
    shifts = torch.randint(-limit, limit + 1, (2,), generator=source).tolist()
    rolled = torch.roll(x, shifts=shifts, dims=(2, 3))
    return torch.flip(rolled, dims=(3,)) if flip and float(torch.rand((), generator=source)) < 0.5 else rolled


@contextmanager
def _watched(model: nn.Module) -> Iterator[list[Tensor]]:
    """The attention outputs (attn V) of every block, as the model runs."""
    seen: list[Tensor] = []
    products = [module.get_submodule("av") for module in model.modules() if hasattr(module, "av")]
    hooks = [product.register_forward_hook(lambda _m, _x, out: seen.append(out)) for product in products]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()
