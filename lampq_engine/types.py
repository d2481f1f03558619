"""The nouns that flow from step to step: layers, sensitivities, allocations, evaluations. No torch in here."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, get_args

Kind = Literal["patch", "qkv", "scores", "context", "proj", "fc1", "fc2", "merge", "head", "other"]
KINDS: tuple[Kind, ...] = get_args(Kind)
TYPES: tuple[Kind, ...] = ("qkv", "proj", "fc1", "fc2")  # LampQ's four types of a block's linear layers
MATMULS: tuple[Kind, ...] = ("scores", "context")
FLOAT_BITS = 32  # a width of 32 means: left in float


class Bits(NamedTuple):
    """Bit-widths of one layer: weights and activations; for a matmul, its right and its left operand."""

    weights: int
    activations: int

    def __str__(self) -> str:
        return f"{self.weights}/{self.activations}"


@dataclass(frozen=True, slots=True)
class Layer:
    """One place of a model that can be quantized: a linear layer, a convolution or an attention matmul."""

    name: str  # module path, e.g. `blocks.0.attn.qkv`
    kind: Kind
    block: int | None  # 0-based index of the transformer block in execution order; None outside the blocks
    weights: int  # number of weight elements (bias excluded); 0 for a matmul
    channels: int  # output channels of the weight; 0 for a matmul
    bias: int  # number of bias elements
    macs: int  # multiply-accumulates for one image
    inputs: int  # elements of its quantized inputs for one image (both operands for a matmul)
    outputs: int = 0  # elements of its output for one image
    heads: int = 0  # attention heads, where the layer is a matmul or feeds one

    @property
    def is_matmul(self) -> bool:
        return self.weights == 0


@dataclass(frozen=True, slots=True)
class Cell:
    """Predicted harm of one layer at one pair of widths, with its standard error over calibration images."""

    harm: float
    error: float = 0.0


@dataclass(frozen=True)
class Sensitivity:
    """Predicted harm of every layer at every candidate pair of widths, under one metric.

    `raw` and `raw_error` hold the metric's width-free score of each layer where it has one (a Fisher trace, say).
    `notes` says how it was made: images, seed, type factors, seconds.
    """

    metric: str
    unit: str
    images: int
    cells: Mapping[str, Mapping[Bits, Cell]]
    raw: Mapping[str, float] = field(default_factory=dict)
    raw_error: Mapping[str, float] = field(default_factory=dict)
    notes: Mapping[str, object] = field(default_factory=dict)

    def harm(self, name: str, bits: Bits) -> float:
        """Harm of layer `name` at `bits`; a layer the metric does not score, or one left in float, harms nothing.

        A pair that was not scored is the sum of its two halves (weights alone, activations alone) where those
        were; otherwise `KeyError`.
        """
        row = self.cells.get(name)
        if row is None or bits == Bits(FLOAT_BITS, FLOAT_BITS):
            return 0.0
        if bits in row:
            return row[bits].harm
        halves = [Bits(bits.weights, FLOAT_BITS), Bits(FLOAT_BITS, bits.activations)]
        return sum(row[half].harm for half in halves if half != Bits(FLOAT_BITS, FLOAT_BITS))


@dataclass(frozen=True)
class Cost:
    """What an allocation costs: mean bits over the blocks' linear layers, bytes of the packed file, BOPs."""

    mean_bits: float  # parameter-weighted mean of the weight widths, LampQ's constraint
    mean_activation_bits: float  # the same mean of the activation widths, so that tied widths give equal means
    megabytes: float  # 10^6 bytes of the packed file
    gbops: float  # 10^9 bit operations an image: MACs x weight bits x activation bits


@dataclass(frozen=True)
class Solution:
    """How the solver went: its status, the objective, the proven bound on it, the relative gap, the time."""

    solver: str
    status: str  # `optimal`, `feasible` or `given` (nobody solved anything: a uniform or hand-made allocation)
    harm: float
    bound: float
    gap: float
    milliseconds: float
    binding: tuple[str, ...] = ()  # names of the budgets that bind


@dataclass(frozen=True)
class Allocation:
    """Weight and activation widths of every layer, with predicted harm, cost and how the solver went."""

    bits: Mapping[str, Bits]
    cost: Cost
    solution: Solution


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Measured loss and accuracy of a model on `images` images, with a 95 % Wilson interval of the top-1."""

    images: int
    top1: float  # percent
    top5: float  # percent
    loss: float  # mean cross-entropy, nats
    agreement: float = math.nan  # percent of images on which the float model predicts the same class
    kl: float = math.nan  # mean KL divergence from the float model's prediction, nats
    seconds: float = 0.0
    split: str = "validation"

    @property
    def interval(self) -> tuple[float, float]:
        """95 % Wilson score interval of `top1`, percent."""
        return wilson(self.top1 / 100, self.images)


def wilson(share: float, n: int, z: float = 1.959964) -> tuple[float, float]:
    """Wilson score interval, in percent, of a share seen on `n` independent trials."""
    if n == 0:
        return (0.0, 100.0)
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return (100 * max(0.0, middle - half), 100 * min(1.0, middle + half))


def in_mean(layer: Layer) -> bool:
    """Whether a layer counts towards mean bits: every linear layer of the blocks, as LampQ counts them.

    Patch embedding, head and matmuls do not count; Swin's `merge` layers do (our choice).
    """
    return layer.weights > 0 and layer.kind not in ("patch", "head")


def blocks(layers: Iterable[Layer]) -> list[int]:
    """The block indices that occur, in order."""
    return sorted({layer.block for layer in layers if layer.block is not None})
