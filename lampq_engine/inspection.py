"""What is seen of one layer or one image when looked at closely: records that a study keeps, read without torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lampq_engine.files import key_of, slug
from lampq_engine.records import decoded
from lampq_engine.store import Study
from lampq_engine.types import Bits


@dataclass(frozen=True)
class Channel:
    """One output channel of a weight: its range, its step, its quantization error."""

    index: int
    low: float
    high: float
    scale: float
    error: float  # relative squared error of the channel's weights
    share: float  # of the squared error of the whole weight


@dataclass(frozen=True)
class Operand:
    """One quantized input over the calibration images, channel by channel (its last dimension)."""

    name: str
    low: list[float]
    bulk_low: list[float]  # 1st percentile
    bulk_high: list[float]  # 99th percentile
    high: list[float]
    clip_low: float | None = None  # the quantizer's range; None in float
    clip_high: float | None = None


@dataclass(frozen=True)
class WidthError:
    """Relative squared errors at one width: of the weight, of the input, of the layer's output with both."""

    bits: int
    weight: float
    input: float
    output: float


@dataclass(frozen=True)
class LayerView:
    """One layer at chosen widths: weights on their grid, ranges of its inputs, error against width, worst channels."""

    layer: str
    bits: Bits
    images: int
    folded: bool  # whether the inputs' channels were rescaled by a fold before they are quantized
    edges: list[float]  # of the histogram of the weights; empty for a matmul
    counts: list[int]
    grid: list[float]  # levels of the channel of median range
    worst: list[Channel]  # greatest share of the error first
    inputs: list[Operand]
    errors: list[WidthError]


@dataclass(frozen=True)
class ImageView:
    """One calibration image, and where each block's attention lies on it before and after quantization."""

    index: int
    name: str
    what: str  # the widths, or the trial
    png: str  # base64
    label: int
    before: list[float]  # class and probability of the float model's prediction
    after: list[float]
    blocks: list[str]
    maps: list[list[list[list[float]]]]  # block -> before, after -> rows x columns, each summing to 1


def layer_path(study: Study, layer: str, bits: Bits) -> Path:
    """Where the view of a layer is kept."""
    return study.path / "inspections" / f"layer-{slug(layer)}-{bits.weights}-{bits.activations}.json"


def image_path(study: Study, image: int, what: str) -> Path:
    """Where the view of an image is kept; `what` is a pair of widths, such as `4/4`, or the id of a trial."""
    return study.path / "inspections" / f"image-{image}-{slug(what)}.json"


def view_key(study: Study, *what: Any) -> str:
    """What a view was made for: the weights and images of the study, and what was looked at."""
    made_of = study.provenance
    return key_of(made_of["weights_hash"], made_of["images_hash"], *what)


def layer_view(study: Study, layer: str, bits: Bits) -> LayerView | None:
    """The view of a layer, if it was made for the study as it is."""
    path, key = layer_path(study, layer, bits), view_key(study, layer, list(bits))
    return _kept(path, key, layer_of)


def image_view(study: Study, image: int, what: str) -> ImageView | None:
    """The view of an image, if it was made for the study as it is."""
    return _kept(image_path(study, image, what), view_key(study, image, what), lambda plain: ImageView(**plain))


def _kept(path: Path, key: str, of: Any) -> Any:
    def value(record: Mapping[str, Any]) -> Any:
        return of(record["value"]) if record["key"] == key else None

    return decoded(path, value) if path.is_file() else None


def layer_of(plain: Mapping[str, Any]) -> LayerView:
    return LayerView(
        **{
            **plain,
            "bits": Bits(*plain["bits"]),
            "worst": [Channel(**row) for row in plain["worst"]],
            "inputs": [Operand(**row) for row in plain["inputs"]],
            "errors": [WidthError(**row) for row in plain["errors"]],
        }
    )
