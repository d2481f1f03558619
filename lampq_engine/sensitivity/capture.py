"""Watching a backward sweep: each layer's inputs together with the gradient of its output, while they are there."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lampq_engine.data import Images
from lampq_engine.evaluate import device_of
from lampq_engine.journal import Report

See = Callable[[str, tuple[Tensor, ...], Tensor, int], None]


def sweep(
    model: nn.Module,
    names: Sequence[str],
    images: Images,
    see: See,
    *,
    labels: str,
    seed: int,
    batch: int,
    report: Report,
    stage: str,
) -> None:
    """One forward and backward over all images; `see(name, inputs, grad, images)` for every layer and batch.

    The loss is the summed negative log-likelihood, of the data's labels (`empirical`) or of labels drawn from the
    model's own prediction (`sampled`), so that gradients of different images never mix.
    """
    source, device, done = torch.Generator().manual_seed(seed), device_of(model), 0
    with frozen(model), _hooked(model, names, see) as size:
        for x, y in images.batches(batch):
            size[0] = len(x)
            with torch.enable_grad():
                out = model(x.to(device))
                logits = out if isinstance(out, Tensor) else sum(out) / len(out)
                target = y if labels == "empirical" else _sample(logits, source)
                F.cross_entropy(logits, target.to(device), reduction="sum").backward()
            done += len(x)
            report(stage, done, len(images))


def _sample(logits: Tensor, source: torch.Generator) -> Tensor:
    return torch.multinomial(logits.detach().softmax(1).cpu(), 1, generator=source)[:, 0]


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """Eval mode and no parameter gradients for a while."""
    training, wanted = model.training, [(p, p.requires_grad) for p in model.parameters()]
    model.eval()
    for parameter, _ in wanted:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        model.train(training)
        for parameter, requires in wanted:
            parameter.requires_grad_(requires)


@contextmanager
def _hooked(model: nn.Module, names: Sequence[str], see: See) -> Iterator[list[int]]:
    """Yields a one-element list in which the caller keeps the number of images of the current batch."""
    size = [0]

    def watch(name: str) -> None:
        def forward(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            # A leaf at the first layer starts the graph, since no parameter does.
            if not output.requires_grad:
                output.requires_grad_()
            kept = [x.detach() for x in inputs]
            output.register_hook(lambda grad: backward(kept, grad))

        def backward(kept: list[Tensor], grad: Tensor) -> None:
            with torch.no_grad():
                see(name, tuple(kept), grad, size[0])
            # A detached tensor still knows its base, and with it this hook: a cycle that would keep the whole graph.
            kept.clear()

        stack.callback(model.get_submodule(name).register_forward_hook(forward).remove)

    with ExitStack() as stack:
        for name in names:
            watch(name)
        yield size
